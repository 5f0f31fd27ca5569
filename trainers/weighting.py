"""How much each noise level counts in the loss."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pipelines.errors import ConfigError
from trainers.settings import ObjectiveConfig

Weighting = Callable[[torch.Tensor, str, ObjectiveConfig], torch.Tensor]
"""(signal-to-noise ratio (B,), prediction type, settings) → weight of each sample (B,)."""


def signal_to_noise(alphas_cumprod: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Return ᾱ / (1 − ᾱ) at `timesteps` (B,), fp32.

    Source: Kingma et al. 2021, https://arxiv.org/abs/2107.00630, equation 3.
    """
    signal = alphas_cumprod.to(timesteps.device)[timesteps].float()
    return signal / (1.0 - signal)


def constant(snr: torch.Tensor, prediction_type: str, objective: ObjectiveConfig) -> torch.Tensor:
    """Every noise level counts the same: ones (B,)."""
    return torch.ones_like(snr)


def min_snr(snr: torch.Tensor, prediction_type: str, objective: ObjectiveConfig) -> torch.Tensor:
    """Cap the weight of low noise levels at `objective.snr_gamma`.

    min(SNR, γ) on the error of the denoised sample; over SNR for epsilon and over SNR + 1 for
    v-prediction, since their errors are that much larger.
    Source: Hang et al. 2023, https://arxiv.org/abs/2303.09556, section 3.4.
    """
    capped = snr.clamp(max=objective.snr_gamma)
    if prediction_type == "sample":
        return capped
    if prediction_type == "epsilon":
        return capped / snr
    if prediction_type == "v_prediction":
        return capped / (snr + 1.0)
    raise ConfigError(
        f"weighting 'min_snr' doesn't know the prediction type {prediction_type!r}; use 'constant'"
    )


WEIGHTINGS: dict[str, Weighting] = {"constant": constant, "min_snr": min_snr}
