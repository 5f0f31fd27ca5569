"""What the UNet is asked for, and how far off it is: one loss per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from pipelines.errors import BaseError
from trainers.settings import ObjectiveConfig
from trainers.weighting import WEIGHTINGS, signal_to_noise

if TYPE_CHECKING:
    from pipelines.base import Base

Target = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents (B, C, h, w), noise (B, C, h, w), ᾱ (B, 1, 1, 1)) → what the UNet should return."""

PREDICTIONS: dict[str, Target] = {
    "epsilon": lambda latents, noise, signal: noise,
    # Salimans & Ho 2022, https://arxiv.org/abs/2202.00512, appendix D
    "v_prediction": lambda latents, noise, signal: signal.sqrt() * noise - (1.0 - signal).sqrt() * latents,
    "sample": lambda latents, noise, signal: latents,
}
"""By the prediction type that the scheduler's config names."""


def add_noise(latents: torch.Tensor, noise: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """Return √ᾱ · latents + √(1 − ᾱ) · noise, (B, C, h, w); signal: ᾱ (B, 1, 1, 1).

    Source: Ho et al. 2020, https://arxiv.org/abs/2006.11239, equation 4.
    """
    return signal.sqrt() * latents + (1.0 - signal).sqrt() * noise


def signal_at(base: Base, timesteps: torch.Tensor) -> torch.Tensor:
    """Return ᾱ at `timesteps` (B,) as fp32 (B, 1, 1, 1)."""
    alphas: torch.Tensor = base.scheduler.alphas_cumprod
    return alphas.to(timesteps.device)[timesteps].float().reshape(-1, 1, 1, 1)


def num_timesteps(base: Base) -> int:
    """Number of noise levels that the base was trained on."""
    return int(base.scheduler.config["num_train_timesteps"])


def predict(
    base: Base, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor
) -> torch.Tensor:
    """Return what the UNet predicts for noised latents, fp32 (B, C, h, w).

    latents, noise: fp32 (B, C, h, w). timesteps: (B,). embeddings: (B, L, D).
    """
    noisy = add_noise(latents, noise, signal_at(base, timesteps)).to(base.unet.dtype)
    predicted: torch.Tensor = base.unet(noisy, timesteps, embeddings.to(base.unet.dtype)).sample
    return predicted.float()


def target(base: Base, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Return what the UNet should predict for noised latents, (B, C, h, w).

    Raises: BaseError where the scheduler names a prediction type that isn't in PREDICTIONS.
    """
    if base.prediction_type not in PREDICTIONS:
        known = ", ".join(PREDICTIONS)
        raise BaseError(
            f"base predicts {base.prediction_type!r}, expected one of {known}; choose another base"
        )
    return PREDICTIONS[base.prediction_type](latents, noise, signal_at(base, timesteps))


def squared_errors(predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of each sample, (B,), of two (B, C, h, w)."""
    return (predicted - wanted).square().mean(dim=(1, 2, 3))


def weights(base: Base, timesteps: torch.Tensor, objective: ObjectiveConfig) -> torch.Tensor:
    """Return how much each sample counts by its noise level, fp32 (B,)."""
    alphas: torch.Tensor = base.scheduler.alphas_cumprod
    snr = signal_to_noise(alphas, timesteps)
    return WEIGHTINGS[objective.weighting](snr, base.prediction_type, objective)


def draw_noise(shape: tuple[int, ...], generator: torch.Generator, offset: float = 0.0) -> torch.Tensor:
    """Draw fp32 noise of `shape` (B, C, h, w) on the generator's device.

    offset: standard deviation of what is added to a whole channel.
    Source of the offset: https://www.crosslabs.org/blog/diffusion-with-offset-noise
    """
    noise = torch.randn(shape, generator=generator, device=generator.device)
    if offset:
        noise = noise + offset * torch.randn((*shape[:2], 1, 1), generator=generator, device=generator.device)
    return noise


def draw_timesteps(count: int, total: int, generator: torch.Generator) -> torch.Tensor:
    """Draw `count` timesteps in [0, total), int64 (count,): uniform, one from each of `count` equal strata.

    Each is uniform by itself; together they are spread, so that a small batch's loss varies less.
    Source: Kingma et al. 2021, https://arxiv.org/abs/2107.00630, appendix I.1 (there with one shared
    offset; here each stratum has its own, and the strata are shuffled over the batch).
    """
    order = torch.randperm(count, generator=generator, device=generator.device)
    inside = torch.rand(count, generator=generator, device=generator.device)
    return ((order + inside) * (total / count)).long().clamp(max=total - 1)
