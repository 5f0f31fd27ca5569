"""Pieces of HTML for the page. Every text that comes from outside goes through `text`."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from urllib.parse import quote

# Gradio renders HTML values through Handlebars and JavaScript templates; so its marks are escaped as well.
_TEMPLATE_MARKS = {ord(mark): f"&#{ord(mark)};" for mark in "{}$`\\"}


def text(value: object) -> str:
    """`value` as text inside HTML, also inside a quoted attribute."""
    return html.escape(str(value), quote=True).translate(_TEMPLATE_MARKS)


def url(kind: str, *parts: str) -> str:
    """The address of a file served by `studio.routes.files`, relative to the page's."""
    return "files/" + "/".join(quote(part, safe="") for part in (kind, *parts))


def duration(seconds: float) -> str:
    """Seconds in words: "40 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes in words: "480 KB", "1.2 MB", "2.1 GB"."""
    if count < 1e6:
        return f"{max(1, round(count / 1000))} KB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def button(label: str, act: str, key: str, *, style: str = "", title: str = "") -> str:
    """A button that sends `{act, id}` to the `click` listener of the HTML component it is in (see CLICKS)."""
    hint = f' title="{text(title)}" aria-label="{text(title)}"' if title else ""
    sent = f'data-act="{text(act)}" data-id="{text(key)}"'
    return f'<button type="button" class="pg-btn {style}" {sent}{hint}>{text(label)}</button>'


CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button && element.contains(button)) trigger('click', {act: button.dataset.act, id: button.dataset.id});
});
"""


def download(label: str, address: str, file_name: str, *, style: str = "") -> str:
    """A link that downloads `address` under `file_name`."""
    return f'<a class="pg-btn {style}" href="{text(address)}" download="{text(file_name)}">{text(label)}</a>'


def empty(title: str, hint: str) -> str:
    """What stands where there is nothing yet."""
    dots = '<div class="pg-dots" aria-hidden="true"><i></i><i></i><i></i></div>'
    return f'<div class="pg-empty">{dots}<b>{text(title)}</b><p>{text(hint)}</p></div>'


def progress(fraction: float | None, label: str) -> str:
    """A progress bar; `fraction` in [0, 1], None while unknown."""
    if fraction is None:
        return f'<div class="pg-bar unknown" role="progressbar" aria-label="{text(label)}"><i></i></div>'
    percent = 100 * min(1.0, max(0.0, fraction))
    return (
        f'<div class="pg-bar" role="progressbar" aria-valuenow="{percent:.0f}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-label="{text(label)}"><i style="width:{percent:.1f}%"></i></div>'
    )


def smooth(points: Sequence[tuple[int, float]], keep: int = 160) -> list[tuple[int, float]]:
    """At most `keep` points: means over equal spans of steps."""
    if len(points) <= keep:
        return list(points)
    out = []
    for index in range(keep):
        span = points[index * len(points) // keep : (index + 1) * len(points) // keep]
        out.append((span[len(span) // 2][0], sum(value for _, value in span) / len(span)))
    return out


def _running_mean(points: Sequence[tuple[int, float]], weight: float = 0.9) -> list[tuple[int, float]]:
    """Exponential mean, corrected for its start."""
    mean, total, out = 0.0, 0.0, []
    for step, value in points:
        mean, total = weight * mean + (1 - weight) * value, weight * total + (1 - weight)
        out.append((step, mean / total))
    return out


def loss_chart(losses: Mapping[int, float], held_out: Mapping[int, float], total: int) -> str:
    """An SVG chart of the training loss (faint) with its running mean, and the held-out loss (points)."""
    raw = smooth([(step, value) for step, value in sorted(losses.items()) if math.isfinite(value)])
    tested = [(step, value) for step, value in sorted(held_out.items()) if math.isfinite(value)]
    if len(raw) < 2:
        return ""
    mean = _running_mean(raw)
    values = [value for _, value in [*mean, *tested]]
    low, high = min(values), max(values)
    pad = 0.15 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - pad, high + pad
    width, height, left = 600, 190, 56
    last = max(total, raw[-1][0], 1)

    def place(points: Sequence[tuple[int, float]]) -> str:
        return " ".join(
            f"{left + (width - left - 8) * step / last:.1f},"
            f"{8 + (height - 36) * (1 - min(1.0, max(0.0, (value - low) / (high - low)))):.1f}"
            for step, value in points
        )

    ticks = "".join(
        f'<line class="grid" x1="{left}" x2="{width - 8}" y1="{y:.0f}" y2="{y:.0f}"/>'
        f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">'
        f"{high - (high - low) * (y - 8) / (height - 36):.3g}</text>"
        for y in (8, 8 + (height - 36) / 2, height - 28)
    )
    spots = "".join(
        '<circle class="held" cx="{}" cy="{}" r="3.5"/>'.format(*place([point]).split(","))
        for point in tested
    )
    legend = '<span class="key train"></span>training' + (
        '<span class="key held"></span>held-out pictures' if tested else ""
    )
    return (
        f'<figure class="pg-chart"><figcaption>Loss {legend}</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="loss over steps">{ticks}'
        f'<text x="{left}" y="{height - 8}">0</text><text x="{width - 8}" y="{height - 8}" text-anchor="end">'
        f'{last} steps</text><polyline class="raw" points="{place(raw)}"/>'
        f'<polyline class="mean" points="{place(mean)}"/>'
        f'<polyline class="held" points="{place(tested)}"/>{spots}</svg></figure>'
    )
