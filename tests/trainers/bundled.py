"""A small run with its bundle, and bundles that no run has made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.trainers.conftest import draw_pictures
from trainers.bundle_format import Bundle
from trainers.config import TrainConfig, preset_config
from trainers.loop import train


def small_config(root: Path, base: Path, **fields: Any) -> TrainConfig:
    """A config on the tiny pipeline, whose pictures are drawn into `root`."""
    pictures = root / "pictures"
    if not pictures.exists():
        draw_pictures(pictures, count=3)
        (pictures / "01.txt").write_text("a zuv disc on teal\n")
    usual: dict[str, Any] = {
        "instance_images": pictures, "trigger": "zuv", "instance_prompt": "a zuv disc",
        "class_prompt": "a disc", "num_class_images": 2, "rank": 2, "alpha": 2.0, "base": str(base),
        "output": root / "run", "cache": root / "cache", "steps": 4, "batch_size": 1, "held_out": 1,
        "learning_rate": 0.3, "warmup_steps": 0, "preview_every": 0, "evaluate_every": 1, "samples": 0,
        "measured_on": ("held_out",), "device": "cpu",
    }  # fmt: skip
    return preset_config("sketch", "subject", **{**usual, **fields})


def small_run(root: Path, base: Path, **fields: Any) -> TrainConfig:
    """Teach for a few steps, as badly as that an earlier step than the last is taken."""
    config = small_config(root, base, **fields)
    list(train(config))
    return config


def made_up(**parts: Any) -> Bundle:
    """A bundle of one picture that nobody has."""
    some, data = "0" * 64, {"instance_prompt": "a zuv disc", "trigger": "zuv"}
    usual: dict[str, Any] = {
        "name": "zuv",
        "made": {"sha256": some, "tensors_sha256": some, "bytes": 1, "step": 1},
        "base": {"name": "pocket", "family": "sd15", "sha256": some},
        "environment": {"threads": 1},
        "config": {"data": data, "run": {"base": "pocket"}},
        "data": {"sha256": some, "pictures": [{"name": "a.png", "sha256": some, "caption": some}]},
    }
    return Bundle.model_validate(json.loads(json.dumps({**usual, **parts})))
