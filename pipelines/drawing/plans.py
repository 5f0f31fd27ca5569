"""From settings to a pass of denoising: where it starts, and what it is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.denoise import Kept, Plan, Steering, initial_noise
from pipelines.drawing.images import Size, encoded, to_pixels
from pipelines.drawing.masks import latent_mask
from pipelines.samplers import make_scheduler, set_timesteps, step_arguments

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base import Base
    from pipelines.conditioning import Conditioning
    from pipelines.generation import GenerationConfig


@dataclass(frozen=True, eq=False, kw_only=True)
class Ground:
    """What one pass draws on.

    latents: (1 or B, C, h, w) fp32 of what is drawn over, or None for nothing. schedule: denoising steps
    from pure noise. steps: how many of them, from the end, are walked. strength: 1 starts from pure noise
    whatever is drawn over. hole: (1, 1, h, w) of 0 and 1, where `latents` don't come back. beside: (1, C',
    h, w) that the UNet sees next to the latents. steering: what moves its layers, such as ControlNets.
    seen: (2, 1, …), an image prompt for a negative and a positive prompt.
    """

    latents: torch.Tensor | None = None
    schedule: int
    steps: int
    strength: float = 1.0
    hole: torch.Tensor | None = None
    beside: torch.Tensor | None = None
    steering: Steering | None = None
    seen: torch.Tensor | None = None


def make_plan(
    base: Base,
    config: GenerationConfig,
    context: Conditioning,
    seeds: Sequence[int],
    size: Size,
    ground: Ground | None = None,
) -> Plan:
    """Plan one way from noise to B pictures of (height, width) pixels.

    context: of B prompts, or of B negative and B positive ones where `config.guidance_scale` > 1.
    ground: None draws on nothing, `config.num_inference_steps` long.
    Raises: ConfigError for an eta that the sampler has no use for.
    """
    import torch

    ground = ground or text_ground(base, config, size)
    scheduler: Any = make_scheduler(base, config.sampler)
    # Half a step more, so that the share isn't rounded to one step less.
    share = (ground.steps + 0.5) / ground.schedule if ground.steps < ground.schedule else 1.0
    timesteps = set_timesteps(scheduler, ground.schedule, base.device, strength=share)
    drawn = [initial_noise(base, seed, size) for seed in seeds]
    generators = [generator for _, generator in drawn]
    noise = torch.cat([noise for noise, _ in drawn]).to(base.device)  # (B, C, h, w)
    if not ground.steps and ground.latents is not None:
        latents = ground.latents.expand_as(noise)
    elif ground.latents is None or ground.strength >= 1:
        latents = noise.to(base.dtype) * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(ground.latents.expand_as(noise), noise, timesteps[:1])
    latents = latents.to(base.dtype)
    arguments = context.arguments(size)
    if ground.seen is not None:
        seen = ground.seen if config.guidance_scale > 1 else ground.seen[1:]
        embeds = {"image_embeds": [seen.repeat_interleave(len(seeds), dim=0)]}
        arguments["added_cond_kwargs"] = {**arguments.get("added_cond_kwargs", {}), **embeds}
    kept = None
    if ground.latents is not None and ground.hole is not None and ground.beside is None:
        kept = Kept(ground.latents, noise, ground.hole)
    return Plan(
        scheduler=scheduler,
        timesteps=timesteps,
        latents=latents,
        arguments=arguments,
        steps=ground.steps,
        guidance_scale=config.guidance_scale,
        guidance_rescale=config.guidance_rescale,
        step_arguments=step_arguments(scheduler, config.sampler, latents, generators, config.eta),
        beside=None if ground.beside is None else ground.beside.to(base.dtype).expand(len(seeds), -1, -1, -1),
        kept=kept,
        steering=ground.steering,
    )


def text_ground(base: Base, config: GenerationConfig, size: Size) -> Ground:
    """Draw on nothing: from pure noise."""
    steps = config.num_inference_steps
    return Ground(schedule=steps, steps=steps, beside=seen_beside(base, size))


def picture_ground(
    base: Base, config: GenerationConfig, size: Size, picture: Image, hole: Image | None
) -> Ground:
    """Draw over a picture of (height, width) pixels, or only over what is white in `hole`.

    As many steps are walked as diffusers walks: strength · steps, cut to a whole number, but at least
    one where the strength isn't 0.
    """
    pixels = to_pixels(picture) * 2 - 1
    steps = config.num_inference_steps
    walked = min(steps, max(1, int(steps * config.strength))) if config.strength else 0
    return Ground(
        latents=encoded(base, pixels),
        schedule=steps,
        steps=walked,
        strength=config.strength,
        hole=None if hole is None else latent_mask(hole, base.vae_scale_factor).to(base.device),
        beside=seen_beside(base, size, pixels, hole),
    )


def hires_steps(config: GenerationConfig) -> tuple[int, int]:
    """Return the second pass' steps from pure noise, and how many of them, from the end, are walked.

    `config.hires_steps` are walked, as in A1111, whatever the strength; the schedule is as much finer.
    """
    wanted = config.hires_steps or config.num_inference_steps
    if not config.hires_strength:
        return wanted, 0
    schedule = int(wanted / config.hires_strength)
    most = 1000
    return (schedule, wanted) if schedule <= most else (most, max(1, int(most * config.hires_strength)))


def hires_ground(base: Base, config: GenerationConfig, size: Size, latents: torch.Tensor) -> Ground:
    """Draw over (B, C, h, w) enlarged latents."""
    schedule, walked = hires_steps(config)
    return Ground(
        latents=latents,
        schedule=schedule,
        steps=walked,
        strength=config.hires_strength,
        beside=seen_beside(base, size),
    )


def seen_beside(
    base: Base, size: Size, pixels: torch.Tensor | None = None, hole: Image | None = None
) -> torch.Tensor | None:
    """Return what an inpainting UNet sees beside the latents, (1, 1 + C, h, w) fp32; None for others.

    The mask, 1 where it draws, and the latents of the picture with grey in there. Without a picture or
    a mask it draws everywhere, over grey. pixels: (1, 3, H, W) in [-1, 1].
    Source: the inpainting models of Rombach et al. 2022, https://arxiv.org/abs/2112.10752; grey and the
    order as in diffusers' StableDiffusionInpaintPipeline.
    """
    import torch

    if not base.inpainting:
        return None
    if pixels is None or hole is None:
        factor = base.vae_scale_factor
        mask = torch.ones(1, 1, size[0] // factor, size[1] // factor)
        rest = torch.zeros(1, 3, *size)
    else:
        mask = latent_mask(hole, base.vae_scale_factor)
        rest = pixels * (to_pixels(hole) < 0.5)
    return torch.cat([mask.to(base.device), encoded(base, rest)], dim=1)
