"""How alike the pictures are that are learned from: what all of them share is learned with the subject."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from PIL import Image

_GRID = 12
_AT_MOST = 64


def alike(pictures: Sequence[Image.Image]) -> float | None:
    """Return how alike pictures are: the mean correlation of all pairs, -1..1; None for fewer than two.

    Over a grid of 12 by 12 colours, each channel about its own mean, so that a tint that a style has
    everywhere doesn't count; of a picture and its mirror image the one that is nearer. Of more than 64
    pictures 64, evenly chosen.
    """
    if len(pictures) < 2:
        return None
    every = -(-len(pictures) // _AT_MOST)
    small = [_layout(picture) for picture in pictures[::every]]
    return float(np.mean([_correlation(one, other) for one, other in combinations(small, 2)]))


def _layout(picture: Image.Image) -> np.ndarray:
    """A picture as a unit vector (12, 12, 3) of what departs from its mean colour; zeros for one colour."""
    small = picture.convert("RGB").resize((_GRID, _GRID), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float64) / 255
    values = values - values.mean(axis=(0, 1))
    length = float(np.linalg.norm(values))
    return values / length if length > 1e-3 else np.zeros_like(values)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two layouts, or of one with the other's mirror image; of two single colours 1."""
    if not one.any() and not other.any():
        return 1.0
    return float(max((one * other).sum(), (one * other[:, ::-1]).sum()))
