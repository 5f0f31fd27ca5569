"""How much each noise level counts in the loss."""

from __future__ import annotations

from collections.abc import Callable

import torch

from trainers.objective.levels import Levels
from trainers.objective.prediction import prediction_of
from trainers.settings import ObjectiveConfig

Weighting = Callable[[torch.Tensor, ObjectiveConfig], torch.Tensor]
"""(signal-to-noise ratio (B,), settings) → weight of the squared error of the noise (B,)."""

_LEAST_SNR = 1e-6
_LARGEST_SNR = 1e6


def min_snr(snr: torch.Tensor, objective: ObjectiveConfig) -> torch.Tensor:
    """Cap the weight of low noise levels: min(1, γ / SNR), that is min(SNR, γ) on the denoised picture.

    Source: Hang et al. 2023, https://arxiv.org/abs/2303.09556, section 3.4.
    """
    return (objective.snr_gamma / snr).clamp(max=1.0)


def soft_min_snr(snr: torch.Tensor, objective: ObjectiveConfig) -> torch.Tensor:
    """Like `min_snr` without its corner: γ / (SNR + γ), that is 1 / (σ² + 1/γ) on the denoised picture.

    Source: Crowson et al. 2024, https://arxiv.org/abs/2401.11605, "soft-min-SNR" (there with γ = 4).
    """
    return objective.snr_gamma / (snr + objective.snr_gamma)


def debiased(snr: torch.Tensor, objective: ObjectiveConfig) -> torch.Tensor:
    """Let high noise levels count more: 1 / √SNR.

    Source: Yu et al. 2023, https://arxiv.org/abs/2310.08442, for epsilon. For v-prediction it is √SNR /
    (SNR + 1), the same weight of the noise's error; kohya's scripts take 1 / (SNR + 1) there,
    https://github.com/kohya-ss/sd-scripts/issues/1058.
    """
    return snr.rsqrt()


def p2(snr: torch.Tensor, objective: ObjectiveConfig) -> torch.Tensor:
    """Let levels count where content is decided and not the last details: 1 / (k + SNR)^γ.

    Source: Choi et al. 2022, https://arxiv.org/abs/2204.00227, equation 8.
    """
    return (objective.p2_k + snr) ** -objective.p2_gamma


WEIGHTINGS: dict[str, Weighting | None] = {
    "constant": None,
    "min_snr": min_snr,
    "soft_min_snr": soft_min_snr,
    "debiased": debiased,
    "p2": p2,
}
"""By name; None: every noise level counts the same, whatever is predicted."""


def weights(levels: Levels, timesteps: torch.Tensor, objective: ObjectiveConfig) -> torch.Tensor:
    """Return how much each sample counts by its noise level, fp32 (B,).

    The papers weigh the squared error of the noise; where the UNet predicts something else, its error is
    first turned into that, so that a weighting means the same whatever is predicted.
    """
    snr = levels.snr(timesteps).clamp(_LEAST_SNR, _LARGEST_SNR)  # of pure noise it would be 0
    row = WEIGHTINGS[objective.weighting]
    if row is None:
        return torch.ones_like(snr)
    return row(snr, objective) * prediction_of(levels).noise_error(snr)
