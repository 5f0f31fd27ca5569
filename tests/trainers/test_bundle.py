"""The run bundle: what is written of a run, and that it is read back as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines.base import load_base
from trainers import known
from trainers.bundle import Told, write_bundle
from trainers.bundle_format import read_bundle
from trainers.config import TrainConfig
from trainers.dataset import load_dataset
from trainers.loop import train
from trainers.preparing import plan_cuts
from trainers.prior import cache_folder

Make = Callable[..., TrainConfig]


def bundled(config: TrainConfig) -> Path:
    """Write the bundle of a run that has ended, as the loop does."""
    cache = cache_folder(config.run.cache)
    dataset, base = load_dataset(config.data, cache), load_base(config.run.base, device="cpu")
    told = Told(
        config=config, chosen=config, dataset=dataset, cuts=plan_cuts(base, config, dataset), base=base,
        base_sha256=known.base_sha256(base, cache),
    )  # fmt: skip
    return write_bundle(config.run.output, told, config.run.steps)


def test_a_run(make_config: Make, tmp_path: Path) -> None:
    config = make_config(evaluate_every=0)
    list(train(config))
    path = bundled(config)
    assert str(tmp_path) not in path.read_text()
    read_bundle(path)
