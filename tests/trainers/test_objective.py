"""Losses, weights, noise and rates against values by hand and diffusers' own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pipelines.base import Base
from pipelines.errors import BaseError
from trainers.objective import (
    PREDICTIONS,
    add_noise,
    draw_noise,
    draw_timesteps,
    num_timesteps,
    predict,
    signal_at,
    squared_errors,
    target,
)
from trainers.optimizers import OPTIMIZERS, SCHEDULES, rate_factor
from trainers.settings import OptimizerConfig

SHAPE = (3, 4, 8, 8)
TIMESTEPS = torch.tensor([0, 400, 999])


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


def test_noise_and_targets_are_diffusers_own(
    tiny_base: Base, drawn: tuple[torch.Tensor, torch.Tensor]
) -> None:
    latents, noise = drawn
    signal = signal_at(tiny_base, TIMESTEPS)
    scheduler: Any = tiny_base.scheduler
    torch.testing.assert_close(
        add_noise(latents, noise, signal), scheduler.add_noise(latents, noise, TIMESTEPS)
    )
    torch.testing.assert_close(
        PREDICTIONS["v_prediction"].target(latents, noise, signal),
        scheduler.get_velocity(latents, noise, TIMESTEPS),
    )
    assert PREDICTIONS["epsilon"].target(latents, noise, signal) is noise
    assert PREDICTIONS["sample"].target(latents, noise, signal) is latents


@pytest.mark.parametrize("prediction_type", list(PREDICTIONS))
def test_a_perfect_prediction_loses_nothing(
    tiny_base: Base, drawn: tuple[torch.Tensor, torch.Tensor], prediction_type: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    latents, noise = drawn
    tiny_base.scheduler.register_to_config(prediction_type=prediction_type)
    perfect = PREDICTIONS[prediction_type].target(latents, noise, signal_at(tiny_base, TIMESTEPS))
    embeddings = torch.zeros(3, 16, 32)

    class Answer:
        sample = perfect + torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1)

    monkeypatch.setattr(type(tiny_base.unet), "forward", lambda *_, **__: Answer)
    predicted = predict(tiny_base, latents, noise, TIMESTEPS, embeddings)
    losses = squared_errors(predicted, target(tiny_base, latents, noise, TIMESTEPS))
    torch.testing.assert_close(losses, torch.tensor([0.0, 1.0, 4.0]), atol=1e-5, rtol=1e-5)


def test_an_unknown_prediction_type_is_refused(
    tiny_base: Base, drawn: tuple[torch.Tensor, torch.Tensor]
) -> None:
    tiny_base.scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(BaseError, match="predicts 'flow'"):
        target(tiny_base, *drawn, TIMESTEPS)


def test_timesteps_are_uniform_and_stratified() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_timesteps(4, 1000, generator) for _ in range(2000)])  # (2000, 4)
    assert drawn.min() >= 0 and drawn.max() <= 999
    # one of each quarter in every batch, and each place in the batch sees all quarters alike
    assert (drawn.sort(dim=1).values // 250).eq(torch.arange(4)).all()
    assert torch.allclose(drawn.float().mean(dim=0), torch.tensor(499.5), atol=25)


def test_noise_offset_moves_whole_channels() -> None:
    plain = draw_noise((2, 4, 8, 8), torch.Generator().manual_seed(1))
    moved = draw_noise((2, 4, 8, 8), torch.Generator().manual_seed(1), offset=0.5)
    difference = moved - plain
    assert difference.std(dim=(2, 3)).max() < 1e-6 and difference.abs().max() > 0.1


def test_number_of_timesteps_comes_from_the_scheduler(tiny_base: Base) -> None:
    assert num_timesteps(tiny_base) == 1000


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_schedules_begin_at_one_and_never_rise(schedule: str) -> None:
    config = OptimizerConfig(schedule=schedule, warmup_steps=0)
    factors = [rate_factor(step, 50, config) for step in range(50)]
    assert factors[0] == 1.0 and factors == sorted(factors, reverse=True) and min(factors) > 0


def test_cosine_and_linear_by_hand() -> None:
    assert rate_factor(25, 100, OptimizerConfig(schedule="linear", warmup_steps=0)) == 0.75
    cosine = rate_factor(25, 100, OptimizerConfig(schedule="cosine", warmup_steps=0))
    assert math.isclose(cosine, 0.5 * (1 + math.cos(math.pi / 4)))


def test_warmup_rises_to_one_and_takes_at_most_half() -> None:
    config = OptimizerConfig(schedule="constant", warmup_steps=4)
    assert [rate_factor(step, 100, config) for step in range(6)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    assert rate_factor(2, 4, OptimizerConfig(schedule="constant", warmup_steps=1000)) == 1.0
    assert rate_factor(0, 1, config) == 1.0


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimizers_descend_and_take_each_groups_rate(name: str) -> None:
    slow, fast = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    groups = [{"params": [slow], "lr": 1e-3}, {"params": [fast], "lr": 1e-1}]
    optimizer = OPTIMIZERS[name](groups, OptimizerConfig(weight_decay=0.0))
    (slow.square().sum() + fast.square().sum()).backward()
    optimizer.step()
    assert 0 < 1 - slow[0].item() < 1 - fast[0].item() < 0.2


def test_weight_decay_reaches_the_optimizer() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = OPTIMIZERS["adamw"]([{"params": [weight], "lr": 0.1}], OptimizerConfig(weight_decay=0.5))
    weight.grad = torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2,), 0.95))
