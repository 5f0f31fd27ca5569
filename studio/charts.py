"""Charts of a run as SVG: the loss it learned by, and what was measured at fixed noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from studio.markup import text

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 600, 56, 8, 18, 28
MEASURED: dict[str, str] = {
    "held_out": "pictures it hasn't seen",
    "teaching": "its pictures",
    "altered": "its pictures, mirrored",
    "plain": "its pictures without the trigger",
    "class": "other things",
}
"""What sets of `trainers.evidence.record.SETS` are called in the legend, in its order."""

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class _Frame:
    """Where steps and values lie. height: of the whole chart, in the units of its viewBox."""

    last: int
    low: float
    high: float
    height: int

    def at(self, step: float, value: float) -> tuple[float, float]:
        """x and y of a point; values beyond the frame lie on its edge."""
        share = min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / self.last
        return x, TOP + (self.height - TOP - BOTTOM) * (1 - share)

    def line(self, points: Points, style: str) -> str:
        """Points as a line."""
        placed = " ".join("{:.1f},{:.1f}".format(*self.at(*point)) for point in points)
        return f'<polyline class="{style}" points="{placed}"/>'

    def dots(self, points: Points, style: str) -> str:
        """Points as dots."""
        placed = [self.at(*point) for point in points]
        return "".join(f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in placed)

    def rule(self, value: float, said: str, style: str = "grid") -> str:
        """A horizontal line with what it stands for."""
        y = self.at(0, value)[1]
        return (
            f'<line class="{style}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.0f}" y2="{y:.0f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{said}</text>'
        )

    def marked(self, step: int, said: str) -> str:
        """A vertical line at the step that is recommended."""
        x = self.at(step, self.low)[0]
        side = "end" if x > WIDTH * 0.6 else "start"
        at = x - 4 if side == "end" else x + 4
        return (
            f'<line class="pgt-mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 12}" y2="{self.height - BOTTOM}"/>'
            f'<text class="pgt-mark" x="{at:.1f}" y="{TOP - 4}" text-anchor="{side}">{text(said)}</text>'
        )

    def svg(self, label: str, inside: str) -> str:
        """The whole picture; its axis says how many steps there are."""
        below = (
            f'<text x="{LEFT}" y="{self.height - 8}">0</text>'
            f'<text x="{WIDTH - RIGHT}" y="{self.height - 8}" text-anchor="end">{self.last} steps</text>'
        )
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{text(label)}">'
            f"{inside}{below}</svg>"
        )


def loss_chart(losses: Mapping[int, float], held_out: Mapping[int, float], total: int) -> str:
    """The training loss (faint) with its running mean, and the held-out loss (points)."""
    raw = smooth(_finite(losses))
    tested = _finite(held_out)
    if len(raw) < 2:
        return ""
    mean = _running_mean(raw)
    values = [value for _, value in [*mean, *tested]]
    frame = _Frame(max(total, raw[-1][0], 1), *_room(min(values), max(values)), 190)
    middle = (frame.low + frame.high) / 2
    ticks = "".join(frame.rule(value, f"{value:.3g}") for value in (frame.high, middle, frame.low))
    legend = _key("train", "training") + (_key("held", "held-out pictures") if tested else "")
    drawn = (
        frame.line(raw, "raw") + frame.line(mean, "mean") + frame.line(tested, "held")
        + frame.dots(tested, "held")
    )  # fmt: skip
    return _figure("Loss", legend, frame.svg("loss over steps", ticks + drawn))


def measured_chart(measured: Mapping[int, Mapping[str, float]], chosen: int, total: int) -> str:
    """Each set's loss as what it changed by since before the first step, and the step that is recommended.

    measured: by step and set. chosen: 0 for none. Empty before anything was measured twice.
    """
    lines = {}
    for name in MEASURED:
        known = _finite({step: means[name] for step, means in measured.items() if name in means})
        if len(known) > 1 and known[0][1] > 0:
            lines[name] = [(step, value / known[0][1] - 1) for step, value in known]
    if not lines:
        return ""
    values = [value for points in lines.values() for _, value in points]
    low, high = _room(min(values), max(values))
    frame = _Frame(max(total, *(points[-1][0] for points in lines.values()), 1), low, high, 230)
    inside = ""
    for value in _ticks(low, high):
        said = f"{value:+.0%}".replace("-", "−") if value else "0%"
        inside += frame.rule(value, said, "grid" if value else "grid before")
    inside += frame.marked(chosen, f"step {chosen}") if chosen else ""
    for name, points in lines.items():
        inside += frame.line(points, f"set {name}") + frame.dots(points, f"set {name}")
    last = {name: points[-1] for name, points in lines.items()}
    said = "; ".join(f"{MEASURED[name]}: {value:+.0%} at step {step}" for name, (step, value) in last.items())
    legend = "".join(_key(f"set {name}", MEASURED[name]) for name in lines)
    return _figure("Error since before", legend, frame.svg(f"change of the loss: {said}", inside))


def _figure(title: str, legend: str, svg: str) -> str:
    return f'<figure class="pg-chart"><figcaption>{title} {legend}</figcaption>{svg}</figure>'


def _key(style: str, said: str) -> str:
    """An entry of a legend; it stays in one piece where the line is broken."""
    return f'<span class="pgt-key"><span class="key {style}"></span>{text(said)}</span>'


def _finite(values: Mapping[int, float]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in sorted(values.items()) if math.isfinite(value)]


def _room(low: float, high: float) -> tuple[float, float]:
    """Bounds with some air."""
    pad = 0.15 * (high - low) or 0.1 * abs(high) or 1.0
    return low - pad, high + pad


def _ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Round values between bounds, 0 among them where it lies there."""
    size = 10.0 ** math.floor(math.log10(high - low))
    unit = next(
        one for one in (size / 10, size / 5, size / 2, size, size * 2) if (high - low) / one < at_most
    )
    return [round(number * unit, 12) for number in range(math.ceil(low / unit), math.floor(high / unit) + 1)]


def smooth(points: Points, keep: int = 160) -> list[tuple[int, float]]:
    """At most `keep` points: means over equal spans of steps."""
    if len(points) <= keep:
        return list(points)
    out = []
    for index in range(keep):
        span = points[index * len(points) // keep : (index + 1) * len(points) // keep]
        out.append((span[len(span) // 2][0], sum(value for _, value in span) / len(span)))
    return out


def _running_mean(points: Points, weight: float = 0.9) -> list[tuple[int, float]]:
    """Exponential mean, corrected for its start."""
    mean, total, out = 0.0, 0.0, []
    for step, value in points:
        mean, total = weight * mean + (1 - weight) * value, weight * total + (1 - weight)
        out.append((step, mean / total))
    return out
