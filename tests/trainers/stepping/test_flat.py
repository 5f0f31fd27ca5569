"""Buffers change how an optimizer's numbers lie, not what they come to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trainers.optimizer_state import optimizer_state, restore_optimizer_state
from trainers.optimizers import OPTIMIZERS, build_optimizer
from trainers.settings import OptimizerConfig
from trainers.stepping.flat import Flat, reached
from trainers.stepping.gradients import Loose, Standing

ELEMENTWISE = [name for name, row in OPTIMIZERS.items() if row.elementwise]


def make(seed: int = 0) -> dict[str, nn.Parameter]:
    """Parameters of several shapes; nothing reaches "idle"."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 5), "b": (7,), "idle": (4,), "c": (2, 3, 1, 1), "d": (1,)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def loss_of(parameters: dict[str, nn.Parameter], step: int) -> torch.Tensor:
    """A loss with another gradient at each step."""
    parts = [((p * (i + 1)).sin() * (step + 1)).sum() for i, p in enumerate(parameters.values()) if p.dim()]
    return torch.stack([part for part, name in zip(parts, parameters, strict=True) if name != "idle"]).sum()


def optimizer_of(parameters: dict[str, nn.Parameter], name: str) -> torch.optim.Optimizer:
    first, second = [parameters[n] for n in ("a", "idle", "b")], [parameters[n] for n in ("c", "d")]
    groups = [
        {"params": first, "lr": 0.01, "weight_decay": 0.1},
        {"params": second, "lr": 0.02, "weight_decay": 0.0},
    ]
    return build_optimizer(groups, OptimizerConfig(optimizer=name))


def step(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, at: int) -> None:
    loss_of(parameters, at).backward()
    optimizer.step()


def kept(optimizer: Any, parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """An optimizer's state as it would lie in a file."""
    state = optimizer_state(optimizer, {id(p): key for key, p in parameters.items()})
    return {key: value.clone() for key, value in state.items()}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_steps_are_those_without_buffers_and_states_are_exchanged(name: str) -> None:
    plain, flat = make(), make()
    one, other = optimizer_of(plain, name), optimizer_of(flat, name)
    buffers: Flat | None = None
    for at in range(4):
        step(plain, one, at)
        one.zero_grad(set_to_none=True)
        loss = loss_of(flat, at)
        if buffers is None:
            buffers = Flat(other, reached(loss))
        loss.backward()
        other.step()
        buffers.zero()
    assert buffers is not None and len(buffers.parameters) == 2
    for key in plain:
        torch.testing.assert_close(flat[key], plain[key])
    assert torch.equal(flat["idle"], make()["idle"])  # it would have decayed in a buffer

    # what was saved with buffers goes on without them, and the other way round
    saved = kept(buffers.spread(), flat)
    expected = kept(one, plain)
    assert saved.keys() == expected.keys()
    resumed = {key: nn.Parameter(p.detach().clone()) for key, p in plain.items()}
    third = optimizer_of(resumed, name)
    restore_optimizer_state(third, resumed, saved)
    step(resumed, third, 4)
    again = {key: nn.Parameter(p.detach().clone()) for key, p in plain.items()}
    fourth = optimizer_of(again, name)
    restore_optimizer_state(fourth, again, expected)
    loss = loss_of(again, 4)
    assert len(Flat(fourth, reached(loss)).parameters) == 2
    loss.backward()
    fourth.step()
    step(plain, one, 4)
    for key in plain:
        torch.testing.assert_close(resumed[key], plain[key])
        torch.testing.assert_close(again[key], plain[key])


def test_gradients_that_are_there_already_count() -> None:
    parameters = make()
    optimizer = optimizer_of(parameters, "adamw")
    loss_of(parameters, 0).backward()
    before = {key: p.grad.clone() for key, p in parameters.items() if p.grad is not None}
    buffers = Flat(optimizer, {id(p) for key, p in parameters.items() if key != "idle"})
    assert all(torch.equal(parameters[key].grad, value) for key, value in before.items())  # type: ignore[arg-type]
    buffers.zero()
    assert all(not parameters[key].grad.any() for key in before)  # type: ignore[union-attr]


def test_standing_gradients_stay_where_they_are() -> None:
    parameters = make()
    optimizer = optimizer_of(parameters, "adafactor")
    loss = loss_of(parameters, 0)
    standing = Standing(optimizer, list(parameters.values()), reached(loss))
    places = [p.grad.data_ptr() for p in standing.parameters]  # type: ignore[union-attr]
    loss.backward()
    assert parameters["idle"].grad is None
    assert all(p.grad is not None and p.grad.any() for p in standing.parameters)
    standing.zero()
    assert places == [p.grad.data_ptr() for p in standing.parameters]  # type: ignore[union-attr]
    assert not any(p.grad.any() for p in standing.parameters)  # type: ignore[union-attr]
    assert standing.spread() is optimizer
    Loose(optimizer, list(parameters.values())).zero()
    assert all(p.grad is None for p in parameters.values())
