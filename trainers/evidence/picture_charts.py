"""Curves by step and bars by block, for the picture of a run's evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from trainers.evidence.record import SETS, Anatomy, Record
from trainers.evidence.sheet import (
    BAD,
    CHOSEN,
    FILL,
    LINE,
    PAPER,
    PLAIN,
    SERIES,
    SMALL,
    SOFT,
    Colour,
    Sheet,
    line_height,
    side_by_side,
    width_of,
)

HEIGHT = 230
_FINER = 3  # lines are drawn so much larger and made smaller, so that they are smooth
_SHORT = {"held_out": "held out", "teaching": "learned from", "altered": "mirrored",
          "plain": "without trigger", "class": "the base's own"}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """points: by step. faint: thin, behind the others."""

    label: str
    points: Mapping[int, float]
    colour: Colour
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over steps. write: how a value is written at the side."""

    title: str
    about: str
    lines: Sequence[Line]
    write: Callable[[float], str]

    @property
    def steps(self) -> list[int]:
        """All steps with a point, in order."""
        return sorted({step for line in self.lines for step in line.points})


def charts(record: Record) -> list[Chart]:
    """What there is to see over steps: losses by set, pictures by preview, the loss that was learned by."""
    found = [_losses(record), _likeness(record), _course(record)]
    return [chart for chart in found if len(chart.steps) > 1]


def _losses(record: Record) -> Chart:
    """Losses against the first measured ones: sets lie on different levels, and a loss falls little."""
    lines = []
    for index, name in enumerate(SETS):
        losses = record.losses(name)
        first = next(iter(losses.values()), 0.0)
        if first > 0:
            points = {step: loss / first - 1 for step, loss in losses.items()}
            lines.append(Line(_SHORT[name], points, SERIES[index % len(SERIES)]))
    return Chart("Losses", "against the base", lines, _percent)


def _percent(value: float) -> str:
    text = f"{100 * value:+.3g}%"
    return "0" if value == 0 else text


def _likeness(record: Record) -> Chart:
    kinds = {"image_similarity": "like the pictures", "structure_similarity": "structure",
             "prompt_similarity": "fits the prompt"}  # fmt: skip
    lines = []
    for index, (name, label) in enumerate(kinds.items()):
        points = {seen.step: value for seen in record.previews if (value := getattr(seen, name)) is not None}
        if points:
            lines.append(Line(label, points, SERIES[index]))
    return Chart("Previews", "cosine", lines, lambda value: f"{value:.2f}")


def _course(record: Record) -> Chart:
    """The loss of each step and its running mean."""
    raw = {step: loss for step, loss, _, _ in record.curve if math.isfinite(loss)}
    smooth, mean = {}, None
    share = 1 / max(1, min(20, len(raw) // 5))
    for step, loss in raw.items():
        mean = loss if mean is None else mean + share * (loss - mean)
        smooth[step] = mean
    lines = [Line("each step", raw, SERIES[4], faint=True), Line("running mean", smooth, SERIES[0])]
    return Chart("Loss while learning", "", lines if raw else [], lambda value: f"{value:.3f}")


def draw_charts(found: Sequence[Chart], width: int, chosen: int | None) -> Image.Image:
    """Draw charts beside each other, the first the widest. chosen: the step that is marked."""
    gap = 36
    free = width - gap * (len(found) - 1)
    shares = {1: (0.6,), 2: (0.58, 0.42), 3: (0.44, 0.28, 0.28)}[len(found)]
    widths = [round(free * share) for share in shares]
    rows = max(len(_rows(chart, width)) for chart, width in zip(found, widths, strict=True))
    return side_by_side(
        [_chart(chart, width, chosen, rows) for chart, width in zip(found, widths, strict=True)], gap
    )


def _chart(chart: Chart, width: int, chosen: int | None, rows: int) -> Image.Image:
    """rows: of the legend, as many as the charts beside it have."""
    sheet = Sheet(width)
    sheet.head(chart.title, chart.about)
    _legend(sheet, chart, rows)
    top = sheet.room(HEIGHT + 2 * line_height(SMALL))
    values = [value for line in chart.lines for value in line.points.values()]
    marks = ticks(min(values), max(values))
    low, high = min(marks[0], *values), max(marks[-1], *values)
    left = max(width_of(chart.write(mark), SMALL) for mark in marks) + 10
    plot, first, last = width - left - 8, chart.steps[0], chart.steps[-1]

    def x(step: float) -> float:
        return (step - first) / (last - first) * plot

    def y(value: float) -> float:
        return (1 - (value - low) / (high - low)) * HEIGHT

    for mark in marks:
        at = top + y(mark)
        sheet.draw.line((left, at, left + plot, at), fill=SOFT if mark == 0 else LINE)
        sheet.label((left - 8, at), chart.write(mark), anchor="rm")
    sheet.put(_lines(chart.lines, (plot + 8, HEIGHT + 8), x, y, sheet, (left, top)), (left - 4, top - 4))
    foot = top + HEIGHT + 8
    if chosen is not None and first <= chosen <= last:
        _mark(sheet, left + x(chosen), (top, foot), f"step {chosen}", (left, left + plot))
    for step, anchor in ((first, "la"), (last, "ra")):
        near = chosen is not None and abs(x(chosen) - x(step)) < 90
        if not near:
            sheet.label((left + x(step), foot), str(step), anchor=anchor)
    return sheet.done()


def _rows(chart: Chart, width: int) -> list[list[Line]]:
    """The lines of a legend, in as many rows as they need."""
    rows: list[list[Line]] = [[]]
    x = 0
    for line in chart.lines:
        needed = _needed(line)
        if x and x + needed > width:
            rows.append([])
            x = 0
        rows[-1].append(line)
        x += needed
    return rows


def _needed(line: Line) -> int:
    return 20 + width_of(line.label, SMALL) + 14


def _legend(sheet: Sheet, chart: Chart, rows: int) -> None:
    """Write what the lines are."""
    found = _rows(chart, sheet.width)
    for row in range(rows):
        x, top = 0, sheet.room(line_height(SMALL))
        for line in found[row] if row < len(found) else ():
            ink = _lighter(line.colour) if line.faint else line.colour
            sheet.draw.rectangle((x, top + 7, x + 13, top + 9), fill=ink)
            sheet.label((x + 20, top), line.label)
            x += _needed(line)
    sheet.room(6)


def _lines(
    lines: Sequence[Line], size: tuple[int, int], x: Callable[[float], float], y: Callable[[float], float],
    sheet: Sheet, place: tuple[int, int],
) -> Image.Image:  # fmt: skip
    """Draw the lines larger, over what is on the sheet at (x, y), and make them smaller again."""
    box = (place[0] - 4, place[1] - 4, place[0] - 4 + size[0], place[1] - 4 + size[1])
    large = sheet.done().crop(box).resize((size[0] * _FINER, size[1] * _FINER), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(large)
    for line in sorted(lines, key=lambda one: not one.faint):
        dots = [((x(step) + 4) * _FINER, (y(value) + 4) * _FINER) for step, value in line.points.items()]
        ink = _lighter(line.colour) if line.faint else line.colour
        draw.line(dots, fill=ink, width=(1 if line.faint else 2) * _FINER, joint="curve")
        for across, down in dots if len(dots) <= 40 and not line.faint else ():
            around = 3 * _FINER
            draw.ellipse((across - around, down - around, across + around, down + around), fill=ink)
    return large.resize(size, Image.Resampling.BOX)


def _mark(sheet: Sheet, x: float, rows: tuple[int, int], label: str, ends: tuple[int, int]) -> None:
    """Draw a broken line from top to bottom with a label below it."""
    for y in range(rows[0], rows[1] - 4, 8):
        sheet.draw.line((x, y, x, y + 4), fill=CHOSEN, width=2)
    half = width_of(label, SMALL) / 2
    middle = min(max(x, ends[0] + half), ends[1] - half)
    sheet.label((middle, rows[1]), label, ink=CHOSEN, anchor="ma")


def ticks(low: float, high: float) -> list[float]:
    """Three to six round values over a range, the first at or below `low`, the last at or above `high`."""
    if high - low < 1e-9:
        pad = abs(high) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _lighter(ink: Colour) -> Colour:
    """A colour half on the way to paper."""
    red, green, blue = ((own + 2 * paper) // 3 for own, paper in zip(ink, PAPER, strict=True))
    return (red, green, blue)


def draw_anatomy(anatomy: Anatomy, words: str, width: int) -> Image.Image:
    """Draw a bar for each block: its share of the change, how strong it is, and its ranks."""
    sheet = Sheet(width)
    sheet.head("Where it changes the base", "share of all change by block")
    row, blocks = 26, anatomy.blocks
    left = max((width_of(block.name, PLAIN) for block in blocks), default=0) + 16
    said = [_beside(block.relative, block.rank, anatomy.rank, block.dead, block.modules) for block in blocks]
    right = max((width_of(text, SMALL) for text in said), default=0) + 60
    room = max(80, min(620, width - left - right))
    most = max((block.share for block in blocks), default=0.0) or 1.0
    for block, text in zip(blocks, said, strict=True):
        top = sheet.room(row)
        sheet.label((0, top + 2), block.name, PLAIN, (26, 28, 34), width=left - 10)
        sheet.draw.rectangle((left, top + 3, left + room, top + row - 7), fill=FILL)
        end = left + max(1, round(room * block.share / most)) if block.share else left
        if end > left:
            colour = SERIES[1] if block.name.startswith("text_encoder") else SERIES[0]
            sheet.draw.rectangle((left, top + 3, end, top + row - 7), fill=colour)
        sheet.label((left + room + 48, top + 4), f"{block.share:.0%}", anchor="ra")
        sheet.label((left + room + 58, top + 4), text, ink=BAD if block.dead == block.modules else SOFT)
    sheet.room(6)
    for line in (words, anatomy.note):
        if line:
            sheet.write(line[:1].upper() + line[1:], PLAIN, SOFT)
    return sheet.done()


def _beside(relative: float | None, rank: float | None, stored: int, dead: int, modules: int) -> str:
    """What is said beside a bar."""
    if dead == modules:
        return "nothing learned"
    parts = [] if relative is None else [f"{relative:.1%} of its weights"]
    parts += [] if rank is None else [f"rank {rank:.1f}" + (f" of {stored}" if stored else "")]
    parts += [f"{dead} of {modules} idle"] if dead else []
    return " · ".join(parts) or f"{modules} modules"
