"""Which noise levels a batch is learned at."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from trainers.objective.levels import Levels
from trainers.settings import ObjectiveConfig

Quantile = Callable[[torch.Tensor, ObjectiveConfig], torch.Tensor]
"""(shares of all samples, fp64 (B,) in (0, 1), settings) → t / T below which each lies, (B,) in [0, 1]."""


def uniform(share: torch.Tensor, objective: ObjectiveConfig) -> torch.Tensor:
    """Every level alike. Source: Ho et al. 2020, https://arxiv.org/abs/2006.11239, algorithm 1."""
    return share


def logit_normal(share: torch.Tensor, objective: ObjectiveConfig) -> torch.Tensor:
    """The logit of t / T is normal: mostly the middle levels.

    Source: Esser et al. 2024, https://arxiv.org/abs/2403.03206, equation 19.
    """
    return torch.sigmoid(objective.logit_mean + objective.logit_std * torch.special.ndtri(share))


def sigmoid(share: torch.Tensor, objective: ObjectiveConfig) -> torch.Tensor:
    """The density is an S: ∝ 1 / (1 + exp(−k (t / T − m))), more and more noise for k > 0, less for k < 0.

    Inverted in closed form: the density's integral is softplus(k (t / T − m)) / k.
    Source: none known; OneTrainer's timestep distribution of this name,
    https://github.com/Nerogar/OneTrainer/wiki/Training, drawn exactly.
    """
    k, middle = objective.sigmoid_slope, objective.sigmoid_middle
    low, high = (math.log1p(math.exp(k * (end - middle))) for end in (0.0, 1.0))
    return middle + torch.log(torch.expm1(low + share * (high - low))) / k


def beta(share: torch.Tensor, objective: ObjectiveConfig) -> torch.Tensor:
    """t / T follows a Beta distribution: a < b for clean levels, a > b for noisy ones.

    Source: Lee et al. 2024, https://arxiv.org/abs/2407.12173 (there for drawing pictures).
    """
    from scipy.special import betaincinv

    found = betaincinv(objective.beta_a, objective.beta_b, share.cpu().numpy())
    return torch.as_tensor(found, dtype=share.dtype, device=share.device)


TIMESTEPS: dict[str, Quantile] = {
    "uniform": uniform,
    "logit_normal": logit_normal,
    "sigmoid": sigmoid,
    "beta": beta,
}


def draw_timesteps(
    count: int, levels: Levels, objective: ObjectiveConfig, generator: torch.Generator
) -> torch.Tensor:
    """Draw `count` timesteps in [0, T), int64 (count,), on the generator's device.

    One comes from each of `count` equal strata of the chosen distribution, squeezed into the range from
    `timestep_min` to `timestep_max`. Each is distributed so by itself; together they are spread, so that a
    small batch's loss varies less.
    Source: Kingma et al. 2021, https://arxiv.org/abs/2107.00630, appendix I.1 (there with one shared
    offset; here each stratum has its own, and the strata are shuffled over the batch).
    """
    order = torch.randperm(count, generator=generator, device=generator.device)
    inside = torch.rand(count, generator=generator, device=generator.device)
    share = (order.double() + inside.double()) / count
    drawn = TIMESTEPS[objective.timestep_sampling](share.clamp(1e-9, 1 - 1e-9), objective)
    low, high = objective.timestep_min, objective.timestep_max
    first, last = int(low * levels.count), max(math.ceil(high * levels.count) - 1, int(low * levels.count))
    return ((low + (high - low) * drawn) * levels.count).long().clamp(first, last)
