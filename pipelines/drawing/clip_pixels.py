"""Pictures as CLIP's image encoders see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.drawing.images import to_pixels

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(image: Image, side: int, config: Mapping[str, Any] | None = None) -> torch.Tensor:
    """Return (1, 3, side, side) fp32: the shorter side scaled to `side`, the middle, CLIP's mean and spread.

    config: of a feature extractor, whose mean and spread are taken where it names them.
    Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020; as transformers' CLIPImageProcessor.
    """
    import torch
    from PIL.Image import Resampling

    image = image.convert("RGB")
    short, long = sorted(image.size)
    other = int(side * long / short)
    size = (side, other) if image.width <= image.height else (other, side)
    image = image.resize(size, Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    pixels = to_pixels(image.crop((left, top, left + side, top + side)))
    mean, std = ((config or {}).get(name, own) for name, own in (("image_mean", _MEAN), ("image_std", _STD)))
    shape = (1, 3, 1, 1)
    return (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
