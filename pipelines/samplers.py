"""The samplers, one row each: a diffusers scheduler and its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, nearest

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from pipelines.base import Base


@dataclass(frozen=True)
class Sampler:
    """One way from noise to a picture.

    scheduler: name of a diffusers class. label: for people, and what A1111 calls it.
    arguments: set over the base's scheduler config; betas and prediction type stay the base's.
    """

    scheduler: str
    label: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler("DDIMScheduler", "DDIM"),
    "euler": Sampler("EulerDiscreteScheduler", "Euler"),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler", "Euler a"),
    "dpmpp_2m": Sampler(
        "DPMSolverMultistepScheduler",
        "DPM++ 2M",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False},
    ),
    "dpmpp_2m_karras": Sampler(
        "DPMSolverMultistepScheduler",
        "DPM++ 2M Karras",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "unipc": Sampler("UniPCMultistepScheduler", "UniPC"),
}


def make_scheduler(base: Base, sampler: str) -> SchedulerMixin:
    """Return a fresh scheduler for `base`. Raises: ConfigError for an unknown sampler."""
    if sampler not in SAMPLERS:
        raise ConfigError(f"unknown sampler {sampler!r}{nearest(sampler, SAMPLERS)}")
    import diffusers

    from pipelines.base import quiet

    row = SAMPLERS[sampler]
    with quiet():
        scheduler: SchedulerMixin = getattr(diffusers, row.scheduler).from_config(
            base.scheduler.config, **row.arguments
        )
    return scheduler
