"""Noise levels: the base's own, and those that end at pure noise."""

from __future__ import annotations

import pytest
import torch

from pipelines.base import Base
from pipelines.errors import ConfigError
from trainers.objective import Levels, noise_levels, zero_terminal
from trainers.settings import ObjectiveConfig

ASKED = ObjectiveConfig(zero_terminal_snr=True)


def test_they_are_the_schedulers(tiny_base: Base) -> None:
    levels = noise_levels(tiny_base, ObjectiveConfig())
    assert levels.count == 1000 and levels.prediction_type == "epsilon" and not levels.notes
    assert torch.equal(levels.signal, tiny_base.scheduler.alphas_cumprod)


def test_signal_and_ratio_by_hand(levels: Levels) -> None:
    timesteps = torch.tensor([2, 0, 1])
    assert levels.at(timesteps).shape == (3, 1, 1, 1)
    torch.testing.assert_close(levels.at(timesteps).flatten(), torch.tensor([0.2, 0.9, 0.5]))
    torch.testing.assert_close(levels.snr(timesteps), torch.tensor([0.25, 9.0, 1.0]))


def test_zero_terminal_by_hand() -> None:
    # √ᾱ = 0.9, 0.5, 0.1: moved by 0.1, times 0.9 / 0.8
    moved = zero_terminal(torch.tensor([0.81, 0.25, 0.01]))
    torch.testing.assert_close(moved, torch.tensor([0.81, 0.45**2, 0.0]))


def test_zero_terminal_is_diffusers_own(tiny_base: Base) -> None:
    from diffusers import DDIMScheduler

    tiny_base.scheduler.register_to_config(prediction_type="v_prediction")
    levels = noise_levels(tiny_base, ASKED)
    rescaled = DDIMScheduler.from_config(tiny_base.scheduler.config, rescale_betas_zero_snr=True)
    torch.testing.assert_close(levels.signal, rescaled.alphas_cumprod, atol=1e-6, rtol=1e-4)
    assert levels.signal[-1] == 0 and levels.signal[0] == tiny_base.scheduler.alphas_cumprod[0]
    assert "rescale_betas_zero_snr" in levels.notes[0]


def test_zero_terminal_is_done_once(tiny_base: Base) -> None:
    from diffusers import DDIMScheduler

    tiny_base.scheduler = DDIMScheduler.from_config(
        tiny_base.scheduler.config, rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    levels = noise_levels(tiny_base, ASKED)
    assert torch.equal(levels.signal, tiny_base.scheduler.alphas_cumprod)
    assert levels.notes == ("the base's noise levels end at pure noise already",)


def test_zero_terminal_is_refused_for_epsilon(tiny_base: Base) -> None:
    with pytest.raises(ConfigError, match="zero_terminal_snr: the base predicts epsilon"):
        noise_levels(tiny_base, ASKED)
