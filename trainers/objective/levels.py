"""The base's noise levels: how much of a picture is left at each timestep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipelines.errors import ConfigError
from trainers.settings import ObjectiveConfig

if TYPE_CHECKING:
    from pipelines.base import Base


@dataclass(frozen=True, eq=False)
class Levels:
    """T noise levels, from nearly clean to nearly noise.

    signal: ᾱ, fp32 (T,), on the base's device. prediction_type: what the UNet predicts, a key of PREDICTIONS.
    notes: what people should know about them.
    """

    signal: torch.Tensor
    prediction_type: str
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of levels, T."""
        return len(self.signal)

    def at(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return ᾱ at `timesteps` (B,), in a shape that multiplies latents: fp32 (B, 1, 1, 1)."""
        return self._signal(timesteps).reshape(-1, 1, 1, 1)

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return the signal-to-noise ratio ᾱ / (1 − ᾱ) at `timesteps`, fp32 (B,).

        Source: Kingma et al. 2021, https://arxiv.org/abs/2107.00630, equation 3.
        """
        signal = self._signal(timesteps)
        return signal / (1.0 - signal)

    def _signal(self, timesteps: torch.Tensor) -> torch.Tensor:
        return self.signal.to(timesteps.device)[timesteps]


def noise_levels(base: Base, objective: ObjectiveConfig) -> Levels:
    """Return the noise levels that `base` is taught at.

    Raises: ConfigError where a zero-terminal SNR is asked for and the base predicts the noise, which at the
    last level would be all that it is given.
    """
    scheduler = base.scheduler.config
    signal = base.scheduler.alphas_cumprod.to(base.device, torch.float32)
    if not objective.zero_terminal_snr:
        return Levels(signal, base.prediction_type)
    if base.prediction_type == "epsilon":
        raise ConfigError(
            "objective.zero_terminal_snr: the base predicts epsilon, and nothing is to be learned "
            "where no picture is left; choose a v-prediction base or switch it off"
        )
    if scheduler.get("rescale_betas_zero_snr"):
        return Levels(signal, base.prediction_type, ("the base's noise levels end at pure noise already",))
    note = (
        "learned on noise levels that end at pure noise: draw with a scheduler whose config says "
        "rescale_betas_zero_snr = true and timestep_spacing = trailing"
    )
    return Levels(zero_terminal(signal), base.prediction_type, (note,))


def zero_terminal(signal: torch.Tensor) -> torch.Tensor:
    """Move noise levels ᾱ (T,) so that nothing is left of the picture at the last: fp32 (T,), ᾱ_T = 0.

    √ᾱ is shifted by its last value and scaled so that the first stays.
    Source: Lin et al. 2023, https://arxiv.org/abs/2305.08891, algorithm 1.
    """
    root = signal.cpu().double().sqrt()  # Apple's cards have no fp64
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))).square().to(signal)
