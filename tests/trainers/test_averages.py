"""Averages: what they are by hand, and that nothing of them stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.errors import StudioError
from trainers.averages import Averages
from trainers.checkpoint import Checkpoint, commit
from trainers.optimizers import build_optimizer, learning_groups
from trainers.settings import OptimizerConfig

Parameters = dict[str, torch.nn.Parameter]


def begin(config: OptimizerConfig) -> tuple[Parameters, torch.optim.Optimizer, Averages]:
    parameters = {name: torch.nn.Parameter(torch.full((3,), 1.0)) for name in ("a", "b", "idle")}
    groups = [
        {"params": [parameters["a"], parameters["idle"]], "lr": 0.1},
        {"params": [parameters["b"]], "lr": 0.2},
    ]
    optimizer = build_optimizer(groups, config)
    return parameters, optimizer, Averages(parameters, optimizer, config)


def take_steps(
    parameters: Parameters, optimizer: torch.optim.Optimizer, averages: Averages, first: int, last: int
) -> None:
    for step in range(first, last):
        for name in ("a", "b"):
            generator = torch.Generator().manual_seed(step)
            parameters[name].grad = torch.randn(3, generator=generator) + 0.5
        optimizer.step()
        averages.after_step()


def values(parameters: Parameters) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in parameters.items()}


def test_the_moving_average_by_hand() -> None:
    config = OptimizerConfig(ema_decay=0.15)
    parameters, _, averages = begin(config)
    for value in (2.0, 4.0):
        with torch.no_grad():
            parameters["a"].fill_(value)
        averages.after_step()
    with averages.applied():
        # decays of 1/10 and min(0.15, 2/11): 0.1 · 1 + 0.9 · 2 = 1.9, then 0.15 · 1.9 + 0.85 · 4
        torch.testing.assert_close(parameters["a"].detach(), torch.full((3,), 3.685))
        assert torch.equal(parameters["b"].detach(), torch.ones(3))
    assert torch.equal(parameters["a"].detach(), torch.full((3,), 4.0))


def test_the_moving_average_is_diffusers_own() -> None:
    from diffusers.training_utils import EMAModel

    parameters, optimizer, averages = begin(OptimizerConfig(ema_decay=0.5))
    theirs = EMAModel(parameters.values(), decay=0.5)
    for step in range(20):
        take_steps(parameters, optimizer, averages, step, step + 1)
        theirs.step(parameters.values())
    with averages.applied():
        for parameter, shadow in zip(parameters.values(), theirs.shadow_params, strict=True):
            torch.testing.assert_close(parameter.detach(), shadow)


def test_the_schedule_free_average_is_what_its_optimizer_evaluates() -> None:
    parameters, optimizer, averages = begin(OptimizerConfig(optimizer="schedule_free_adamw", beta1=0.8))
    take_steps(parameters, optimizer, averages, 0, 7)
    with averages.applied():
        found = values(parameters)
    before = values(parameters)
    optimizer.eval()  # type: ignore[attr-defined]
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.detach())
        assert torch.equal(found[name], before[name]) == (name == "idle")


@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(ema_decay=0.9),
        OptimizerConfig(optimizer="schedule_free_adamw"),
        OptimizerConfig(),
    ],
    ids=["moving", "schedule_free", "none"],
)
def test_looking_at_it_changes_nothing(config: OptimizerConfig) -> None:
    plain, optimizer, averages = begin(config)
    take_steps(plain, optimizer, averages, 0, 9)
    looked, optimizer, averages = begin(config)
    with averages.applied():  # before the first step there is nothing to average
        assert all(torch.equal(one.detach(), torch.ones(3)) for one in looked.values())
    for step in range(9):
        take_steps(looked, optimizer, averages, step, step + 1)
        with pytest.raises(RuntimeError, match="preview"), averages.applied():
            raise RuntimeError("a preview failed")
    assert all(torch.equal(plain[name], looked[name]) for name in plain)
    with averages.applied():
        moved = not torch.equal(looked["a"], plain["a"])
    assert moved == bool(config.ema_decay or config.optimizer != "adamw")


def test_the_moving_average_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    config = OptimizerConfig(
        optimizer="lion", beta1=0.0, beta2=0.0, ema_decay=0.95
    )  # an optimizer that forgets
    whole, optimizer, averages = begin(config)
    take_steps(whole, optimizer, averages, 0, 10)
    with averages.applied():
        expected = values(whole)
    parameters, optimizer, averages = begin(config)
    take_steps(parameters, optimizer, averages, 0, 5)
    path = commit(tmp_path, 5, {"averages": averages.state(), "adapter": values(parameters)}, {})
    fresh, optimizer, again = begin(config)
    with torch.no_grad():
        for name, value in Checkpoint(path, 5).tensors("adapter").items():
            fresh[name].copy_(value)
    again.load(Checkpoint(path, 5).tensors("averages"))
    take_steps(fresh, optimizer, again, 5, 10)
    with again.applied():
        assert all(torch.equal(fresh[name].detach(), value) for name, value in expected.items())


@pytest.mark.parametrize(
    "config", [OptimizerConfig(ema_decay=0.9), OptimizerConfig(optimizer="schedule_free_adamw")]
)
def test_what_stops_learning_is_held_at_its_average(config: OptimizerConfig) -> None:
    """And what begins to learn then is averaged as if the run had begun there."""
    parameters, optimizer, averages = begin(config)
    parameters["b"].requires_grad_(False)
    for step in range(6):
        parameters["a"].grad = torch.randn(3, generator=torch.Generator().manual_seed(step)) + 0.5
        with learning_groups(optimizer):
            optimizer.step()
        averages.after_step()
    before = values(parameters)
    with averages.applied():
        kept = values(parameters)
    assert not torch.equal(kept["a"], before["a"])
    parameters["a"].requires_grad_(False).grad = None
    averages.hold(["a"])
    averages.hold(["a"])  # as after a resume
    assert torch.equal(parameters["a"], kept["a"])
    parameters["b"].requires_grad_(True)
    fresh, other, again = begin(config)
    for step in range(3):
        for one, rule, average in ((parameters, optimizer, averages), (fresh, other, again)):
            one["b"].grad = torch.randn(3, generator=torch.Generator().manual_seed(9 + step))
            with learning_groups(rule):
                rule.step()
            average.after_step()
    with averages.applied(), again.applied():
        assert torch.equal(parameters["b"], fresh["b"])
        assert torch.equal(parameters["a"], kept["a"])


def test_the_average_forgets_what_was_pruned() -> None:
    parameters, _, averages = begin(OptimizerConfig(ema_decay=0.9))
    averages.after_step({"a": torch.tensor([True, False, True])})
    with averages.applied():
        assert parameters["a"].tolist() == [0.0, 1.0, 0.0] and parameters["b"].tolist() == [1.0] * 3


def test_averages_of_other_settings_are_refused() -> None:
    _, _, moving = begin(OptimizerConfig(ema_decay=0.9))
    _, _, none = begin(OptimizerConfig())
    assert none.state() == {}
    none.load({})
    with pytest.raises(StudioError, match="other averages"):
        none.load(moving.state())
    with pytest.raises(StudioError, match="other averages"):
        moving.load({})
