"""Curves as HTML: the lines are SVG that stretches with the page, all words stay text of the page's size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 6
"""Colours of lines, told apart in light and dark and without seeing red or green (report.css)."""

_SIDE = 1000  # of the SVG's square, which is stretched
_KEPT = 160  # points of a line

Write = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """points: by step. colour: 0 to COLOURS − 1. faint: drawn thin, behind the others and not named."""

    label: str
    points: Mapping[int, float]
    colour: int = 0
    faint: bool = False
    dots: bool = True


@dataclass(frozen=True)
class Span:
    """The scale of a chart: steps 0 to `last`, values `low` to `high`."""

    last: int
    low: float
    high: float

    def x(self, step: float) -> float:
        """How far right, 0 to 1."""
        return step / self.last

    def y(self, value: float) -> float:
        """How far down, 0 to 1."""
        return 1 - (value - self.low) / (self.high - self.low)


def span_of(lines: Sequence[Line], *, zero: bool = False, least: float = 0.0) -> Span | None:
    """The scale that fits lines; None where there is nothing to see.

    zero: 0 is within it. least: how much it spans at least, so that next to nothing doesn't look like much.
    """
    points = [(step, value) for line in lines for step, value in line.points.items() if math.isfinite(value)]
    if len({step for step, _ in points}) < 2:
        return None
    values = [value for _, value in points] + [0.0] * zero
    low, high = min(values), max(values)
    missing = max(0.0, least - (high - low)) / 2
    low, high = low - missing, high + missing
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return Span(max(step for step, _ in points), low - pad, high + pad)


@dataclass(frozen=True)
class Chart:
    """Lines over steps.

    hint: what is good, in a few words. write: a value as text. mark: the step that is recommended, if any.
    span: the scale where several charts share one; None: what fits. zero: a line at 0.
    least: see `span_of`. wide: over all columns.
    """

    title: str
    lines: Sequence[Line]
    hint: str = ""
    write: Write = "{:.3g}".format
    mark: int | None = None
    span: Span | None = None
    zero: bool = False
    least: float = 0.0
    wide: bool = False

    def html(self) -> str:
        """The chart as a figure; empty where there is nothing to see."""
        lines = [line for line in self.lines if line.points]
        span = self.span or span_of(lines, zero=self.zero, least=self.least)
        if span is None or not lines:
            return ""
        named = [line for line in lines if not line.faint]
        keys = "".join(
            f'<span class="key c{line.colour % COLOURS}">{escape(line.label)}</span>' for line in named
        )
        legend = f'<p class="keys">{keys}</p>' if len(named) > 1 else ""
        hint = f"<small>{escape(self.hint)}</small>" if self.hint else ""
        drawn = "".join(self._line(line, span) for line in sorted(lines, key=lambda one: not one.faint))
        return (
            f'<figure class="chart{" wide" if self.wide else ""}"><figcaption><b>{escape(self.title)}</b>'
            f"{hint}</figcaption>{legend}"
            f'<div class="plot" role="img" aria-label="{escape(self._told(named))}">'
            f'<svg viewBox="0 0 {_SIDE} {_SIDE}" preserveAspectRatio="none" aria-hidden="true">'
            f"{self._grid(span)}{drawn}</svg>{self._words(span)}</div></figure>"
        )

    def _told(self, lines: Sequence[Line]) -> str:
        """The chart for who doesn't see it."""
        said = []
        for line in lines:
            steps = sorted(line.points)
            first, last = steps[0], steps[-1]
            said.append(
                f"{line.label}: {self.write(line.points[first])} at step {first}, "
                f"{self.write(line.points[last])} at step {last}"
            )
        return f"{self.title}. {'; '.join(said)}"

    def _line(self, line: Line, span: Span) -> str:
        points = thinned(line.points)
        places = [(span.x(step) * _SIDE, min(1.0, max(0.0, span.y(value))) * _SIDE) for step, value in points]
        style = f"c{line.colour % COLOURS}{' faint' if line.faint else ''}"
        drawn = f'<polyline class="{style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
        if line.faint or not line.dots or len(points) > 40:
            return drawn
        # A line of no length with round ends is a dot that stays round however the square is stretched.
        return drawn + "".join(
            f'<path class="dot {style}{" taken" if step == self.mark else ""}" d="M{x:.1f} {y:.1f}h0">'
            f"<title>{escape(line.label)}, step {step}: {escape(self.write(value))}</title></path>"
            for (step, value), (x, y) in zip(points, places, strict=True)
        )

    def _grid(self, span: Span) -> str:
        rows = "".join(
            f'<line class="grid{" nought" if self.zero and tick == 0 else ""}" x1="0" x2="{_SIDE}" '
            f'y1="{span.y(tick) * _SIDE:.1f}" y2="{span.y(tick) * _SIDE:.1f}"/>'
            for tick in ticks(span.low, span.high)
        )
        if self.mark is None or self.mark > span.last:
            return rows
        x = f"{span.x(self.mark) * _SIDE:.1f}"
        return f'{rows}<line class="taken" x1="{x}" x2="{x}" y1="0" y2="{_SIDE}"/>'

    def _words(self, span: Span) -> str:
        beside = "".join(
            f'<span class="y" style="top:{span.y(tick):.2%}">{escape(self.write(tick))}</span>'
            for tick in ticks(span.low, span.high)
        )
        steps = [tick for tick in ticks(0, span.last) if tick == int(tick)]
        below = "".join(
            f'<span class="x" style="left:{span.x(tick):.2%}">{tick:,.0f}</span>' for tick in steps
        )
        if self.mark is None or self.mark > span.last:
            return beside + below
        side = " left" if span.x(self.mark) > 0.8 else " right" if span.x(self.mark) < 0.2 else ""
        return (
            f'{beside}{below}<span class="at{side}" style="left:{span.x(self.mark):.2%}">recommended</span>'
        )


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values within bounds, some `about` of them."""
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    size = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * 0.999)
    first, last = math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9)
    return [round(number * size, 12) for number in range(first, last + 1)]


def thinned(points: Mapping[int, float], keep: int = _KEPT) -> list[tuple[int, float]]:
    """At most `keep` finite points in order: means over equal spans of steps."""
    told = [(step, value) for step, value in sorted(points.items()) if math.isfinite(value)]
    if len(told) <= keep:
        return told
    out = []
    for index in range(keep):
        part = told[index * len(told) // keep : (index + 1) * len(told) // keep]
        out.append((part[len(part) // 2][0], sum(value for _, value in part) / len(part)))
    return out


def running_mean(points: Mapping[int, float], weight: float = 0.95) -> dict[int, float]:
    """Exponential mean, corrected for its start."""
    mean, total, out = 0.0, 0.0, {}
    for step, value in sorted(points.items()):
        if math.isfinite(value):
            mean, total = weight * mean + (1 - weight) * value, weight * total + (1 - weight)
            out[step] = mean / total
    return out


def percent(value: float) -> str:
    """A share as a change: "+4%", "−12%", "0%"."""
    shown = f"{abs(value):.2g}" if abs(value) < 9.95 else f"{abs(value):.0f}"
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{shown}%"


def changed(points: Mapping[int, float]) -> dict[int, float]:
    """Points as changes in percent from the first step, 0; as they are empty where that wasn't measured."""
    first = points.get(0)
    return {step: 100 * (value / first - 1) for step, value in points.items()} if first else {}
