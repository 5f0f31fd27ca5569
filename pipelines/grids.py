"""Pictures side by side with labels, and how far two pictures are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.errors import PictureError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

_CELL_AT_LEAST = 128
_GAP = 6
_FONT_SIZE = 15
_INK, _PAPER = (28, 28, 32), (255, 255, 255)
_MAX_LABEL_LINES = 5
_MOST_PIXELS = 12_000  # of all cells along one side: with labels a file stays under 16 384


def labelled_grid(
    rows: Sequence[Sequence[Image]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str | None = None,
) -> Image:
    """Put pictures into a grid with labels at the left and on top.

    rows: of equal length, all pictures of one size; pictures under 128 pixels wide are enlarged by a
    whole number without smoothing, so that they stay as drawn. Labels are wrapped to the space there is.

    Raises: PictureError for an empty grid, rows of unequal length, pictures of unequal size, or a
    number of labels that doesn't fit.
    """
    from PIL import Image, ImageDraw, ImageFont

    cell = _check_grid(rows, row_labels, column_labels)
    scale = max(1, math.ceil(_CELL_AT_LEAST / cell[0]))
    width, height = cell[0] * scale, cell[1] * scale
    font = ImageFont.load_default(_FONT_SIZE)
    line = _line_height(font)
    left = _left_margin(row_labels, font)
    columns = [_wrap(label, font, width) for label in column_labels]
    side = [_wrap(label, font, left - 2 * _GAP) for label in row_labels]
    heading = _wrap(title or "", font, left + len(column_labels) * (width + _GAP)) if title else []
    top_title = len(heading) * line + (2 * _GAP if heading else 0)
    top = top_title + max(len(lines) for lines in columns) * line + 2 * _GAP
    size = (left + len(column_labels) * (width + _GAP), top + len(rows) * (height + _GAP))
    grid = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(grid)
    for index, text in enumerate(heading):
        draw.text((_GAP, _GAP + index * line), text, fill=_INK, font=font)
    for column, lines in enumerate(columns):
        x = left + column * (width + _GAP) + width / 2
        _centred(draw, lines, (x, top - _GAP - len(lines) * line / 2), font)
    for row, pictures in enumerate(rows):
        y = top + row * (height + _GAP)
        _centred(draw, side[row], (left / 2, y + height / 2), font)
        for column, picture in enumerate(pictures):
            enlarged = picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
            grid.paste(enlarged, (left + column * (width + _GAP), y))
    return grid


def stacked(pictures: Sequence[Image]) -> Image:
    """Put pictures under each other on white, at the left; one alone is given back as it is."""
    from PIL import Image

    if len(pictures) == 1:
        return pictures[0]
    size = (max(picture.width for picture in pictures), sum(picture.height for picture in pictures))
    whole = Image.new("RGB", size, _PAPER)
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def shrunk(cell: tuple[int, int], counts: tuple[int, int]) -> int:
    """Return the whole number by which cells are made smaller, so that a grid's sides stay in bounds.

    cell: (width, height) in pixels. counts: columns and rows.
    """
    sides = (cell[0] * counts[0], cell[1] * counts[1])
    return max(1, *(math.ceil(side / _MOST_PIXELS) for side in sides))


def _check_grid(
    rows: Sequence[Sequence[Image]], row_labels: Sequence[str], column_labels: Sequence[str]
) -> tuple[int, int]:
    """Return the size of the grid's pictures. Raises: PictureError."""
    if not rows or not rows[0]:
        raise PictureError("a grid needs at least one picture; got none")
    if len(rows) != len(row_labels) or any(len(row) != len(column_labels) for row in rows):
        shape = "×".join((str(len(rows)), "/".join(sorted({str(len(row)) for row in rows}))))
        raise PictureError(
            f"a grid of {shape} pictures has {len(row_labels)} row and {len(column_labels)} column labels; "
            "give one label per row and per column, and rows of equal length"
        )
    sizes = {picture.size for row in rows for picture in row}
    if len(sizes) > 1:
        raise PictureError(
            f"a grid's pictures have {len(sizes)} sizes, for instance {sorted(sizes)[:2]}; give one"
        )
    return sizes.pop()


def _left_margin(labels: Sequence[str], font: Font) -> int:
    """Width of the label column in pixels: as the longest label needs, at most 170."""
    widest = max((font.getlength(label) for label in labels), default=0)
    return 0 if widest == 0 else int(min(170, widest)) + 3 * _GAP


def _line_height(font: Font) -> int:
    box = font.getbbox("Ágy")
    return math.ceil(box[3]) + 3


def _wrap(text: str, font: Font, width: float) -> list[str]:
    """Break a text into at most five lines of `width` pixels; what is left over ends in "…"."""
    lines: list[str] = []
    current = ""
    for word in text.split():
        trial = f"{current} {word}".strip()
        if font.getlength(trial) <= width:
            current = trial
            continue
        if current:
            lines.append(current)
        current = _shortened(word, font, width)
    lines.append(current)
    if len(lines) > _MAX_LABEL_LINES:
        lines = [*lines[: _MAX_LABEL_LINES - 1], _shortened(lines[_MAX_LABEL_LINES - 1] + "…", font, width)]
    return lines


def _shortened(word: str, font: Font, width: float) -> str:
    """Cut a word to `width` pixels, ending in "…" where something was cut."""
    if font.getlength(word) <= width:
        return word
    while len(word) > 1 and font.getlength(f"{word}…") > width:
        word = word[:-1]
    return f"{word.rstrip('…')}…"


def _centred(draw: object, lines: Sequence[str], centre: tuple[float, float], font: Font) -> None:
    """Draw lines of text around a point."""
    from PIL.ImageDraw import ImageDraw

    assert isinstance(draw, ImageDraw)
    line = _line_height(font)
    top = centre[1] - len(lines) * line / 2
    for index, text in enumerate(lines):
        x = centre[0] - font.getlength(text) / 2
        draw.text((x, top + index * line), text, fill=_INK, font=font)


def psnr(first: Image | torch.Tensor, second: Image | torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio of two pictures in dB; infinity where they are equal.

    Pictures are compared as 8-bit RGB (peak 255), tensors as pixels in [-1, 1] (peak 2).
    Raises: PictureError for unequal sizes, or a picture against a tensor.
    """
    from PIL import Image

    if isinstance(first, Image.Image) and isinstance(second, Image.Image):
        import numpy as np

        if first.size != second.size:
            raise PictureError(
                f"pictures of {first.size} and {second.size} pixels can't be compared; give one size"
            )
        levels = [np.asarray(picture.convert("RGB"), dtype=np.float64) for picture in (first, second)]
        error, peak = float(((levels[0] - levels[1]) ** 2).mean()), 255.0
    elif isinstance(first, Image.Image) or isinstance(second, Image.Image):
        raise PictureError("a picture can't be compared with a tensor; give two of one kind")
    else:
        if first.shape != second.shape:
            raise PictureError(f"tensors of {tuple(first.shape)} and {tuple(second.shape)} can't be compared")
        error, peak = float(((first.double() - second.double()) ** 2).mean()), 2.0
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)
