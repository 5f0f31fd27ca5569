"""Text to pictures: one random generator per picture, its settings in the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.denoise import OnStep, Plan, Step, at_rest_after, denoise, initial_noise
from pipelines.errors import ConfigError
from pipelines.generation import AdapterUse, GenerationConfig
from pipelines.picture import Picture, read_settings
from pipelines.samplers import make_scheduler, set_timesteps, step_arguments

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base import Base
    from pipelines.conditioning import Conditioning

__all__ = [
    "AdapterUse",
    "GenerationConfig",
    "OnStep",
    "Picture",
    "Step",
    "generate",
    "generate_prompts",
    "initial_noise",
    "make_plan",
    "read_settings",
]

_VERSION = 2


def generate(base: Base, config: GenerationConfig, *, on_step: OnStep | None = None) -> list[Picture]:
    """Draw `config.num_images` pictures with seeds seed, seed + 1, …

    `config.batch_size` of them are denoised at once; with 1 a seed gives the same bits whatever else is
    drawn. The adapters in `config` are a record: mixing them into the base is the caller's (see
    `Mixer`). on_step counts over all passes; when it returns False, those already finished are
    returned.

    Raises: ConfigError for settings that the base can't draw.
    """
    import torch

    size, notes = _size(base, config)
    pictures: list[Picture] = []
    seeds = [config.seed + index for index in range(config.num_images)]
    batches = [seeds[at : at + config.batch_size] for at in range(0, len(seeds), config.batch_size)]
    total = len(batches) * config.num_inference_steps
    with torch.no_grad(), at_rest_after(base):
        context = _context(base, [config.prompt], config)
        for index, batch in enumerate(batches):
            plan = make_plan(base, config, _repeated(context, len(batch)), batch, size)
            latents = denoise(base, plan, _counted(on_step, index * config.num_inference_steps, total))
            if latents is None:
                return pictures
            together = [f"drawn in a batch of {len(batch)}: alone it may differ by a level"]
            for seed, image in zip(batch, _images(base.decode_latents(latents)), strict=True):
                single = config.model_copy(update={"seed": seed, "num_images": 1})
                said = notes + (together if len(batch) > 1 else [])
                settings = _settings(base, single, size, said)
                pictures.append(Picture(image=image, settings=settings, seed=seed))
    return pictures


def generate_prompts(
    base: Base,
    prompts: Sequence[str],
    seeds: Sequence[int],
    config: GenerationConfig,
    *,
    batch_size: int = 8,
) -> list[Image]:
    """Draw one picture per prompt and seed, several at a time: for measuring, class pictures, previews.

    prompts, seeds: of equal length; they stand for `config.prompt`, `config.seed`, `config.num_images`;
    the rest of `config` holds for all. A batch rounds otherwise than a single picture, so a seed's
    picture may differ from `generate`'s by a level or so of 255.

    Raises: ConfigError for unequal lengths or settings that the base can't draw.
    """
    import torch

    if len(prompts) != len(seeds):
        raise ConfigError(f"got {len(prompts)} prompts and {len(seeds)} seeds; give one seed per prompt")
    size, _ = _size(base, config)
    images: list[Image] = []
    with torch.no_grad(), at_rest_after(base):
        for start in range(0, len(prompts), batch_size):
            chosen = slice(start, start + batch_size)
            context = _context(base, prompts[chosen], config)
            latents = denoise(base, make_plan(base, config, context, seeds[chosen], size))
            assert latents is not None
            images.extend(_images(base.decode_latents(latents)))
    return images


def make_plan(
    base: Base, config: GenerationConfig, context: Conditioning, seeds: Sequence[int], size: tuple[int, int]
) -> Plan:
    """Plan the way from pure noise to B pictures of (height, width) pixels.

    context: of B prompts, or of B negative and B positive ones where `config.guidance_scale` > 1.
    Raises: ConfigError for an eta that the sampler has no use for.
    """
    import torch

    scheduler: Any = make_scheduler(base, config.sampler)
    timesteps = set_timesteps(scheduler, config.num_inference_steps, base.device)
    drawn = [initial_noise(base, seed, size) for seed in seeds]
    generators = [generator for _, generator in drawn]
    latents = torch.cat([noise for noise, _ in drawn]).to(base.device, base.dtype)  # (B, C, h, w)
    latents = latents * scheduler.init_noise_sigma
    return Plan(
        scheduler=scheduler,
        timesteps=timesteps,
        latents=latents,
        arguments=context.arguments(size),
        steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        guidance_rescale=config.guidance_rescale,
        step_arguments=step_arguments(scheduler, config.sampler, latents, generators, config.eta),
    )


def _counted(on_step: OnStep | None, done: int, total: int) -> OnStep | None:
    """Make one pass' steps count on from `done`, of `total`."""
    if on_step is None:
        return None
    return lambda step: on_step(replace(step, done=done + step.done, total=total))


def _size(base: Base, config: GenerationConfig) -> tuple[tuple[int, int], list[str]]:
    """Return (height, width) in pixels, whole numbers of latents, and what was rounded."""
    step = base.vae_scale_factor
    notes, sides = [], []
    for name, side in (("height", config.height), ("width", config.width)):
        wanted = side or base.resolution
        sides.append(max(step, (wanted + step // 2) // step * step))
        if sides[-1] != wanted:
            notes.append(f"{name} {wanted} isn't a multiple of {step}: drawn at {sides[-1]}")
    return (sides[0], sides[1]), notes


def _context(base: Base, prompts: Sequence[str], config: GenerationConfig) -> Conditioning:
    """Encode B prompts, after B negative ones where guidance is on."""
    if config.guidance_scale <= 1:
        return base.condition(prompts)
    negative = base.condition([config.negative_prompt] * len(prompts), negative=True)
    return base.condition(prompts).after(negative)


def _repeated(context: Conditioning, times: int) -> Conditioning:
    """Repeat each prompt `times` times, one beside the other."""
    from pipelines.conditioning import Conditioning

    pooled = None if context.pooled is None else context.pooled.repeat_interleave(times, dim=0)
    return Conditioning(context.hidden.repeat_interleave(times, dim=0), pooled)


def _images(pixels: torch.Tensor) -> list[Image]:
    """Turn (B, 3, H, W) in [-1, 1] into 8-bit pictures, rounding to the nearest level."""
    import torch
    from PIL import Image

    levels = ((pixels.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)  # (B, 3, H, W)
    return [Image.fromarray(picture) for picture in levels.permute(0, 2, 3, 1).cpu().numpy()]


def _settings(
    base: Base, config: GenerationConfig, size: tuple[int, int], notes: Sequence[str]
) -> dict[str, Any]:
    """What a picture's file says about itself, JSON-able: enough to draw it again."""
    import diffusers
    import torch

    sized = config.model_copy(update={"height": size[0], "width": size[1]})
    return {
        "version": _VERSION,
        "generation": sized.model_dump(mode="json"),
        "base": {
            "ref": base.ref,
            "sha256": base.sha256,
            "family": base.family.id,
            "prediction_type": base.prediction_type,
        },
        "libraries": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "notes": list(notes),
    }
