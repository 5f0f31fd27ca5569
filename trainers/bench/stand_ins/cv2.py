"""What training scripts use of OpenCV: pictures resized and their channels turned round, by Pillow.

Only registered where the real package is missing.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any

import numpy as np
from PIL import Image

INTERPOLATIONS = {
    "INTER_NEAREST": Image.Resampling.NEAREST,
    "INTER_LINEAR": Image.Resampling.BILINEAR,
    "INTER_CUBIC": Image.Resampling.BICUBIC,
    "INTER_AREA": Image.Resampling.BOX,
    "INTER_LANCZOS4": Image.Resampling.LANCZOS,
    "INTER_NEAREST_EXACT": Image.Resampling.NEAREST,
}
"""OpenCV's names of ways to interpolate, and Pillow's nearest to each."""

COLOURS = ("COLOR_BGR2RGB", "COLOR_RGB2BGR", "COLOR_BGRA2RGBA", "COLOR_RGBA2BGRA")
"""Changes of colour that only turn the first three channels round."""


def resize(image: Any, size: tuple[int, int], interpolation: Any = Image.Resampling.BILINEAR) -> Any:
    """A picture (H, W) or (H, W, C) at `size`, (width, height) in pixels."""
    return np.array(Image.fromarray(image).resize(size, interpolation))


def cvtColor(image: Any, code: str) -> Any:
    """A picture (H, W, 3 or 4) with its first three channels turned round.

    Raises: NotImplementedError for a change that isn't one of COLOURS.
    """
    if code not in COLOURS:
        raise NotImplementedError(f"this stand-in for OpenCV has no {code!r}; install opencv-python-headless")
    order = [2, 1, 0, *range(3, image.shape[-1])]
    return np.ascontiguousarray(image[..., order])


def register() -> None:
    """Put `cv2` into sys.modules."""
    module = types.ModuleType("cv2", "A stand-in; see Pigment's trainers/bench/stand_ins.")
    module.__spec__ = importlib.machinery.ModuleSpec("cv2", None)
    for name, value in [*INTERPOLATIONS.items(), *((code, code) for code in COLOURS)]:
        setattr(module, name, value)
    module.resize = resize  # type: ignore[attr-defined]
    module.cvtColor = cvtColor  # type: ignore[attr-defined]
    sys.modules["cv2"] = module
