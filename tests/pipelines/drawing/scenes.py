"""Pictures, masks and plain diffusers pipelines for the tests of drawing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.base import Base, pipeline_extras, quiet
from pipelines.drawing.images import encoded, to_pixels
from pipelines.samplers import make_scheduler


def noisy_picture(width: int = 16, height: int = 16, seed: int = 0) -> Image.Image:
    """A picture of random pixels."""
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """White in a box (left, top, right, bottom) of a black picture of (width, height)."""
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def latents_of(base: Base, image: Image.Image) -> torch.Tensor:
    """What `generate` takes for the latents of a picture; diffusers' pipelines take them as `image`."""
    return encoded(base, to_pixels(image.convert("RGB")) * 2 - 1)


def diffusers_pipeline(base: Base, name: str, sampler: str = "ddim", **extra: Any) -> Any:
    """A diffusers pipeline of that class over the base's modules."""
    import diffusers

    kind = getattr(diffusers, name)
    parts = {part: getattr(base, part) for part in base.family.parts}
    with quiet():
        pipeline = kind(**{**parts, **pipeline_extras(kind, base.zero_empty), **extra})
    pipeline.scheduler = make_scheduler(base, sampler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def levels_apart(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of two pictures, in levels of 255."""
    assert one.size == other.size
    return int(np.abs(np.asarray(one.convert("RGB"), int) - np.asarray(other.convert("RGB"), int)).max())
