"""What a training will see of each picture, for the page to draw over it."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.errors import PictureError
from studio.base_shapes import shape_of
from studio.bases import POCKET
from studio.datasets import Dataset
from studio.workspace import Workspace
from trainers.config import DataConfig


@dataclass(frozen=True)
class Crop:
    """A part of a picture that is learned. width, height: in pixels, as it is learned.

    box: left, top, right, bottom, as shares of the upright picture's sides.
    """

    sha256: str
    width: int
    height: int
    box: tuple[float, float, float, float]


def crops(
    dataset: Dataset, data: DataConfig, workspace: Workspace | None = None, base: str = POCKET
) -> list[Crop]:
    """Say what is cut from each picture of a set: one part, or three where `data.center_crop` is off.

    A picture of which nothing can be cut has no crop. workspace, base: what it is learned by.

    Raises: ConfigError for a resolution that the base can't have.
    """
    from pathlib import Path

    from trainers.dataset import Item
    from trainers.frames import frames
    from trainers.images import Source

    shape = shape_of(workspace, base)
    found: list[Crop] = []
    for one in dataset.items:
        source = Source(Path(one.sha256), (one.width, one.height), (), one.sha256)
        item = Item(source=source, caption="", name=one.name)
        try:
            parts = frames([item], data, data.resolution or shape.resolution, shape.multiple, plain=True)
        except PictureError:
            continue  # too long a strip: said where the set is checked
        for part in parts:
            top, right, bottom, left = part.cut_off
            height, width = part.size
            found.append(Crop(one.sha256, width, height, (left, top, 1.0 - right, 1.0 - bottom)))
    return found
