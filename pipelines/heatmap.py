"""The interference report as a picture: how the pairs agree per block, and who has the energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.errors import PictureError
from pipelines.grids import _line_height, _shortened

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from pipelines.interference import BlockInterference, Interference

    Font = FreeTypeFont | ImageFont

Colour = tuple[int, int, int]

MAX_ADAPTERS = 6
WIDTH = 960

_INK, _SOFT, _PAPER, _EMPTY = (28, 28, 32), (110, 110, 118), (255, 255, 255), (238, 238, 240)
_MARGIN, _GAP, _CELL_HEIGHT, _SQUARE, _SCALE = 20, 26, 30, 15, 160
# Diverging: against each other, nothing, the same way. Sequential: nothing to everything. After
# ColorBrewer's RdBu and Purples, whose ends stay apart for colour-blind eyes.
_AGAINST, _NEUTRAL, _ALIKE = (33, 102, 172), (247, 247, 247), (178, 24, 43)
_NONE, _ALL = (250, 249, 252), (84, 39, 143)
# After Okabe and Ito: told apart by colour-blind eyes.
_ADAPTERS: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (213, 94, 0), (0, 114, 178),
)  # fmt: skip
_RANGES = (0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class _Panel:
    """A block of columns, one per pair. limit: the value at which the colour is full."""

    title: str
    legend: str
    field: str
    limit: float
    diverging: bool
    left: int
    cell: int

    def colour(self, value: float) -> Colour:
        share = max(-1.0, min(1.0, value / self.limit))
        if not self.diverging:
            return _between(_NONE, _ALL, max(0.0, share))
        return _between(_NEUTRAL, _ALIKE if share > 0 else _AGAINST, abs(share))


def interference_picture(report: Interference, title: str = "Interference of adapters") -> Image:
    """Draw the report, 960 pixels wide: blocks down the side, pairs across, and bars of energy shares.

    Up to three pairs have panels for the cosine and for what they write and read in common; more have
    the cosine alone.

    Raises: PictureError for fewer than 2 adapters, or more than 6.
    """
    from PIL import Image as Pictures
    from PIL import ImageDraw, ImageFont

    count = len(report.adapters)
    if not 2 <= count <= MAX_ADAPTERS:
        raise PictureError(f"a heat map shows 2 to {MAX_ADAPTERS} adapters; got {count}")
    small, plain, large = (ImageFont.load_default(size) for size in (12, 14, 20))
    left = _MARGIN + max(int(plain.getlength(block)) for block, _ in report.rows) + 14
    panels, bars = _layout(report, left)
    top = _MARGIN + 30 + _line_height(small) + 14
    spelled = _spelled(panels)
    head = _line_height(plain) + (2 * _line_height(small) if spelled else _SQUARE) + 8
    rows_top = top + head
    legend_top = rows_top + len(report.rows) * _CELL_HEIGHT + 8 + 18
    height = legend_top + 2 * _SQUARE + 4 + _MARGIN
    picture = Pictures.new("RGB", (WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, _MARGIN - 4), _shortened(title, large, WIDTH - 2 * _MARGIN), fill=_INK, font=large)
    draw.text((_MARGIN, _MARGIN + 26), _subtitle(report, small), fill=_SOFT, font=small)
    for index, (block, found) in enumerate(report.rows):
        y = rows_top + index * _CELL_HEIGHT + (8 if block == "all" else 0)
        _text(draw, block, (_MARGIN, y), left - _MARGIN, plain, anchor="left")
        for panel in panels:
            _cells(draw, panel, found, y, small if panel.cell < 50 else plain)
        _bar(draw, report, found, bars, y, small)
    for panel in panels:
        _panel_head(draw, panel, report, top, (plain, small), spelled)
        _scale(draw, panel, len(report.total.pairs), legend_top, small)
    draw.text((bars[0], top), "share of the energy", fill=_INK, font=plain)
    names_left = panels[0].left + _SCALE + _GAP if len(panels) == 1 else bars[0]
    _names(draw, report, (names_left, WIDTH - _MARGIN - names_left), legend_top, small)
    return picture


def _layout(report: Interference, left: int) -> tuple[list[_Panel], tuple[int, int]]:
    """Return the panels and the (left, width) of the bars."""
    pairs = len(report.total.pairs)
    known = [abs(own.cosine) for _, found in report.rows for own in found.pairs.values() if own.cosine]
    largest = max(known, default=0.0)
    limit = next(step for step in _RANGES if largest <= step or step == 1.0)
    kinds = [("agreement (cosine)", "opposed / alike", "cosine", limit, True)]
    if pairs <= 3:
        kinds += [("write in common", "none / all", "columns", 1.0, False),
                  ("read in common", "none / all", "rows", 1.0, False)]  # fmt: skip
    bar_width = 220
    free = WIDTH - left - _MARGIN - bar_width - len(kinds) * _GAP
    cell = min(150, free // (pairs * len(kinds)))
    panels, x = [], left
    for name, legend, field, top, diverging in kinds:
        panels.append(_Panel(name, legend, field, top, diverging, x, cell))
        x += pairs * cell + _GAP
    return panels, (x, WIDTH - _MARGIN - x)


def _subtitle(report: Interference, font: Font) -> str:
    parts = []
    for name, (unet, text) in report.weights.items():
        parts.append(f"{name} {unet:g}" + ("" if unet == text else f" (text {text:g})"))
    return _shortened("at the weights:  " + ",  ".join(parts), font, WIDTH - 2 * _MARGIN)


def _spelled(panels: Sequence[_Panel]) -> bool:
    """Whether the cells are wide enough for the pairs' names; else their numbers stand for them."""
    return panels[0].cell >= 70


def _panel_head(
    draw: ImageDraw, panel: _Panel, report: Interference, top: int, fonts: tuple[Font, Font], spelled: bool
) -> None:
    """Draw a panel's title, and over each column its pair: two names, or two numbered squares."""
    plain, small = fonts
    width = panel.cell * len(report.total.pairs)
    draw.text((panel.left, top), _shortened(panel.title, plain, max(width, 120)), fill=_INK, font=plain)
    y = top + _line_height(plain) + 2
    for column, pair in enumerate(report.total.pairs):
        x = panel.left + column * panel.cell
        if spelled:
            for index, name in enumerate(pair):
                line = _shortened(name, small, panel.cell - 6)
                place = (x, y + index * _line_height(small))
                _text(draw, line, place, panel.cell - 2, small, height=_line_height(small), ink=_SOFT)
            continue
        middle = x + (panel.cell - 2) // 2
        for name, corner in zip(pair, (middle - _SQUARE - 1, middle + 1), strict=True):
            _square(draw, report.adapters.index(name), (corner, y), small)


def _square(draw: ImageDraw, index: int, corner: tuple[int, int], font: Font) -> None:
    """Draw an adapter's colour with its number in it."""
    x, y = corner
    draw.rectangle((x, y, x + _SQUARE - 1, y + _SQUARE - 1), fill=_ADAPTERS[index])
    ink = _on(_ADAPTERS[index])
    _text(draw, str(index + 1), corner, _SQUARE, font, height=_SQUARE, ink=ink)


def _cells(draw: ImageDraw, panel: _Panel, found: BlockInterference, y: int, font: Font) -> None:
    """Draw a row's cells of one panel, the number in each."""
    for column, own in enumerate(found.pairs.values()):
        value = getattr(own, panel.field)
        x = panel.left + column * panel.cell
        fill = _EMPTY if value is None else panel.colour(value)
        draw.rectangle((x, y, x + panel.cell - 2, y + _CELL_HEIGHT - 3), fill=fill)
        shown = "–" if value is None else _number(value, panel.diverging)
        _text(draw, shown, (x, y), panel.cell - 2, font, height=_CELL_HEIGHT - 2, ink=_on(fill))


def _bar(
    draw: ImageDraw,
    report: Interference,
    found: BlockInterference,
    place: tuple[int, int],
    y: int,
    font: Font,
) -> None:
    """Draw a row's shares of energy as one stacked bar, with per cents where there is room."""
    x, width = place
    if not sum(found.share.values()):
        draw.rectangle((x, y, x + width - 1, y + _CELL_HEIGHT - 3), fill=_EMPTY)
        return
    done = 0.0
    for index, name in enumerate(report.adapters):
        share = found.share[name]
        begin, end = x + round(done * width), x + round((done + share) * width)
        done += share
        if end <= begin:
            continue
        fill = _ADAPTERS[index]
        draw.rectangle((begin, y, end - 1, y + _CELL_HEIGHT - 3), fill=fill)
        label = f"{share:.0%}"
        if font.getlength(label) + 6 <= end - begin:
            _text(draw, label, (begin, y), end - begin, font, height=_CELL_HEIGHT - 2, ink=_on(fill))


def _scale(draw: ImageDraw, panel: _Panel, pairs: int, top: int, font: Font) -> None:
    """Draw a panel's colour scale with its ends' numbers, and what they mean."""
    width = min(_SCALE, pairs * panel.cell - 2)
    for x in range(width):
        share = x / max(1, width - 1)
        value = panel.limit * (2 * share - 1 if panel.diverging else share)
        draw.line((panel.left + x, top, panel.left + x, top + 9), fill=panel.colour(value))
    ends = (f"-{panel.limit:g}", f"+{panel.limit:g}") if panel.diverging else ("0", f"{panel.limit:g}")
    y = top + 13
    draw.text((panel.left, y), ends[0], fill=_SOFT, font=font)
    draw.text((panel.left + width - font.getlength(ends[1]), y), ends[1], fill=_SOFT, font=font)
    room = width - sum(font.getlength(end) for end in ends) - 8
    if font.getlength(panel.legend) <= room:
        _text(draw, panel.legend, (panel.left, y), width, font, height=_line_height(font), ink=_SOFT)


def _names(draw: ImageDraw, report: Interference, place: tuple[int, int], top: int, font: Font) -> None:
    """Draw the adapters' names beside their colours, in two lines."""
    x, y = place[0], top
    columns = (len(report.adapters) + 1) // 2
    room = place[1] // columns
    for index, name in enumerate(report.adapters):
        if index == columns:
            x, y = place[0], y + _SQUARE + 4
        _square(draw, index, (x, y), font)
        label = _shortened(name, font, room - _SQUARE - 10)
        _text(draw, label, (x + _SQUARE + 5, y), room, font, height=_SQUARE, anchor="left")
        x += room


def _text(
    draw: ImageDraw,
    text: str,
    corner: tuple[float, float],
    width: float,
    font: Font,
    *,
    height: int = _CELL_HEIGHT - 2,
    ink: Colour = _INK,
    anchor: str = "centre",
) -> None:
    """Draw one line in a box, in its middle height, centred or at its left."""
    box = font.getbbox("0")
    y = corner[1] + (height - (box[3] - box[1])) / 2 - box[1]
    x = corner[0] if anchor == "left" else corner[0] + (width - font.getlength(text)) / 2
    draw.text((x, y), text, fill=ink, font=font)


def _number(value: float, signed: bool) -> str:
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def _between(first: Colour, second: Colour, share: float) -> Colour:
    mixed = [round(a + (b - a) * share) for a, b in zip(first, second, strict=True)]
    return (mixed[0], mixed[1], mixed[2])


def _on(fill: Colour) -> Colour:
    """Ink that is legible on a colour."""
    light = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2]
    return _INK if light > 140 else _PAPER
