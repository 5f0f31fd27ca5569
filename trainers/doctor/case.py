"""What the doctor looks at, and what it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from trainers.config import DataConfig, RunConfig
from trainers.dataset import Item

_GRID = 16


@dataclass(frozen=True)
class Finding:
    """Something that a person should know before the training.

    kind: id of the check that found it, a key of CHECKS, or "unreadable". file: name of the picture; empty
    for what concerns all. message: what is the matter. advice: what to do.
    """

    kind: str
    file: str
    message: str
    advice: str

    def line(self) -> str:
        """The whole finding as one line."""
        place = f"{self.file}: " if self.file else ""
        return f"{place}{self.message}; {self.advice}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Look:
    """What is kept of one picture; its pixels aren't.

    size: (width, height). sharpness: variance of the Laplacian over the variance of the luma, at the size
    that is learned. spread: standard deviation of the luma, 0 … 127. marks: bool (2·16·16,), whether it gets
    brighter to the right and downwards, over a grid. mirrored: the same of the mirrored picture.
    colours: fp32 (8, 8, 3), 0 … 255.
    """

    item: Item
    held_out: bool
    size: tuple[int, int]
    sharpness: float
    spread: float
    marks: np.ndarray
    mirrored: np.ndarray
    colours: np.ndarray

    @property
    def name(self) -> str:
        """The picture's name."""
        return self.item.name


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """All that the checks know.

    resolution: side in pixels of the square. run: None where it isn't known. unseen: how many more pictures
    are learned from than were looked at.
    """

    data: DataConfig
    run: RunConfig | None
    resolution: int
    looks: tuple[Look, ...]
    unseen: int = 0


def look(item: Item, held_out: bool, resolution: int) -> Look:
    """Decode a picture once, and measure it."""
    picture = item.source.image
    shorter = min(picture.size)
    scaled = picture
    if shorter > resolution:
        size = (round(picture.width * resolution / shorter), round(picture.height * resolution / shorter))
        scaled = picture.resize(size, Image.Resampling.LANCZOS)
    luma = np.asarray(scaled.convert("L"), dtype=np.float64)
    small = np.asarray(picture.resize((8, 8), Image.Resampling.BOX), dtype=np.float32)
    return Look(
        item=item,
        held_out=held_out,
        size=picture.size,
        sharpness=sharpness(luma),
        spread=float(luma.std()),
        marks=marks(picture),
        mirrored=marks(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        colours=small,
    )


def sharpness(luma: np.ndarray) -> float:
    """Return the variance of the Laplacian of a picture (H, W) over its own variance; 0 where it has none.

    Source: Pech-Pacheco et al. 2000, https://doi.org/10.1109/ICPR.2000.903548; dividing by the variance, so
    that a dim picture isn't called blurred, is added here.
    """
    spread = float(luma.var())
    if min(luma.shape) < 3 or spread == 0.0:
        return 0.0
    inner = luma[1:-1, 1:-1]
    laplacian = luma[1:-1, :-2] + luma[1:-1, 2:] + luma[:-2, 1:-1] + luma[2:, 1:-1] - 4.0 * inner
    return float(laplacian.var()) / spread


def marks(picture: Image.Image) -> np.ndarray:
    """Return a perceptual hash, bool (512,): whether the luma grows to the right and downwards over a grid.

    Source: the difference hash of N. Krawetz, "Kind of Like That", 2013, in both directions.
    """
    across = picture.convert("L").resize((_GRID + 1, _GRID), Image.Resampling.BOX)
    down = picture.convert("L").resize((_GRID, _GRID + 1), Image.Resampling.BOX)
    right, below = (np.asarray(one, dtype=np.int16) for one in (across, down))
    return np.concatenate([np.diff(right, axis=1).ravel() > 0, np.diff(below, axis=0).ravel() > 0])
