"""The safety checker of a base that brings one: pictures it flags are blacked out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.drawing.clip_pixels import clip_pixels
from pipelines.drawing.networks import keep, load_network, read_config, stamp
from pipelines.errors import BaseError

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.base import Base

NOTE = "the base's safety checker flagged the picture: blacked out; another seed or prompt may pass"
_WANTED = "the base's folder again, or turn the safety checker off"


def safety_checker(base: Base, wanted: bool) -> Callable[[Image], bool]:
    """Return what says whether a picture is flagged; nothing is where the base brings no checker.

    wanted: False never asks. Raises: BaseError for a checker that can't be loaded.
    """
    folder = base.path / "safety_checker"
    if not wanted or not folder.is_dir():
        return lambda _: False
    what = f"base {base.ref!r}: safety_checker"
    read_config(folder, what, _WANTED)
    extractor = _extractor(base.path / "feature_extractor" / "preprocessor_config.json", what)
    key = stamp(folder)
    checker = keep(base, "safety checker", {key: lambda: _load(base, folder, what)})[key]

    def flagged(image: Image) -> bool:
        import numpy as np

        side = int(checker.config.vision_config.image_size)
        pixels = clip_pixels(image, side, extractor).to(base.device, base.dtype)
        # The checker paints what it flags black itself; the picture isn't handed over for that.
        _, found = checker(images=[np.zeros((1, 1, 3))], clip_input=pixels)
        return bool(found[0])

    return flagged


def blackened(image: Image) -> Image:
    """Return a black picture of the same size."""
    from PIL import Image as Images

    return Images.new(image.mode, image.size)


def _load(base: Base, folder: Path, what: str) -> Any:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    return load_network(base, StableDiffusionSafetyChecker, folder, what)


def _extractor(file: Path, what: str) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise BaseError(f"{what} needs feature_extractor/{file.name}, which isn't readable; fetch {_WANTED}")
    return config
