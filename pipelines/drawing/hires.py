"""The second pass: a picture made larger, then drawn over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from pipelines.base import Base
    from pipelines.drawing.images import Size
    from pipelines.generation import GenerationConfig


@dataclass(frozen=True)
class Upscaler:
    """One way to make a picture larger between the passes.

    label: for people, and what A1111 calls it. mode: of torch's `interpolate` for latents, or the name of
    a Pillow filter for pixels. latent: whether latents are enlarged; pixels are decoded and encoded again.
    antialias: torch's.
    """

    label: str
    mode: str
    latent: bool = True
    antialias: bool = False


UPSCALERS: dict[str, Upscaler] = {
    "latent": Upscaler("Latent", "bilinear"),
    "latent_antialiased": Upscaler("Latent (antialiased)", "bilinear", antialias=True),
    "latent_bicubic": Upscaler("Latent (bicubic)", "bicubic"),
    "latent_bicubic_antialiased": Upscaler("Latent (bicubic antialiased)", "bicubic", antialias=True),
    "latent_nearest": Upscaler("Latent (nearest)", "nearest"),
    "latent_nearest_exact": Upscaler("Latent (nearest-exact)", "nearest-exact"),
    "lanczos": Upscaler("Lanczos", "LANCZOS", latent=False),
    "bicubic": Upscaler("Bicubic", "BICUBIC", latent=False),
    "nearest": Upscaler("Nearest", "NEAREST", latent=False),
}
"""A1111's own, by its labels; its upscaling networks (ESRGAN and the like) aren't among them."""


def upscaler_named(text: str) -> str | None:
    """Return the key of the row that is called `text` here or in A1111, or None."""
    asked = text.strip().casefold()
    return next((key for key, row in UPSCALERS.items() if asked in (key, row.label.casefold())), None)


def hires_size(base: Base, config: GenerationConfig, size: Size) -> Size:
    """Return (height, width) of the second pass: `config.hires_scale` times, whole numbers of latents."""
    step = base.vae_scale_factor
    height, width = (max(step, round(side * config.hires_scale / step) * step) for side in size)
    return height, width


def enlarged(base: Base, upscaler: str, latents: torch.Tensor, size: Size) -> torch.Tensor:
    """Return (B, C, H/f, W/f) fp32 latents of the pictures that (B, C, h, w) ones hold, at (H, W) pixels."""
    import torch

    from pipelines.drawing.images import encoded, to_images, to_pixels

    row = UPSCALERS[upscaler]
    wanted = (size[0] // base.vae_scale_factor, size[1] // base.vae_scale_factor)
    if row.latent:
        options: dict[str, Any] = {"antialias": True} if row.antialias else {}
        return torch.nn.functional.interpolate(latents.float(), wanted, mode=row.mode, **options)
    from PIL.Image import Resampling

    images = [
        picture.resize((size[1], size[0]), Resampling[row.mode])
        for one in latents.split(1)  # one by one, for memory
        for picture in to_images(base.decode_latents(one))
    ]
    return torch.cat([encoded(base, to_pixels(picture) * 2 - 1) for picture in images])
