"""How far off a prediction is: one loss per sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional

from trainers.objective.levels import Levels
from trainers.settings import ObjectiveConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(error (B, C, h, w), where it turns from squared to absolute (B, 1, 1, 1)) → loss of each number."""


def mse(error: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
    """Squared error. Source: Ho et al. 2020, https://arxiv.org/abs/2006.11239, equation 14."""
    return error.square()


def huber(error: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
    """Pseudo-Huber: 2c (√(e² + c²) − c). Small errors count squared, large ones in proportion.

    Source: Khrapov et al. 2024, https://arxiv.org/abs/2403.16728, times 2, so that it is the squared error
    for small e, as in their implementation, https://github.com/kohya-ss/sd-scripts/pull/1228.
    """
    return 2.0 * corner * ((error.square() + corner.square()).sqrt() - corner)


def smooth_l1(error: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
    """Pseudo-Huber over c: 2 (√(e² + c²) − c), twice the absolute error for large e, whatever c is.

    Source: as `huber`; Girshick 2015, https://arxiv.org/abs/1504.08083, equation 3, made smooth.
    """
    return 2.0 * ((error.square() + corner.square()).sqrt() - corner)


def log_cosh(error: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
    """2 log cosh e: the squared error for small e, twice the absolute one for large e.

    Source: Saleh & Saleh 2022, https://arxiv.org/abs/2208.04564, times 2; written so that nothing
    overflows.
    """
    size = error.abs()
    return 2.0 * (size + functional.softplus(-2.0 * size) - math.log(2.0))


LOSSES: dict[str, Loss] = {"mse": mse, "huber": huber, "smooth_l1": smooth_l1, "log_cosh": log_cosh}

HUBER_SCHEDULES: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "constant": lambda share, signal, c: torch.full_like(share, c),
    # Khrapov et al. 2024, the exponential schedule: from 1 at the clean end to c at the noisy one
    "exponential": lambda share, signal, c: torch.exp(math.log(c) * share),
    # their implementation, https://github.com/kohya-ss/sd-scripts/pull/1228: (1 − c) / (1 + σ)² + c with
    # σ = √((1 − ᾱ) / ᾱ), written so that ᾱ = 0 gives c
    "snr": lambda share, signal, c: (1.0 - c) * signal / (signal.sqrt() + (1.0 - signal).sqrt()).square() + c,
}
"""(t / T (B,), ᾱ (B,), c) → the Huber loss's corner of each sample (B,)."""


def huber_corner(levels: Levels, timesteps: torch.Tensor, objective: ObjectiveConfig) -> torch.Tensor:
    """Return where the Huber loss of each sample turns from squared to absolute, fp32 (B,)."""
    share = timesteps.float() / levels.count
    signal = levels.at(timesteps).flatten()
    return HUBER_SCHEDULES[objective.huber_schedule](share, signal, objective.huber_c)


def sample_losses(
    predicted: torch.Tensor,
    wanted: torch.Tensor,
    mask: torch.Tensor | None,
    levels: Levels,
    timesteps: torch.Tensor,
    objective: ObjectiveConfig,
) -> torch.Tensor:
    """Return the loss of each sample, fp32 (B,), of predictions (B, C, h, w).

    mask: (B, 1, h, w), how much each place counts, at least 0; None: all the same. A sample's loss is the
    mean over what counts, so that a small subject weighs as much as a large one.
    """
    corner = huber_corner(levels, timesteps, objective).reshape(-1, 1, 1, 1)
    losses = LOSSES[objective.loss](predicted - wanted, corner)  # (B, C, h, w)
    return masked_mean(losses, mask)


def masked_mean(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return each sample's mean (B,) of (B, C, h, w), weighted by a mask (B, 1, h, w); 0 where it is."""
    if mask is None:
        return values.mean(dim=(1, 2, 3))
    counted = mask.sum(dim=(1, 2, 3)) * values.shape[1]
    return (values * mask).sum(dim=(1, 2, 3)) / counted.clamp(min=1e-6)


def squared_errors(predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of each sample, (B,), of two (B, C, h, w)."""
    return (predicted - wanted).square().mean(dim=(1, 2, 3))
