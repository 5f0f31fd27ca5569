"""What the UNet is given, and what it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipelines.errors import BaseError
from trainers.objective.levels import Levels

if TYPE_CHECKING:
    from pipelines.base import Base
    from pipelines.conditioning import Conditioning

Target = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents (B, C, h, w), noise (B, C, h, w), ᾱ (B, 1, 1, 1)) → what the UNet should return."""


@dataclass(frozen=True)
class Prediction:
    """One way in which a UNet says what it sees.

    target: what it should return. noise_error: signal-to-noise ratio (B,) → what the squared error of that
    is to be multiplied with to be the squared error of the noise, (B,).
    """

    target: Target
    noise_error: Callable[[torch.Tensor], torch.Tensor]


def velocity(latents: torch.Tensor, noise: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """Return √ᾱ · noise − √(1 − ᾱ) · latents.

    Source: Salimans & Ho 2022, https://arxiv.org/abs/2202.00512, appendix D.
    """
    return signal.sqrt() * noise - (1.0 - signal).sqrt() * latents


PREDICTIONS: dict[str, Prediction] = {
    "epsilon": Prediction(lambda latents, noise, signal: noise, torch.ones_like),
    # ‖v − v̂‖² = (SNR + 1) ‖x − x̂‖² and ‖ε − ε̂‖² = SNR ‖x − x̂‖²: Salimans & Ho 2022, section 4
    "v_prediction": Prediction(velocity, lambda snr: snr / (snr + 1.0)),
    "sample": Prediction(lambda latents, noise, signal: latents, lambda snr: snr),
}
"""By the prediction type that the scheduler's config names."""


def prediction_of(levels: Levels) -> Prediction:
    """Return the row of PREDICTIONS. Raises: BaseError where there is none."""
    if levels.prediction_type not in PREDICTIONS:
        known = ", ".join(PREDICTIONS)
        raise BaseError(
            f"base predicts {levels.prediction_type!r}, expected one of {known}; choose another base"
        )
    return PREDICTIONS[levels.prediction_type]


def add_noise(latents: torch.Tensor, noise: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """Return √ᾱ · latents + √(1 − ᾱ) · noise, (B, C, h, w); signal: ᾱ (B, 1, 1, 1).

    Source: Ho et al. 2020, https://arxiv.org/abs/2006.11239, equation 4.
    """
    return signal.sqrt() * latents + (1.0 - signal).sqrt() * noise


def predict(
    base: Base,
    levels: Levels,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    told: Conditioning,
    frames: torch.Tensor,
) -> torch.Tensor:
    """Return what the UNet predicts for noised latents, fp32 (B, C, h, w).

    latents, noise: fp32 (B, C, h, w); the noise may be another than the target's (input perturbation).
    timesteps: (B,). told: B prompts. frames: (B, 6), what is cut from which picture, in pixels.
    """
    noisy = add_noise(latents, noise, levels.at(timesteps)).to(base.unet.dtype)
    predicted: torch.Tensor = base.unet(noisy, timesteps, **told.arguments_for(frames)).sample
    return predicted.float()


def target(
    levels: Levels, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Return what the UNet should predict for noised latents, (B, C, h, w).

    Raises: BaseError where the scheduler names a prediction type that isn't in PREDICTIONS.
    """
    return prediction_of(levels).target(latents, noise, levels.at(timesteps))
