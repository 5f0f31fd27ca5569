"""What training scripts use of imagesize: a picture's size without its pixels, by Pillow.

Only registered where the real package is missing.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import types

from PIL import Image


def get(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height in pixels; only the file's head is read."""
    with Image.open(path) as picture:
        return picture.size


def register() -> None:
    """Put `imagesize` into sys.modules."""
    module = types.ModuleType("imagesize", "A stand-in; see Pigment's trainers/bench/stand_ins.")
    module.__spec__ = importlib.machinery.ModuleSpec("imagesize", None)
    module.get = get  # type: ignore[attr-defined]
    sys.modules["imagesize"] = module
