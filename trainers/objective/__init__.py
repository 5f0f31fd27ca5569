"""What the UNet is asked for, and how far off it is: tables of one-screen functions."""

from trainers.objective.levels import Levels, noise_levels, zero_terminal
from trainers.objective.losses import HUBER_SCHEDULES, LOSSES, masked_mean, sample_losses, squared_errors
from trainers.objective.noise import draw_noise, perturbed
from trainers.objective.prediction import PREDICTIONS, add_noise, predict, target
from trainers.objective.timesteps import TIMESTEPS, draw_timesteps
from trainers.objective.weighting import WEIGHTINGS, weights

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
    "perturbed",
    "predict",
    "sample_losses",
    "squared_errors",
    "target",
    "weights",
    "zero_terminal",
]
