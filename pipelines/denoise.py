"""The loop from noise to latents: one for every way of drawing.

What differs between text-to-image, image-to-image and the rest is data on the `Plan`; the loop itself
has no cases for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base import Base

__all__ = ["Kept", "OnStep", "Plan", "Steering", "Step", "at_rest_after", "denoise", "initial_noise"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Step:
    """What is told after a denoising step.

    done, total: steps done, and in all. latents: (B, C, h, w) as they are after the step, still noisy.
    estimate: returns (B, C, h, w), the clean latents that the step's prediction points at.
    """

    base: Base = field(repr=False)
    done: int
    total: int
    latents: torch.Tensor
    estimate: Callable[[], torch.Tensor] = field(repr=False)

    def preview(self) -> Image:
        """Return a rough picture of the first of the B, at its full size; worked out when it is called."""
        from pipelines.latent_preview import fit

        return fit(self.base).picture(self.estimate())


OnStep = Callable[[Step], bool | None]
"""Called after each denoising step; returning False stops."""


class Steering(Protocol):
    """What moves the UNet's layers from step to step, such as ControlNets."""

    def __call__(
        self,
        inputs: torch.Tensor,
        timestep: torch.Tensor,
        arguments: Mapping[str, Any],
        place: tuple[int, int],
    ) -> dict[str, Any]:
        """Return further arguments of the UNet.

        inputs: (B, C, h, w) as it sees them, 2B where guided, without what is beside the latents.
        arguments: what it is told otherwise. place: the step's index, and how many there are.
        """


@dataclass(frozen=True, eq=False)
class Kept:
    """What a mask leaves as it was, put back after each step.

    latents: (1 or B, C, h, w) fp32, clean. noise: (B, C, h, w) fp32. hole: (1, 1, h, w), 1 where it is
    drawn anew.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    hole: torch.Tensor

    def put_back(self, scheduler: Any, latents: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """Return (B, C, h, w) latents with what is kept at its own noise.

        following: (1,), the timestep that they are for, or (0,) after the last.
        """
        known = self.latents
        if len(following):
            known = scheduler.add_noise(known.expand_as(self.noise), self.noise, following)
        return ((1 - self.hole) * known + self.hole * latents).to(latents.dtype)


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """One way from noise to latents.

    scheduler: with its timesteps set, not used before. timesteps: (N,), those of its that are walked.
    latents: (B, C, h, w), noisy as the first timestep wants them. arguments: the UNet's, of B pictures,
    or of B negative and then B positive ones where guidance_scale > 1. steps: how many they are to
    people (a scheduler may ask the UNet more than once in a step). step_arguments: the scheduler's.
    beside: (B, C', h, w) that the UNet sees next to the latents. kept: what is put back after each step.
    """

    scheduler: Any = field(repr=False)
    timesteps: torch.Tensor
    latents: torch.Tensor
    arguments: dict[str, Any] = field(repr=False)
    steps: int
    guidance_scale: float
    guidance_rescale: float = 0.0
    step_arguments: dict[str, Any] = field(default_factory=dict, repr=False)
    beside: torch.Tensor | None = None
    kept: Kept | None = None
    steering: Steering | None = None


def denoise(base: Base, plan: Plan, on_step: OnStep | None = None) -> torch.Tensor | None:
    """Return (B, C, h, w) latents, or None when `on_step` stopped it.

    Source: classifier-free guidance, Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, equation 6
    (the scale here is 1 + w).
    """
    import torch

    scheduler, latents = plan.scheduler, plan.latents
    guided = plan.guidance_scale > 1
    count = len(plan.timesteps)
    for index, timestep in enumerate(plan.timesteps):
        if base.holder is not None:
            base.holder.at(index, count)
        scaled = scheduler.scale_model_input(latents, timestep)  # (B, C, h, w)
        inputs = torch.cat([scaled, scaled]) if guided else scaled
        arguments = plan.arguments
        if plan.steering is not None:
            arguments = {**arguments, **plan.steering(inputs, timestep, arguments, (index, count))}
        if plan.beside is not None:
            beside = torch.cat([plan.beside, plan.beside]) if guided else plan.beside
            inputs = torch.cat([inputs, beside], dim=1)  # (B, C + C', h, w)
        noise_pred = base.unet(inputs, timestep, return_dict=False, **arguments)[0]
        if guided:
            negative, positive = noise_pred.chunk(2)
            noise_pred = negative + plan.guidance_scale * (positive - negative)
            if plan.guidance_rescale:
                noise_pred = rescaled(noise_pred, positive, plan.guidance_rescale)
        latents = scheduler.step(noise_pred, timestep, latents, return_dict=False, **plan.step_arguments)[0]
        if plan.kept is not None:
            latents = plan.kept.put_back(scheduler, latents, plan.timesteps[index + 1 : index + 2])
        if on_step is not None:
            done = -(-(index + 1) * plan.steps // count)
            told = Step(
                base=base,
                done=done,
                total=plan.steps,
                latents=latents,
                estimate=_estimate(base, scaled, noise_pred, timestep),
            )
            if on_step(told) is False:
                return None
    return latents


def rescaled(guided: torch.Tensor, positive: torch.Tensor, share: float) -> torch.Tensor:
    """Give a guided prediction back the spread of the positive one, by `share` of the way.

    guided, positive: (B, C, h, w); the spread is one number per picture.
    Source: Lin et al. 2023, https://arxiv.org/abs/2305.08891, section 3.4.
    """
    dims = tuple(range(1, guided.ndim))
    matched = guided * (positive.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True))
    return share * matched + (1 - share) * guided


def _estimate(
    base: Base, scaled: torch.Tensor, predicted: torch.Tensor, timestep: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """Return the way to the clean latents that a prediction points at, worked out when it is called.

    scaled: (B, C, h, w) as the UNet saw them, so of a variance-preserving process whatever the sampler.
    """
    import torch

    def estimate() -> torch.Tensor:
        schedule = _alphas_cumprod(base)
        alpha = float(schedule[min(round(float(timestep)), len(schedule) - 1)])
        signal, noise = alpha**0.5, (1 - alpha) ** 0.5
        ways: dict[str, Callable[[], torch.Tensor]] = {
            "epsilon": lambda: (scaled - noise * predicted) / max(signal, 1e-3),
            "v_prediction": lambda: signal * scaled - noise * predicted,
            "sample": lambda: predicted,
        }
        with torch.no_grad():
            return ways[base.prediction_type]()

    return estimate


def _alphas_cumprod(base: Base) -> torch.Tensor:
    scheduler: Any = base.scheduler
    schedule: torch.Tensor = scheduler.alphas_cumprod  # (T,)
    return schedule


def initial_noise(base: Base, seed: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Generator]:
    """Return (1, C, h, w) fp32 noise of a seed, and its generator for a sampler's later draws.

    Drawn on the CPU, so that a seed means the same on every device. size: (height, width) in pixels.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, base.latent_channels, size[0] // base.vae_scale_factor, size[1] // base.vae_scale_factor)
    return torch.randn(shape, generator=generator), generator


@contextmanager
def at_rest_after(base: Base) -> Iterator[None]:
    """Let a mix whose weights follow the steps end at its full weights, whatever happens."""
    try:
        yield
    finally:
        if base.holder is not None:
            base.holder.rest()
