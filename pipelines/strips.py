"""What one adapter's slider does: its weights from end to end, as one picture or as a short loop."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.axes import Axis
from pipelines.errors import ConfigError, PictureError
from pipelines.files import write_atomic
from pipelines.generation import GenerationConfig
from pipelines.grid_drawing import Grid, draw_grid
from pipelines.grids import labelled_grid
from pipelines.picture import Picture, a1111_parameters
from pipelines.stage import Stage

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.denoise import OnStep

MIN_FRAMES, MAX_FRAMES = 2, 64


@dataclass(frozen=True, eq=False)
class Strip:
    """A drawn strip: the weights, a picture for each, and all of them as one labelled picture."""

    axis: Axis
    pictures: tuple[Picture, ...]
    whole: Picture

    def frames(self) -> list[Image]:
        """The pictures, each with its weight above it, of one size."""
        labels = [self.axis.label(value) for value in self.axis.values]
        cells = [picture.image for picture in self.pictures]
        return [labelled_grid([[cell]], [""], [label]) for cell, label in zip(cells, labels, strict=True)]

    def save_webp(self, path: str | Path, *, frame_seconds: float = 0.12) -> None:
        """Write a WebP that runs there and back for ever, its ends held a little; settings in its EXIF.

        Raises: PictureError for another ending than .webp, or a system that refuses.
        """
        from PIL.Image import Exif

        path = Path(path)
        if path.suffix.lower() != ".webp":
            raise PictureError(f"{path.name!r} can't hold moving pictures; expected a name ending in .webp")
        frames = self.frames()
        loop = [*frames, *frames[-2:0:-1]]  # the ends come once
        ends = {0, len(frames) - 1}
        durations = [round(1000 * frame_seconds * (4 if at in ends else 1)) for at in range(len(loop))]
        exif = Exif()
        text = a1111_parameters(self.whole.settings)
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")  # UserComment, as A1111 has it
        buffer = io.BytesIO()
        loop[0].save(
            buffer, "WEBP", save_all=True, append_images=loop[1:], duration=durations, loop=0, quality=90,
            exif=exif,
        )  # fmt: skip
        try:
            write_atomic(path, [buffer.getvalue()])
        except OSError as error:
            raise PictureError(f"{path.name!r} can't be written: {error.strerror or error}") from None


def draw_strip(
    stage: Stage,
    config: GenerationConfig,
    *,
    adapter: str | None = None,
    low: float = -1.0,
    high: float = 2.0,
    count: int = 7,
    on_step: OnStep | None = None,
) -> Strip | None:
    """Draw one seed at `count` weights of an adapter, `low` to `high`, both in.

    adapter: its name in the settings; None for all of the mix together. The others keep their weights.
    When `on_step` returns False the answer is None.

    Raises: ConfigError for an empty range or too many pictures; AdapterError for an unknown adapter.
    """
    axis = strip_axis(adapter, low, high, count)
    grid = draw_grid(stage, config, [axis], on_step=on_step)
    return None if grid is None else _strip(grid, axis)


def strip_axis(adapter: str | None, low: float, high: float, count: int) -> Axis:
    """Return the axis of a strip. Raises: ConfigError for an empty range or too many pictures."""
    if not MIN_FRAMES <= count <= MAX_FRAMES:
        raise ConfigError(f"a strip has {MIN_FRAMES} to {MAX_FRAMES} pictures; got {count}")
    if not low < high:
        raise ConfigError(f"a strip from {low:g} to {high:g} has no length; give the lower weight first")
    return Axis(kind="weight", target=adapter, values=_even(low, high, count))


def _even(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(round(low + (high - low) * index / (count - 1), 4) for index in range(count))


def _strip(grid: Grid, axis: Axis) -> Strip:
    pictures: Sequence[Picture] = [grid.cells[index,] for index in range(len(axis.values))]
    return Strip(axis=axis, pictures=tuple(pictures), whole=grid.picture)
