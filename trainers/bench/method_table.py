"""The table of methods: as text, as Markdown, as a picture; and their pictures side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

_MIB = 2**20

HEADINGS: dict[str, str] = {
    "trainable_parameters": "numbers",
    "seconds": "seconds",
    "peak_bytes": "memory",
    "held_out_loss": "held-out loss",
    "base_held_out_loss": "base's loss",
    "image_similarity": "subject",
    "prompt_similarity": "prompt",
    "file_bytes": "file",
    "lora_export_error": "as LoRA",
}
"""What stands over each figure's column."""

_ACROSS = 8


def said(name: str, value: Any) -> str:
    """A figure for people; "-" where there is none."""
    if value is None:
        return "-"
    if name.endswith("_bytes"):
        return f"{value / _MIB:.0f} MiB" if value >= 10 * _MIB else f"{value / 1024:.0f} KiB"
    if name == "trainable_parameters":
        return f"{value:,}"
    if name == "lora_export_error":
        return "exact" if value < 1e-5 else f"{value:.0%}"
    return f"{value:.0f}" if name == "seconds" else f"{value:.3f}"


def as_text(figures: Mapping[str, Mapping[str, Any]], heading: bool = True) -> str:
    """Lines of columns, for a terminal; heading: whether the line over them comes first."""
    lines = [f"{'method':20}" + "".join(f"{text:>14}" for text in HEADINGS.values())] if heading else []
    for method, found in figures.items():
        lines.append(f"{method:20}" + "".join(f"{said(name, found.get(name)):>14}" for name in HEADINGS))
    return "\n".join(lines)


def as_markdown(
    figures: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any], labels: Mapping[str, str]
) -> str:
    """A Markdown table, the base's own figures first."""
    head, *rows = _cells(figures, base, labels)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def as_picture(
    figures: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any], labels: Mapping[str, str]
) -> Image:
    """The table as a picture, every second line shaded; the best of each judged column is bold-faced blue."""
    from PIL import Image, ImageDraw, ImageFont

    lines = [[_drawable(text) for text in line] for line in _cells(figures, base, labels)]
    font = ImageFont.load_default(15)
    widths = [max(font.getlength(line[column]) for line in lines) + 24 for column in range(len(lines[0]))]
    height, pad = 24, 10
    picture = Image.new("RGB", (int(sum(widths)) + 2 * pad, height * len(lines) + 2 * pad), "white")
    draw = ImageDraw.Draw(picture)
    for index, line in enumerate(lines):
        top = pad + index * height
        if index % 2 == 0:
            shade = (214, 222, 235) if index == 0 else (243, 245, 249)
            draw.rectangle((pad, top, picture.width - pad, top + height - 1), fill=shade)
        right = pad
        for column, text in enumerate(line):
            right += int(widths[column])
            left = right - 12 - font.getlength(text) if column else right - widths[column] + 8
            ink = (24, 90, 200) if _best(lines, index, column) else (28, 28, 32)
            draw.text((left, top + 3), text, fill=ink, font=font)
    return picture


def pictures_grid(shown: Mapping[str, Sequence[Image]], labels: Mapping[str, str]) -> Image:
    """One prompt's pictures, a column per method, in as many bands as it takes."""
    from pipelines.grids import labelled_grid, stacked

    names = list(shown)
    bands = [names[start : start + _ACROSS] for start in range(0, len(names), _ACROSS)]
    grids = []
    for band in bands:
        rows = [list(row) for row in zip(*(shown[name] for name in band), strict=True)]
        grids.append(labelled_grid(rows, [""] * len(rows), [_drawable(labels[name]) for name in band]))
    return stacked(grids)


def _drawable(text: str) -> str:
    """A text without the superscripts that Pillow's own font lacks."""
    return text.replace("³", "3")


def _cells(
    figures: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any], labels: Mapping[str, str]
) -> list[list[str]]:
    """The table's cells, headings first."""
    shown = [name for name in HEADINGS if name != "base_held_out_loss"]
    losses = [found["base_held_out_loss"] for found in figures.values()]
    first = {**base, "held_out_loss": losses[0] if losses else None}
    rows = {"base": first} | dict(figures)
    head = ["method", *(HEADINGS[name] for name in shown)]
    return [head] + [
        [labels.get(method, method), *(said(name, found.get(name)) for name in shown)]
        for method, found in rows.items()
    ]


def _best(lines: Sequence[Sequence[str]], index: int, column: int) -> bool:
    """Whether a cell is the best of its column among the methods, where more or less is better by itself."""
    wanted = {HEADINGS["held_out_loss"]: min, HEADINGS["image_similarity"]: max,
              HEADINGS["prompt_similarity"]: max}.get(lines[0][column])  # fmt: skip
    if wanted is None or index < 2:
        return False
    values = [line[column] for line in lines[2:]]
    return bool(lines[index][column] == wanted(values))
