"""Optimizers and schedules: every row takes its settings, steps down, and goes on exactly."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import trainers.optimizers
from pipelines.base import Base
from pipelines.errors import ConfigError, StudioError
from trainers.checkpoint import Checkpoint, commit
from trainers.optimizer_state import optimizer_state, restore_optimizer_state
from trainers.optimizers import (
    OPTIMIZERS,
    base_rate_scale,
    build_optimizer,
    check_installed,
    learning_groups,
    step_size,
)
from trainers.schedules import SCHEDULES, rate_factor
from trainers.settings import OptimizerConfig
from trainers.settings import optimizer as settings

Parameters = dict[str, torch.nn.Parameter]

INSTALLED = [
    name for name in OPTIMIZERS if name != "adamw8bit" or importlib.util.find_spec("bitsandbytes") is not None
]


def make_parameters() -> Parameters:
    """Two factors of a LoRA, a bias of bf16, and one that never gets a gradient."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "unet.a/b.down": torch.nn.Parameter(draw(2, 6)),
        "unet.a/b.up": torch.nn.Parameter(torch.zeros(6, 2)),
        "text.bias": torch.nn.Parameter(draw(6)),
        "text.idle": torch.nn.Parameter(draw(3, 2)),
    }


def begin(name: str, **fields: Any) -> tuple[Parameters, torch.optim.Optimizer]:
    """Parameters in two groups, and their optimizer."""
    parameters = make_parameters()
    config = OptimizerConfig(optimizer=name, **fields)
    of_unet = [one for key, one in parameters.items() if key.startswith("unet.")]
    of_text = [one for key, one in parameters.items() if key.startswith("text.")]
    rate = settings.default_rate(name, 1e-3) if config.learning_rate is None else config.learning_rate
    groups = [
        {"params": of_unet, "lr": rate, "weight_decay": 0.1, "name": "unet"},
        {"params": of_text, "lr": rate, "weight_decay": 0.0, "name": "text"},
    ]
    return parameters, build_optimizer(groups, config)


def take_steps(
    parameters: Parameters, optimizer: torch.optim.Optimizer, first: int, last: int, size: float = 1.0
) -> None:
    """Steps with gradients that depend on the step and the parameters alone."""
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for name, parameter in parameters.items():
            if name != "text.idle":
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.grad = size * (0.3 * parameter.detach() + noise)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def reload(
    parameters: Parameters, optimizer: torch.optim.Optimizer, folder: Path, name: str, **fields: Any
) -> tuple[Parameters, torch.optim.Optimizer]:
    """Through a committed checkpoint into a fresh optimizer."""
    named = {id(parameter): key for key, parameter in parameters.items()}
    values = {key: parameter.detach() for key, parameter in parameters.items()}
    path = commit(folder, 5, {"optimizer": optimizer_state(optimizer, named), "adapter": values}, {})
    saved = Checkpoint(path, 5)
    fresh, other = begin(name, **fields)
    with torch.no_grad():
        for key, tensor in saved.tensors("adapter").items():
            fresh[key].copy_(tensor)
    restore_optimizer_state(other, fresh, saved.tensors("optimizer"))
    return fresh, other


@pytest.mark.parametrize("name", INSTALLED)
def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_been(name: str, tmp_path: Path) -> None:
    whole, optimizer = begin(name)
    take_steps(whole, optimizer, 0, 10)
    parameters, optimizer = begin(name)
    start = {key: one.detach().clone() for key, one in parameters.items()}
    take_steps(parameters, optimizer, 0, 5)
    again, other = reload(parameters, optimizer, tmp_path, name)
    for group, before in zip(other.param_groups, optimizer.param_groups, strict=True):
        values, wanted = ({k: v for k, v in one.items() if k != "params"} for one in (group, before))
        assert values == wanted and [type(v) for v in values.values()] == [type(v) for v in wanted.values()]
    take_steps(again, other, 5, 10)
    for key, parameter in whole.items():
        assert torch.equal(again[key], parameter), key
        assert torch.equal(parameter, start[key]) == (key == "text.idle"), key


@pytest.mark.parametrize("name", INSTALLED)
def test_forgetting_its_state_would_be_seen(name: str) -> None:
    """The test above can only fail where the state matters."""
    whole, optimizer = begin(name)
    take_steps(whole, optimizer, 0, 10)
    parameters, optimizer = begin(name)
    take_steps(parameters, optimizer, 0, 5)
    fresh, other = begin(name)
    with torch.no_grad():
        for key, parameter in parameters.items():
            fresh[key].copy_(parameter)
    take_steps(fresh, other, 5, 10)
    assert not torch.equal(fresh["unet.a/b.down"], whole["unet.a/b.down"])


def test_every_kind_of_value_comes_back(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    shared = torch.arange(3, dtype=torch.uint8)
    kept: dict[str, Any] = {
        "half": torch.tensor([0.1, -3.0], dtype=torch.bfloat16),
        "map": shared,
        "same": shared[:2],
        "lists": [torch.tensor(2.5), None, (1, "x", True)],
        "count": 7,
        "tiny": 5e-324,
        "endless": math.inf,
    }
    optimizer = torch.optim.SGD([parameter], lr=0.1 + 0.2)
    optimizer.state[parameter] = dict(kept)
    optimizer.param_groups[0]["sums"] = torch.tensor([1 / 3], dtype=torch.float64)
    path = commit(tmp_path, 1, {"optimizer": optimizer_state(optimizer, {id(parameter): "p"})}, {})
    other = torch.optim.SGD([parameter], lr=1.0)
    restore_optimizer_state(other, {"p": parameter}, Checkpoint(path, 1).tensors("optimizer"))
    found = other.state[parameter]
    assert list(found) == list(kept)
    for name in ("half", "map", "same"):
        assert torch.equal(found[name], kept[name]) and found[name].dtype == kept[name].dtype
    assert found["lists"][0] == 2.5 and found["lists"][1:] == [None, (1, "x", True)]
    assert (found["count"], found["tiny"], found["endless"]) == (7, 5e-324, math.inf)
    assert other.param_groups[0]["lr"] == 0.1 + 0.2
    assert torch.equal(other.param_groups[0]["sums"], optimizer.param_groups[0]["sums"])


def test_the_state_of_another_optimizer_or_of_other_parameters_is_refused() -> None:
    parameters, optimizer = begin("lion")
    take_steps(parameters, optimizer, 0, 1)
    state = optimizer_state(optimizer, {id(one): key for key, one in parameters.items()})
    fresh, other = begin("adamw")
    with pytest.raises(StudioError, match="state of Lion, this run uses AdamW"):
        restore_optimizer_state(other, fresh, state)
    fresh, other = begin("lion")
    renamed = {key.replace("bias", "biases"): one for key, one in fresh.items()}
    with pytest.raises(StudioError, match="no optimizer state for some"):
        restore_optimizer_state(other, renamed, state)
    with pytest.raises(StudioError, match="no optimizer state"):
        restore_optimizer_state(other, fresh, {"text.bias/step": torch.zeros(())})


@pytest.mark.parametrize("name", INSTALLED)
def test_a_group_that_rested_begins_as_any_does(name: str) -> None:
    """Whatever an optimizer counts or finds by the group, others' steps before its own are none of it."""
    ends = []
    for rested in (0, 7):
        parameters, optimizer = begin(name)
        for one in (first := optimizer.param_groups[0]["params"]):
            one.requires_grad_(False)
        for step in range(rested):
            generator = torch.Generator().manual_seed(step)
            parameters["text.bias"].grad = torch.randn(6, generator=generator)
            with learning_groups(optimizer):
                optimizer.step()
        for one in first:
            one.requires_grad_(True)
        for key in ("text.bias", "text.idle"):
            parameters[key].requires_grad_(False).grad = None
        assert step_size(optimizer) == optimizer.param_groups[0]["lr"] * optimizer.param_groups[0].get("d", 1)
        for step in range(5):
            for index, one in enumerate(first):
                generator = torch.Generator().manual_seed(100 + 2 * step + index)
                one.grad = torch.randn(one.shape, generator=generator)
            with learning_groups(optimizer):
                optimizer.step()
        assert len(optimizer.param_groups) == 2
        ends.append([one.detach().clone() for one in first])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


@pytest.mark.parametrize("name", INSTALLED)
def test_optimizers_descend_at_their_own_rate(name: str) -> None:
    target = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    parameters = make_parameters()
    down, up = parameters["unet.a/b.down"], parameters["unet.a/b.up"]
    config = OptimizerConfig(optimizer=name, learning_rate=settings.OPTIMIZERS[name].learning_rate or 0.02)
    assert config.learning_rate is not None
    rate = config.learning_rate * settings.rate_scale(name)
    optimizer = build_optimizer([{"params": [down, up], "lr": rate}], config)
    losses = []
    for step in range(100):
        optimizer.param_groups[0]["lr"] = rate * rate_factor(step, 100, config)
        loss = (up @ down - target).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.parametrize("name", INSTALLED)
def test_each_groups_rate_and_decay_are_honoured(name: str) -> None:
    finds_itself = settings.OPTIMIZERS[name].learning_rate is not None

    def moved(rate: float, decay: float) -> torch.Tensor:
        # What finds its rate begins with steps that single precision can't tell apart.
        parameter = torch.nn.Parameter(torch.ones(4, 4).to(torch.float64 if finds_itself else torch.float32))
        config = OptimizerConfig(optimizer=name, weight_decay=0.9)
        optimizer = build_optimizer([{"params": [parameter], "lr": rate, "weight_decay": decay}], config)
        for step in range(12):
            parameter.grad = torch.full_like(parameter, 1e-3 * (1 + step % 2))
            optimizer.step()
        return 1.0 - parameter.detach()

    plain, fast, pulled = moved(1e-3, 0.0), moved(2e-3, 0.0), moved(1e-3, 0.5)
    assert (fast > plain).all() and (plain > 0).all() and (pulled > plain).all()


@pytest.mark.parametrize("name", INSTALLED)
def test_options_reach_the_optimizer(name: str) -> None:
    values = {"beta1": 0.7, "beta2": 0.8, "beta3": 0.85, "eps": 1e-2, "d_coef": 2.0}
    for option in settings.OPTIMIZERS[name].reads:
        ends = []
        for fields in ({}, {option: values[option]}):
            parameters, optimizer = begin(name, **fields)
            take_steps(parameters, optimizer, 0, 40, size=0.01)
            ends.append(parameters["text.bias" if option != "beta3" else "unet.a/b.down"].detach())
        assert not torch.equal(*ends), option


def test_adamw_by_hand() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    config = OptimizerConfig(weight_decay=0.5)
    optimizer = build_optimizer([{"params": [weight], "lr": 0.1}], config)
    weight.grad = torch.tensor([0.0, 4.0])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.95, 0.85]))


def test_adafactor_moves_a_fresh_adapters_zeros() -> None:
    zeros = torch.nn.Parameter(torch.zeros(3, 3))
    config = OptimizerConfig(optimizer="adafactor")
    optimizer = build_optimizer([{"params": [zeros], "lr": 0.1}], config)
    zeros.grad = torch.full((3, 3), 1e-3)
    optimizer.step()
    torch.testing.assert_close(zeros.detach(), torch.full((3, 3), -0.1))


def test_one_rate_for_all_where_it_finds_its_own() -> None:
    config = OptimizerConfig(optimizer="prodigy")
    groups = [
        {"params": [one], "lr": rate} for one, rate in zip(make_parameters().values(), (1, 0.5), strict=False)
    ]
    with pytest.raises(ConfigError, match="one learning rate for all, got 2"):
        build_optimizer(groups, config)
    assert config.learning_rate == 1.0


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers.optimizers, "is_installed", lambda package: False)
    check_installed(OptimizerConfig())
    with pytest.raises(ConfigError, match="needs bitsandbytes"):
        build_optimizer(
            [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1}],
            OptimizerConfig(optimizer="adamw8bit"),
        )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizer": "lion", "eps": 1e-5}, "eps has no effect with optimizer 'lion'"),
        ({"d_coef": 2.0}, "d_coef has no effect with optimizer 'adamw'; leave it out, or choose 'prodigy'"),
        ({"beta3": 0.9}, "beta3 has no effect"),
        ({"restarts": 5}, "restarts has no effect with schedule 'cosine'"),
        ({"schedule_power": 3.0}, "choose 'polynomial'"),
        ({"optimizer": "prodigy", "learning_rate": 1e-3}, "only a factor with optimizer 'prodigy'"),
        ({"optimizer": "prodigy", "text_learning_rate": 0.5}, "one rate for all"),
        ({"optimizer": "schedule_free_adamw", "schedule": "cosine"}, "set schedule to 'constant'"),
        ({"optimizer": "schedule_free_adamw", "ema_decay": 0.9}, "averages by itself"),
        ({"optimizer": "schedule_free_adamw", "beta1": 0.0}, "nothing to average; use 0.9"),
    ],
)
def test_what_would_have_no_effect_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        OptimizerConfig(**fields)


def test_what_is_not_said_is_what_the_optimizer_is_made_for() -> None:
    assert OptimizerConfig(optimizer="schedule_free_adamw").schedule == "constant"
    assert OptimizerConfig(optimizer="prodigy", learning_rate=None).learning_rate == 1.0
    for name in settings.OPTIMIZER_NAMES:
        config = OptimizerConfig(optimizer=name)
        assert OptimizerConfig.model_validate(config.model_dump()) == config


def test_names_in_settings_are_the_tables_keys() -> None:
    assert tuple(OPTIMIZERS) == settings.OPTIMIZER_NAMES
    assert tuple(SCHEDULES) == settings.SCHEDULE_NAMES


def test_rates_that_are_not_given() -> None:
    assert settings.default_rate("adamw", 1e-4) == 1e-4
    assert settings.default_rate("lion", 1e-4) == pytest.approx(2e-5)
    assert settings.default_rate("prodigy", 1e-4) == 1.0


def test_the_size_of_a_step_is_told() -> None:
    _, adamw = begin("adamw", learning_rate=3e-3)
    assert step_size(adamw) == 3e-3
    parameters, prodigy = begin("prodigy", learning_rate=0.5)
    for _ in range(200):
        parameters["text.bias"].grad = torch.ones(6)
        prodigy.step()
    assert step_size(prodigy) == 0.5 * prodigy.param_groups[0]["d"] > 1e-6


def test_narrow_bases_take_larger_steps(tiny_base: Base) -> None:
    assert base_rate_scale(tiny_base) == 20.0
    tiny_base.unet.register_to_config(block_out_channels=(320, 640))
    assert base_rate_scale(tiny_base) == 1.0


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_schedules_begin_at_one_and_stay_above_nothing(schedule: str) -> None:
    config = OptimizerConfig(schedule=schedule, warmup_steps=0)
    factors = [rate_factor(step, 50, config) for step in range(50)]
    assert factors[0] == 1.0 and min(factors) > 0 and max(factors) == 1.0
    if schedule != "cosine_restarts":
        assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "linear"}, 0.75),
        ({"schedule": "cosine"}, 0.5 * (1 + math.cos(math.pi / 4))),
        ({"schedule": "polynomial"}, 0.75**2),
        ({"schedule": "polynomial", "schedule_power": 0.5}, 0.75**0.5),
        ({"schedule": "cosine_restarts", "restarts": 2}, 0.5),  # a quarter of the run: half of the first fall
        ({"schedule": "cosine_restarts", "restarts": 4}, 1.0),
    ],
)
def test_schedules_by_hand(fields: dict[str, Any], expected: float) -> None:
    assert math.isclose(rate_factor(25, 100, OptimizerConfig(**fields, warmup_steps=0)), expected)


def test_warmup_rises_to_one_and_takes_at_most_half() -> None:
    config = OptimizerConfig(schedule="constant", warmup_steps=4)
    assert [rate_factor(step, 100, config) for step in range(6)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    assert rate_factor(2, 4, OptimizerConfig(schedule="constant", warmup_steps=1000)) == 1.0
    assert rate_factor(0, 1, config) == 1.0
