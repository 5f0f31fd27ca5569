"""What trainings of the suites stand on: a tiny base, a few pictures, and a config that takes a second."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.config import TrainConfig


@cache
def ground() -> Path:
    """A folder that lives as long as this process: `base`, a tiny pipeline, and `pictures`."""
    import diffusers  # noqa: F401 (before any fork: each would import it again)
    import peft  # noqa: F401

    import trainers.loop  # noqa: F401
    from tests.tiny import save_tiny_pipeline
    from tests.trainers.conftest import draw_pictures

    folder = Path(tempfile.mkdtemp(prefix="pigment-ground-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    save_tiny_pipeline(folder / "base")
    draw_pictures(folder / "pictures")
    return folder


def tiny_training(folder: Path, **fields: Any) -> TrainConfig:
    """Six steps on the tiny base, a checkpoint every two; run and cache in `folder`. fields: what differs."""
    from trainers.config import preset_config

    usual: dict[str, Any] = {
        "instance_images": ground() / "pictures", "trigger": "zuv", "instance_prompt": "a zuv disc",
        "class_prompt": "a disc", "prior_weight": 0.0, "held_out": 1, "base": str(ground() / "base"),
        "output": folder / "run", "cache": folder / "cache", "steps": 6, "batch_size": 1,
        "checkpoint_every": 2, "threads": 1, "device": "cpu",
    }  # fmt: skip
    return preset_config("sketch", "subject", **{**usual, **fields})
