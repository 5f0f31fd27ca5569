"""What training scripts use of torchvision's transforms: the same work on the same PIL pictures.

Registered only where the real package is missing. transformers and diffusers must not believe that it is
there (they would import far more of it): they are asked first, and they remember their answer.
"""

from __future__ import annotations

import enum
import importlib.machinery
import random
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from PIL import Image


class InterpolationMode(enum.Enum):
    """Ways to interpolate, by torchvision's names."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


_RESAMPLING = {
    InterpolationMode.NEAREST: Image.Resampling.NEAREST,
    InterpolationMode.NEAREST_EXACT: Image.Resampling.NEAREST,
    InterpolationMode.BILINEAR: Image.Resampling.BILINEAR,
    InterpolationMode.BICUBIC: Image.Resampling.BICUBIC,
    InterpolationMode.BOX: Image.Resampling.BOX,
    InterpolationMode.HAMMING: Image.Resampling.HAMMING,
    InterpolationMode.LANCZOS: Image.Resampling.LANCZOS,
}


def crop(picture: Any, top: int, left: int, height: int, width: int) -> Any:
    """A part of a PIL picture, or of a tensor (…, H, W)."""
    if isinstance(picture, torch.Tensor):
        return picture[..., top : top + height, left : left + width]
    return picture.crop((left, top, left + width, top + height))


def _sides(picture: Any) -> tuple[int, int]:
    """Height and width in pixels."""
    if isinstance(picture, torch.Tensor):
        return picture.shape[-2], picture.shape[-1]
    return picture.height, picture.width


class Compose:
    """One after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, picture: Any) -> Any:
        for transform in self.transforms:
            picture = transform(picture)
        return picture


class Resize:
    """Bring the shorter side to `size` pixels, or both to (height, width); what fits stays as it is."""

    def __init__(
        self, size: int | Sequence[int], interpolation: InterpolationMode = InterpolationMode.BILINEAR
    ) -> None:
        self.size = size
        self.interpolation = interpolation

    def __call__(self, picture: Any) -> Any:
        height, width = _sides(picture)
        if isinstance(self.size, int):
            shorter = min(height, width)
            wanted = (int(self.size * height / shorter), int(self.size * width / shorter))
        else:
            wanted = (self.size[0], self.size[-1])
        if wanted == (height, width):
            return picture
        return picture.resize(wanted[::-1], _RESAMPLING[self.interpolation])


class CenterCrop:
    """The middle, (size, size)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Any) -> Any:
        height, width = _sides(picture)
        top, left = round((height - self.size) / 2.0), round((width - self.size) / 2.0)
        return crop(picture, top, left, self.size, self.size)


class RandomCrop:
    """A square of `size` pixels anywhere."""

    def __init__(self, size: int) -> None:
        self.size = (size, size)

    @staticmethod
    def get_params(picture: Any, output_size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Draw (top, left, height, width)."""
        (height, width), (tall, wide) = _sides(picture), output_size
        if (height, width) == (tall, wide):
            return 0, 0, height, width
        top = int(torch.randint(0, height - tall + 1, size=(1,)))
        left = int(torch.randint(0, width - wide + 1, size=(1,)))
        return top, left, tall, wide

    def __call__(self, picture: Any) -> Any:
        return crop(picture, *self.get_params(picture, self.size))


class RandomHorizontalFlip:
    """Mirror left and right, of `p` of all pictures."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, picture: Any) -> Any:
        if random.random() >= self.p:
            return picture
        if isinstance(picture, torch.Tensor):
            return picture.flip(-1)
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


class ToTensor:
    """A picture as fp32 (C, H, W), [0, 1]."""

    def __call__(self, picture: Any) -> torch.Tensor:
        values = torch.from_numpy(np.array(picture, copy=True))
        values = values[..., None] if values.ndim == 2 else values
        return values.permute(2, 0, 1).contiguous().to(torch.float32).div(255)


class Normalize:
    """(value − mean) / std, per channel, or one of each for all."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = mean
        self.std = std

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.as_tensor(v, dtype=picture.dtype)[:, None, None] for v in (self.mean, self.std))
        return picture.clone().sub_(mean).div_(std)


_TRANSFORMS = (
    InterpolationMode,
    Compose,
    Resize,
    CenterCrop,
    RandomCrop,
    RandomHorizontalFlip,
    ToTensor,
    Normalize,
)
VERSION = "0.0.0+stand-in"


def register() -> None:
    """Put torchvision, its transforms and their functional form into sys.modules."""
    with suppress(ImportError, AttributeError):
        from transformers.utils import import_utils

        import_utils.is_torchvision_available()
        import_utils.is_torchvision_v2_available()
    with suppress(ImportError):
        import diffusers.utils.import_utils  # noqa: F401
    functional = _module("torchvision.transforms.functional", crop=crop, InterpolationMode=InterpolationMode)
    names = {each.__name__: each for each in _TRANSFORMS}
    transforms = _module("torchvision.transforms", functional=functional, **names)
    _module("torchvision", transforms=transforms, __version__=VERSION)


def _module(name: str, **holds: Any) -> types.ModuleType:
    module = types.ModuleType(name, "A stand-in; see Pigment's trainers/bench/stand_ins.")
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    for key, value in holds.items():
        setattr(module, key, value)
    sys.modules[name] = module
    return module
