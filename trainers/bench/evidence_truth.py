"""The true score of every candidate of a run: its loss on pictures of the concept that no run has seen.

It shares neither pictures nor noise with what the run measured of itself, and has many more noise levels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.files import write_atomic

if TYPE_CHECKING:
    from pipelines.base import Base
    from trainers.config import TrainConfig
    from trainers.evidence.held_out import HeldOut

TRUTH_NAME = "truth.json"
LEVELS = 4
"""Noise levels per picture; every picture has its own, so that all together share out the range."""
BATCH = 16
SEED = 52_163
"""Of the noise; what a run measures of itself has seeds below ten."""


def score(config: TrainConfig, unseen: Path) -> dict[int, float]:
    """Score the base (step 0) and every candidate in a run's folder, write truth.json beside, return it.

    unseen: folder of the concept's unseen pictures. Raises: StudioError for what can't be read.
    """
    from pipelines.base import load_base
    from pipelines.formats import read_adapter
    from pipelines.mixer import Mixer
    from trainers.conditions import PromptEncoder
    from trainers.evidence.record import CANDIDATES

    base, folder = load_base(config.run.base, device=config.run.device), config.run.output
    fixed = fix(base, config, unseen)
    found = {0: fixed.measure(base, PromptEncoder(base, trained=False), BATCH)}
    for path in sorted((folder / CANDIDATES).glob("step-*.safetensors")):
        with Mixer(base) as mixer:
            mixer.add("taught", read_adapter(path))
            mixer.set({"taught": 1.0})
            step = int(path.stem.removeprefix("step-"))
            found[step] = fixed.measure(base, PromptEncoder(base, trained=False), BATCH)
    figures = {
        "levels": LEVELS, "seed": SEED, "pictures": sum(map(len, fixed.batches)) // LEVELS,
        "scores": {step: loss.mean for step, loss in found.items()},
        "bands": {step: list(loss.bands) for step, loss in found.items()},
    }  # fmt: skip
    write_atomic(folder / TRUTH_NAME, [json.dumps(figures, indent=1).encode() + b"\n"])
    return {step: loss.mean for step, loss in found.items()}


def fix(base: Base, config: TrainConfig, unseen: Path) -> HeldOut:
    """The samples that are scored on: every unseen picture as it is, at LEVELS noise levels of its own."""
    from trainers.caching.encoding import encode_frames
    from trainers.config import DataConfig
    from trainers.dataset import frames, load_dataset
    from trainers.evidence.held_out import hold_out
    from trainers.preparing import resolution_of, size_multiple

    data = DataConfig(
        instance_images=unseen, trigger=config.data.trigger, instance_prompt=config.data.instance_prompt
    )
    plain = frames(
        load_dataset(data).learn, data, resolution_of(base, config), size_multiple(base), plain=True
    )
    encoding = encode_frames(base, tuple(plain), None)
    cache: Any = None
    while cache is None:
        try:
            next(encoding)
        except StopIteration as done:
            cache = done.value
    return hold_out(base, cache, SEED, levels=LEVELS, dealt=True)


def read_truth(folder: Path) -> dict[int, float] | None:
    """The scores of a run by step, 0 the base; None where it hasn't been scored."""
    try:
        found = json.loads((folder / TRUTH_NAME).read_text(encoding="utf-8"))
        return {int(step): float(loss) for step, loss in found["scores"].items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return None
