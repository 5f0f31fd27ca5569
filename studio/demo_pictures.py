"""The demo's pictures: two adapters at several weights, and what was taught, before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.trials import Trial, columns, prompts

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.base import Base
    from pipelines.mixer import Mixer

ROWS: tuple[tuple[str, float, float], ...] = (
    ("base (all 0)", 0.0, 0.0),
    ("subject 0.5", 0.5, 0.0),
    ("subject 1", 1.0, 0.0),
    ("style 0.5", 0.0, 0.5),
    ("style 1", 0.0, 1.0),
    ("both 1", 1.0, 1.0),
)
"""Rows of the grid: label, weight of the subject, weight of the style."""


def draw_grid(base: Base, mixer: Mixer, subject: Trial, style: Trial, seed: int) -> Image:
    """Every column at every row's weights, one seed per column, as a labelled grid."""
    from pipelines.generate import GenerationConfig, generate_prompts
    from pipelines.grids import labelled_grid

    labels = [label for label, *_ in columns(subject, style)]
    seeds = [seed + index for index in range(len(labels))]
    rows = []
    for _, *weights in ROWS:
        mixer.set({subject.id: weights[0], style.id: weights[1]})
        asked = prompts(subject, style, (weights[0], weights[1]))
        rows.append(generate_prompts(base, asked, seeds, GenerationConfig(prompt=asked[0])))
    title = f"{subject.example.title} · {style.example.title}"
    return labelled_grid(rows, [label for label, *_ in ROWS], labels, title)


def draw_before_after(base: Base, mixer: Mixer, trial: Trial, seed: int) -> Image:
    """What was taught, and the same prompts and seeds before and after it: three rows, labelled.

    The prompts are of scenes or things that weren't taught; before, the base doesn't know the trigger.
    """
    from PIL import Image

    from pipelines.generate import GenerationConfig, generate_prompts
    from pipelines.grids import labelled_grid

    example = trial.example
    if example.kind == "subject":
        labels = list(trial.scenes)
        asked = [f"{example.instance_prompt} {scene}" for scene in labels]
    else:
        labels = list(trial.unseen)
        asked = [f"{thing} in {example.trigger} style" for thing in labels]
    count = min(len(labels), len(example.pictures))
    labels, asked = labels[:count], asked[:count]
    seeds = [seed + index for index in range(count)]
    drawn = []
    for weight in (0.0, 1.0):
        mixer.set(dict.fromkeys(mixer.names, 0.0) | {trial.id: weight})
        drawn.append(generate_prompts(base, asked, seeds, GenerationConfig(prompt=asked[0])))
    size = drawn[0][0].size
    taught = [
        Image.open(path).convert("RGB").resize(size, Image.Resampling.LANCZOS)
        for path in example.pictures[:count]
    ]
    title = f"{example.title}: {len(example.pictures)} pictures taught"
    return labelled_grid([taught, *drawn], ["taught", "before", "after"], labels, title)
