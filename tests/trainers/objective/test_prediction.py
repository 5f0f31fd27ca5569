"""What the UNet is given and asked for, against diffusers' own, for all families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.base import Base, load_base
from pipelines.errors import BaseError
from pipelines.families import FAMILIES
from trainers.objective import PREDICTIONS, Levels, add_noise, noise_levels, predict, squared_errors, target
from trainers.settings import ObjectiveConfig

SHAPE = (3, 4, 8, 8)
TIMESTEPS = torch.tensor([0, 400, 999])
FRAMES = torch.tensor([[40, 32, 4, 0, 16, 16], [16, 16, 0, 0, 16, 16], [99, 50, 0, 7, 16, 16]])


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


def test_noise_and_targets_are_diffusers_own(
    tiny_base: Base, drawn: tuple[torch.Tensor, torch.Tensor]
) -> None:
    latents, noise = drawn
    signal = noise_levels(tiny_base, ObjectiveConfig()).at(TIMESTEPS)
    scheduler: Any = tiny_base.scheduler
    torch.testing.assert_close(
        add_noise(latents, noise, signal), scheduler.add_noise(latents, noise, TIMESTEPS)
    )
    velocity = PREDICTIONS["v_prediction"].target(latents, noise, signal)
    torch.testing.assert_close(velocity, scheduler.get_velocity(latents, noise, TIMESTEPS))
    assert PREDICTIONS["epsilon"].target(latents, noise, signal) is noise
    assert PREDICTIONS["sample"].target(latents, noise, signal) is latents


@pytest.mark.parametrize("prediction_type", list(PREDICTIONS))
def test_errors_are_told_in_those_of_the_noise(
    levels: Levels, drawn: tuple[torch.Tensor, torch.Tensor], prediction_type: str
) -> None:
    """A picture taken for another: whatever is predicted, the same mistake in the noise."""
    latents, noise = drawn
    timesteps = torch.tensor([0, 1, 2])
    signal = levels.at(timesteps)
    noisy = add_noise(latents, noise, signal)
    wrong = latents + 0.3
    wrong_noise = (noisy - signal.sqrt() * wrong) / (1 - signal).sqrt()
    row = PREDICTIONS[prediction_type]
    errors = squared_errors(row.target(wrong, wrong_noise, signal), row.target(latents, noise, signal))
    expected = squared_errors(wrong_noise, noise)
    torch.testing.assert_close(errors * row.noise_error(levels.snr(timesteps)), expected)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_unet_is_told_all_that_its_family_takes(
    tiny_folders: dict[str, Path], drawn: tuple[torch.Tensor, torch.Tensor], family: str
) -> None:
    base = load_base(tiny_folders[family], device="cpu")
    levels = noise_levels(base, ObjectiveConfig())
    with torch.no_grad():
        told = base.condition(["a", "cat", "on grass"])
        found = predict(base, levels, *drawn, TIMESTEPS, told, FRAMES)
        arguments: dict[str, Any] = {"encoder_hidden_states": told.hidden}
        if told.pooled is not None:
            arguments["added_cond_kwargs"] = {"text_embeds": told.pooled, "time_ids": FRAMES.float()}
        noisy = base.scheduler.add_noise(*drawn, TIMESTEPS)
        expected = base.unet(noisy, TIMESTEPS, **arguments).sample
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction_type", list(PREDICTIONS))
def test_a_perfect_prediction_loses_nothing(
    tiny_base: Base, drawn: tuple[torch.Tensor, torch.Tensor], prediction_type: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tiny_base.scheduler.register_to_config(prediction_type=prediction_type)
    levels = noise_levels(tiny_base, ObjectiveConfig())
    perfect = PREDICTIONS[prediction_type].target(*drawn, levels.at(TIMESTEPS))

    class Answer:
        sample = perfect + torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1)

    monkeypatch.setattr(type(tiny_base.unet), "forward", lambda *_, **__: Answer)
    predicted = predict(tiny_base, levels, *drawn, TIMESTEPS, tiny_base.condition(["a", "b", "c"]), FRAMES)
    losses = squared_errors(predicted, target(levels, *drawn, TIMESTEPS))
    torch.testing.assert_close(losses, torch.tensor([0.0, 1.0, 4.0]), atol=1e-5, rtol=1e-5)


def test_an_unknown_prediction_type_is_refused(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(BaseError, match="predicts 'flow'"):
        target(Levels(torch.full((1000,), 0.5), "flow"), *drawn, TIMESTEPS)
