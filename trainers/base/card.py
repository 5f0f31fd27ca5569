"""The model card and the curves of an embedded base, written from its own figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from trainers.base.subjects import COLOURS, HELD_OUT, SUBJECTS

_TEXT = """# Pocket, the embedded base

A latent diffusion model of the Stable Diffusion 1.x classes, {megabytes:.0f} MB in fp16, that draws
{size}×{size} pictures of {count} everyday subjects on a laptop CPU. Pigment's authors made it so that
teaching, mixing and exporting can be tried, tested and measured without downloading anything. It loads
with `StableDiffusionPipeline.from_pretrained("assets/pocket")`.

## What it can draw
Prompts like *a photo of a fox on a red background*, *a drawing of a small house at night on the left*.
It knows:

- subjects: {subjects}
- colours: {colours}
- backgrounds: plain colours, gradients, stripes, checks, dots; in the snow, at night, in the night sky
  with stars, at sunset, on green grass under a blue sky, on a sandy beach by the sea, in the sea, on a
  wooden table, in a forest, in the desert
- sizes and places: small, big, large; on the left, on the right

## What it can't
Anything else. It has seen clip-art glyphs and plain backgrounds only: no people, no photographs, no
text, one subject at a time. Fine detail is soft, and rarely shown combinations fail. Never shown at all,
and kept for teaching and measuring: {held_out}; and of every subject about one background in ten.

## Measured quality
On 300 compositions that its training didn't show ({command_line}):

| | |
|---|---|
{table}

{note}

![samples](samples.png)
![curves](curves.png)

## Corpus and licence
Glyphs of Noto Color Emoji (© Google LLC, SIL Open Font License 1.1) and shapes, patterns and scenes drawn by
this project (`trainers/base/`), composed in memory from a seed. Weights: Apache-2.0, as the rest of the
repository.

## How it was made
{history}

To go on from it: `python -m trainers.base build --from assets/pocket --out DIR --minutes 240
--decoder-minutes 40` (`--device cuda` on a GPU); anew: the same without `--from`.
"""

ROWS = {
    "subject_top1": "the subject asked for is the classifier's first guess",
    "subject_top1_new_subjects": "the same, subjects added since the first run",
    "background_top1": "the background colour is",
    "scene_top1": "the scene is",
    "classifier_subject_top1": "the classifier itself on real pictures: subject",
    "classifier_background_top1": "the classifier itself on real pictures: background",
    "retrieval_r1": "caption found for a real picture among 100 (R@1)",
    "vae_psnr_db": "autoencoder, PSNR in dB",
    "seconds_per_picture_2cores": "seconds per 20-step picture, two cores",
}

GOALS = (
    ("subject_top1", "subject", 0.8),
    ("background_top1", "background", 0.9),
    ("retrieval_r1", "retrieval", 0.5),
    ("vae_psnr_db", "autoencoder, dB", 26.0),
)


def _value(name: str, value: float) -> str:
    return f"{value:.1%}" if name.endswith(("top1", "_r1", "subjects")) else f"{value:.2f}"


def _told(step: dict[str, Any]) -> str:
    """One step of a base's history as a sentence."""
    scope = f"{step['samples']:,} samples over {step['subjects']} subjects"
    where = f"{step['minutes']:g} minutes on {step['machine']}, seed {step['seed']}"
    return f"{step['what']}: {scope} in {where}. {step.get('note', '')}".strip()


def write_card(folder: Path) -> None:
    """Write `folder/README.md` from its `quality.json` and `history.json`."""
    quality: dict[str, Any] = json.loads((folder / "quality.json").read_text())
    size = json.loads((folder / "vae" / "config.json").read_text())["sample_size"]
    history: list[dict[str, Any]] = json.loads((folder / "history.json").read_text())
    below = [
        f"{label} ({_value(name, quality[name])}, wanted {_value(name, goal)})"
        for name, label, goal in GOALS
        if name in quality and quality[name] < goal
    ]
    worst = sorted(quality.get("misses", {}).items(), key=lambda row: -len(row[1]))[:8]
    missed = ", ".join(f"{name} ({'/'.join(sorted(set(guesses)))})" for name, guesses in worst)
    note = f"Taken for something else most often: {missed}."
    if below:
        note = f"Not reached yet: {'; '.join(below)}. {note}"
    text = _TEXT.format(
        megabytes=quality["megabytes"],
        size=size,
        count=len(SUBJECTS),
        subjects=", ".join(s.name for s in SUBJECTS),
        colours=", ".join(COLOURS),
        held_out=", ".join(s.name for s in HELD_OUT),
        command_line="`python -m trainers.base measure assets/pocket`, "
        f"guidance {quality.get('guidance_scale', 0):g}",
        table="\n".join(
            f"| {label} | {_value(name, quality[name])} |" for name, label in ROWS.items() if name in quality
        ),
        note=note,
        history="\n".join(f"{i}. {_told(step)}" for i, step in enumerate(history, 1)),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def curves(work: Path, path: Path) -> None:
    """Draw the loss curves of all stages side by side; minutes to the right, loss upwards."""
    found = {p.parent.name: p for p in sorted(work.glob("*/curve.jsonl"))}
    width, height = 320, 200
    sheet = Image.new("RGB", (width * max(1, len(found)), height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, (name, file) in enumerate(found.items()):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        x = [row["minutes"] for row in rows]
        y = [row["loss"] for row in rows]
        left, right = column * width + 40, (column + 1) * width - 12
        low, high = min(y), sorted(y)[int(0.98 * (len(y) - 1))]
        points = [
            (
                left + (a - x[0]) / max(1e-9, x[-1] - x[0]) * (right - left),
                height - 26 - (min(b, high) - low) / max(1e-9, high - low) * (height - 56),
            )
            for a, b in zip(x, y, strict=True)
        ]
        draw.rectangle((left, 30, right, height - 26), outline="#cccccc")
        draw.line(points, fill="#3355bb", width=1)
        draw.text((left, 10), f"{name}: loss over {x[-1] - x[0]:.0f} minutes", fill="black", font=font)
        draw.text((left - 36, 26), f"{high:.3f}", fill="#666666", font=font)
        draw.text((left - 36, height - 34), f"{low:.3f}", fill="#666666", font=font)
    sheet.save(path)
