"""The run bundle: what is written of a run, and that it is read back as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.trainers.bundled import bundled
from trainers.bundle_format import read_bundle
from trainers.config import TrainConfig
from trainers.loop import train

Make = Callable[..., TrainConfig]


def test_a_run(make_config: Make, tmp_path: Path) -> None:
    config = make_config()
    list(train(config))
    path = bundled(config)
    assert str(tmp_path) not in path.read_text()
    read_bundle(path)
