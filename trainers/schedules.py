"""How the learning rate goes: pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

from trainers.settings import OptimizerConfig

SCHEDULES: dict[str, Callable[[float, OptimizerConfig], float]] = {
    "constant": lambda share, config: 1.0,
    # Loshchilov & Hutter 2016, https://arxiv.org/abs/1608.03983, equation 5: one fall, or several
    "cosine": lambda share, config: _cosine(share),
    "linear": lambda share, config: 1.0 - share,
    # Chen et al. 2016, https://arxiv.org/abs/1606.00915, section 4.3.1
    "polynomial": lambda share, config: (1.0 - share) ** config.schedule_power,
    "cosine_restarts": lambda share, config: _cosine(share * config.restarts % 1.0),
}
"""By name: (share of the run that is over, [0, 1); settings) → factor of the learning rate."""


def _cosine(share: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * share))


def rate_factor(step: int, total: int, config: OptimizerConfig) -> float:
    """Return the factor of the learning rate in step `step` (from 0) of `total`: a pure function of both.

    It rises linearly over `warmup_steps`, of which at most half of the run is used, and then follows
    the schedule.
    """
    warmup = min(config.warmup_steps, total // 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return SCHEDULES[config.schedule]((step - warmup) / max(1, total - warmup), config)
