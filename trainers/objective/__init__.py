"""What the UNet is asked for, and how far off it is: tables of one-screen functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trainers.objective import noise as _noise
from trainers.objective import prediction as _prediction
from trainers.objective import timesteps as _timesteps
from trainers.objective import weighting as _weighting
from trainers.objective.levels import Levels, noise_levels, zero_terminal
from trainers.objective.losses import HUBER_SCHEDULES, LOSSES, masked_mean, sample_losses, squared_errors
from trainers.objective.noise import perturbed
from trainers.objective.prediction import PREDICTIONS, add_noise
from trainers.objective.timesteps import TIMESTEPS
from trainers.objective.weighting import WEIGHTINGS
from trainers.settings import ObjectiveConfig

if TYPE_CHECKING:
    from pipelines.base import Base

__all__ = [
    "HUBER_SCHEDULES",
    "LOSSES",
    "PREDICTIONS",
    "TIMESTEPS",
    "WEIGHTINGS",
    "Levels",
    "add_noise",
    "draw_noise",
    "draw_timesteps",
    "masked_mean",
    "noise_levels",
    "num_timesteps",
    "perturbed",
    "predict",
    "sample_losses",
    "signal_at",
    "squared_errors",
    "target",
    "weights",
    "zero_terminal",
]

# What follows also takes the arguments of before `Levels`, until the loop and the batches give the new ones.


def _levels(given: Any) -> Levels:
    return given if isinstance(given, Levels) else noise_levels(given, ObjectiveConfig())


def signal_at(base: Base, timesteps: torch.Tensor) -> torch.Tensor:
    return _levels(base).at(timesteps)


def num_timesteps(base: Base) -> int:
    return int(base.scheduler.config["num_train_timesteps"])


def predict(base: Base, *arguments: Any) -> torch.Tensor:
    if isinstance(arguments[0], Levels):
        return _prediction.predict(base, *arguments)
    latents, noise, timesteps, embeddings = arguments
    noisy = add_noise(latents, noise, signal_at(base, timesteps)).to(base.unet.dtype)
    predicted: torch.Tensor = base.unet(noisy, timesteps, embeddings.to(base.unet.dtype)).sample
    return predicted.float()


def target(given: Any, *arguments: torch.Tensor) -> torch.Tensor:
    return _prediction.target(_levels(given), *arguments)


def weights(given: Any, timesteps: torch.Tensor, objective: ObjectiveConfig) -> torch.Tensor:
    return _weighting.weights(_levels(given), timesteps, objective)


def draw_noise(shape: tuple[int, ...], generator: torch.Generator, offset: Any = 0.0) -> torch.Tensor:
    objective = offset if isinstance(offset, ObjectiveConfig) else ObjectiveConfig(noise_offset=offset)
    return _noise.draw_noise(shape, generator, objective)


def draw_timesteps(count: int, *arguments: Any) -> torch.Tensor:
    if isinstance(arguments[0], Levels):
        return _timesteps.draw_timesteps(count, *arguments)
    total, generator = arguments
    return _timesteps.draw_timesteps(
        count, Levels(torch.ones(total), "epsilon"), ObjectiveConfig(), generator
    )
