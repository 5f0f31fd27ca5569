"""A bundle of a run that has ended, as the loop writes it."""

from __future__ import annotations

from pathlib import Path

from pipelines.base import load_base
from trainers import known
from trainers.bundle import Told, write_bundle
from trainers.config import TrainConfig
from trainers.dataset import load_dataset
from trainers.preparing import plan_cuts
from trainers.prior import cache_folder


def bundled(config: TrainConfig) -> Path:
    """Write the bundle of a run that has ended; return its path."""
    cache = cache_folder(config.run.cache)
    dataset, base = load_dataset(config.data, cache), load_base(config.run.base, device="cpu")
    told = Told(
        config=config, chosen=config, dataset=dataset, cuts=plan_cuts(base, config, dataset), base=base,
        base_sha256=known.base_sha256(base, cache),
    )  # fmt: skip
    return write_bundle(config.run.output, told, config.run.steps)
