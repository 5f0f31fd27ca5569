"""Losses, weights, noise and rates against values by hand and diffusers' own."""

from __future__ import annotations

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
