"""Masks: what counts in a picture, from a file beside it or from its own opacity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipelines.errors import PictureError
from trainers.images import MASK, SUFFIXES

if TYPE_CHECKING:
    from trainers.dataset import Item

FOLDER = "masks"
_ASPECT = 0.02


def find_mask(picture: Path, named: str | None = None) -> Path | None:
    """Return the file of a picture's mask: name.mask.png beside it, or name.png in the folder "masks".

    named: its name as a table says it, beside the picture or in the folder "masks".

    Raises: PictureError where the named one isn't there, or its name is more than a file's name.
    """
    if named is None:
        endings = [ending for suffix in SUFFIXES for ending in (suffix, suffix.upper())]
        names = [f"{picture.stem}{MASK}{ending}" for ending in endings]
        inside = [f"{picture.stem}{ending}" for ending in endings]
        places = [picture.with_name(name) for name in names]
        places += [picture.parent / FOLDER / name for name in inside]
        return next((path for path in places if path.is_file()), None)
    # Names come from a table, which may be hostile: they never lead out of the folder.
    plain = len(named) <= 255 and not set(named) & set("/\\\0") and named not in ("", ".", "..")
    for path in (picture.with_name(named), picture.parent / FOLDER / named) if plain else ():
        if path.is_file():
            return path
    raise PictureError(
        f"mask {named[:100]!r} of picture {picture.name!r}: expected a file beside it; put it there"
    )


def check_mask(item: Item) -> None:
    """Refuse a mask of another shape than its picture, and one that leaves nothing.

    Raises: PictureError naming the picture.
    """
    name = item.name
    if item.mask_source is not None:
        (mask_width, mask_height), (width, height) = item.mask_source.size, item.source.size
        if abs(mask_width * height / (mask_height * width) - 1) > _ASPECT:
            raise PictureError(
                f"mask {item.mask_source.path.name!r} is {mask_width}×{mask_height}, expected the shape of "
                f"picture {name!r}, {width}×{height}; draw it over the picture"
            )
    mask = item.mask
    if mask is not None and mask.getextrema()[1] == 0:
        raise PictureError(f"picture {name!r}: its mask leaves nothing to learn from; make some of it white")


def weights(mask: Image.Image | None, size: tuple[int, int], unmasked: float) -> np.ndarray:
    """Return how much each latent counts, fp32 (h, w) in [unmasked, 1]: the mean of the mask over it.

    mask: L, 255 counts fully, its sides multiples of the latents'; None: all counts 1.
    size: (h, w) of the latents. unmasked: weight of what the mask leaves out.
    """
    height, width = size
    if mask is None:
        return np.ones(size, dtype=np.float32)
    values = np.asarray(mask, dtype=np.float32) / 255.0  # (H, W)
    blocks = values.reshape(height, values.shape[0] // height, width, values.shape[1] // width)
    return (unmasked + (1.0 - unmasked) * blocks.mean(axis=(1, 3))).astype(np.float32)
