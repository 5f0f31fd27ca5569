"""Text to pictures: one random generator per picture, its settings in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.errors import ConfigError, nearest
from pipelines.picture import Picture, read_settings
from pipelines.samplers import SAMPLERS, make_scheduler

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base import Base
    from pipelines.conditioning import Conditioning

__all__ = ["AdapterUse", "GenerationConfig", "Picture", "generate", "generate_prompts", "read_settings"]

OnStep = Callable[[int, int], bool | None]
"""Called after each denoising step with (steps done, steps in all); returning False stops."""

_VERSION = 1


def _known_sampler(name: str) -> str:
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}{nearest(name, SAMPLERS)}")
    return name


class AdapterUse(BaseModel):
    """An adapter that was in the mix when a picture was made: a record for the picture's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(title="Adapter", description="Its name in the library.", max_length=200)
    sha256: str = Field(title="SHA-256", description="Of its file, 64 hexadecimal digits.", max_length=64)
    weight: float = Field(title="Weight", description="On the UNet.", ge=-2, le=3)
    text_weight: float | None = Field(
        default=None,
        title="Text weight",
        description="On the text encoder; as the weight if empty.",
        ge=-2,
        le=3,
    )
    blocks: dict[str, float] = Field(
        default_factory=dict, title="Blocks", description="What the weight is multiplied by, per block."
    )
    begin: float = Field(
        default=0.0, title="Begin", description="Share of the steps from which it comes in.", ge=0, le=1
    )
    end: float = Field(
        default=0.0, title="End", description="Share of the steps from which it is whole.", ge=0, le=1
    )


class GenerationConfig(BaseModel):
    """What to draw. Sizes in pixels; a size of None is the base's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(title="Prompt", description="What the picture shows.", max_length=10_000)
    negative_prompt: str = Field(
        default="", title="Negative prompt", description="What it shouldn't show.", max_length=10_000
    )
    seed: int = Field(default=0, title="Seed", description="The first picture's; each next is one more.",
                      ge=0, le=2**53 - 1)  # fmt: skip
    num_images: int = Field(default=1, title="Pictures", description="How many, one seed each.", ge=1, le=64)
    num_inference_steps: int = Field(
        default=20, title="Steps", description="Denoising steps; more is finer and slower.", ge=1, le=1000
    )
    guidance_scale: float = Field(
        default=3.0, title="Guidance", description="How strictly the prompt is followed; 1 turns it off.",
        ge=1, le=30, allow_inf_nan=False,
    )  # fmt: skip
    width: int | None = Field(default=None, title="Width", description="In pixels; empty: the base's own.",
                              ge=8, le=4096)  # fmt: skip
    height: int | None = Field(default=None, title="Height", description="In pixels; empty: the base's own.",
                               ge=8, le=4096)  # fmt: skip
    sampler: Annotated[str, AfterValidator(_known_sampler)] = Field(
        default="ddim", title="Sampler", description="The way from noise to picture."
    )
    adapters: tuple[AdapterUse, ...] = Field(
        default=(), title="Adapters", description="What the mixer holds, recorded in the picture."
    )


def generate(base: Base, config: GenerationConfig, *, on_step: OnStep | None = None) -> list[Picture]:
    """Draw `config.num_images` pictures with seeds seed, seed + 1, …

    Each picture is denoised by itself, so that a seed gives the same bits whatever its batch. The
    adapters in `config` are a record: mixing them into the base is the caller's (see `Mixer`).
    on_step counts over all pictures; when it returns False, those already finished are returned.

    Raises: ConfigError for a size that the base can't draw.
    """
    import torch

    height, width = _size(base, config)
    pictures: list[Picture] = []
    total = config.num_images * config.num_inference_steps
    with torch.no_grad(), _at_rest_after(base):
        context = _context(base, [config.prompt], config)
        for index in range(config.num_images):
            seed, done = config.seed + index, index * config.num_inference_steps
            latents = _denoise(base, context, [seed], config, (height, width), _shifted(on_step, done, total))
            if latents is None:
                return pictures
            image = _images(base.decode_latents(latents))[0]
            single = config.model_copy(update={"seed": seed, "num_images": 1})
            pictures.append(Picture(image=image, settings=_settings(base, single, image), seed=seed))
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

    Raises: ConfigError for unequal lengths or a size that the base can't draw.
    """
    import torch

    if len(prompts) != len(seeds):
        raise ConfigError(f"got {len(prompts)} prompts and {len(seeds)} seeds; give one seed per prompt")
    size = _size(base, config)
    images: list[Image] = []
    with torch.no_grad(), _at_rest_after(base):
        for start in range(0, len(prompts), batch_size):
            chosen = slice(start, start + batch_size)
            context = _context(base, prompts[chosen], config)
            latents = _denoise(base, context, seeds[chosen], config, size, None)
            assert latents is not None
            images.extend(_images(base.decode_latents(latents)))
    return images


def _shifted(on_step: OnStep | None, done: int, total: int) -> OnStep | None:
    """Make one picture's steps count on from `done`, of `total`."""
    if on_step is None:
        return None
    return lambda step, _: on_step(done + step, total)


def _size(base: Base, config: GenerationConfig) -> tuple[int, int]:
    """Return (height, width) in pixels. Raises: ConfigError where a side is no whole number of latents."""
    step = base.vae_scale_factor
    sides = {"height": config.height or base.resolution, "width": config.width or base.resolution}
    for name, side in sides.items():
        if side % step:
            low, high = side - side % step, side - side % step + step
            near = f"{low} or {high}" if low else str(high)
            raise ConfigError(f"{name} {side} isn't a multiple of {step}; use {near}")
    return sides["height"], sides["width"]


def _context(base: Base, prompts: Sequence[str], config: GenerationConfig) -> Conditioning:
    """Encode B prompts, after B negative ones where guidance is on."""
    if config.guidance_scale <= 1:
        return base.condition(prompts)
    negative = base.condition([config.negative_prompt] * len(prompts), negative=True)
    return base.condition(prompts).after(negative)


def initial_noise(base: Base, seed: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Generator]:
    """Return (1, C, h, w) fp32 noise of a seed, and its generator for a sampler's later draws.

    Drawn on the CPU, so that a seed means the same on every device. size: (height, width) in pixels.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, base.latent_channels, size[0] // base.vae_scale_factor, size[1] // base.vae_scale_factor)
    return torch.randn(shape, generator=generator), generator


def _denoise(
    base: Base,
    context: Conditioning,
    seeds: Sequence[int],
    config: GenerationConfig,
    size: tuple[int, int],
    on_step: OnStep | None,
) -> torch.Tensor | None:
    """Return (B, C, h, w) latents, or None when `on_step` stopped it.

    Source: classifier-free guidance, Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, equation 6
    (the scale here is 1 + w).
    """
    import torch

    scheduler: Any = make_scheduler(base, config.sampler)
    scheduler.set_timesteps(config.num_inference_steps, device=base.device)
    drawn = [initial_noise(base, seed, size) for seed in seeds]
    generators = [generator for _, generator in drawn]
    latents = torch.cat([noise for noise, _ in drawn]).to(base.device, base.dtype)  # (B, C, h, w)
    latents = latents * scheduler.init_noise_sigma
    extra = _step_arguments(scheduler, generators)
    guided = config.guidance_scale > 1
    arguments = context.arguments(size)
    for index, timestep in enumerate(scheduler.timesteps):
        if base.holder is not None:
            base.holder.at(index, len(scheduler.timesteps))
        inputs = torch.cat([latents, latents]) if guided else latents
        inputs = scheduler.scale_model_input(inputs, timestep)
        noise_pred = base.unet(inputs, timestep, return_dict=False, **arguments)[0]
        if guided:
            negative, positive = noise_pred.chunk(2)
            noise_pred = negative + config.guidance_scale * (positive - negative)
        latents = scheduler.step(noise_pred, timestep, latents, return_dict=False, **extra)[0]
        if on_step is not None and on_step(index + 1, config.num_inference_steps) is False:
            return None
    return latents


@contextmanager
def _at_rest_after(base: Base) -> Iterator[None]:
    """Let a mix whose weights follow the steps end at its full weights, whatever happens."""
    try:
        yield
    finally:
        if base.holder is not None:
            base.holder.rest()


def _step_arguments(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    """The arguments a scheduler's step takes: some draw noise, one generator per picture."""
    import inspect

    if "generator" in inspect.signature(scheduler.step).parameters:
        return {"generator": generators}
    return {}


def _images(pixels: torch.Tensor) -> list[Image]:
    """Turn (B, 3, H, W) in [-1, 1] into 8-bit pictures, rounding to the nearest level."""
    import torch
    from PIL import Image

    levels = ((pixels.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)  # (B, 3, H, W)
    return [Image.fromarray(picture) for picture in levels.permute(0, 2, 3, 1).cpu().numpy()]


def _settings(base: Base, config: GenerationConfig, image: Image) -> dict[str, Any]:
    """What a picture's file says about itself, JSON-able: enough to draw it again."""
    import diffusers
    import torch

    sized = config.model_copy(update={"width": image.width, "height": image.height})
    return {
        "version": _VERSION,
        "generation": sized.model_dump(mode="json"),
        "base": {"ref": base.ref, "sha256": base.sha256},
        "libraries": {"torch": torch.__version__, "diffusers": diffusers.__version__},
    }
