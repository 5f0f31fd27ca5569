"""Small pictures, and configs that learn them on the tiny pipeline in about a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from trainers.config import TrainConfig, preset_config

COLOURS = ("red", "teal", "gold", "navy", "gray")


def draw_pictures(folder: Path, count: int = 5, side: int = 24) -> Path:
    """A disc with a dot in it on `count` backgrounds, as PNG files named in order."""
    folder.mkdir(parents=True)
    for index in range(count):
        picture = Image.new("RGB", (side, side), COLOURS[index % len(COLOURS)])
        draw = ImageDraw.Draw(picture)
        draw.ellipse((3 + index, 3, side - 4, side - 4), fill="white")
        draw.ellipse((9, 9, 13, 13), fill="black")
        picture.save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of five pictures."""
    return draw_pictures(tmp_path / "pictures")


@pytest.fixture
def make_config(tmp_path: Path, tiny_folder: Path, pictures: Path) -> Callable[..., TrainConfig]:
    """Make a config on the tiny pipeline; fields by name, whatever their section."""

    def make(**fields: Any) -> TrainConfig:
        usual: dict[str, Any] = {
            "instance_images": pictures,
            "trigger": "zuv",
            "instance_prompt": "a zuv disc",
            "class_prompt": "a disc",
            "num_class_images": 4,
            "held_out": 1,
            "rank": 2,
            "alpha": 2.0,
            "base": str(tiny_folder),
            "output": tmp_path / "run",
            "cache": tmp_path / "cache",
            "steps": 4,
            "batch_size": 2,
            "checkpoint_every": 2,
            "preview_every": 0,
            "evaluate_every": 2,
            "measured_on": ("held_out",),
            "samples": 0,
            "report": False,
            "threads": 1,
            "device": "cpu",
        }
        return preset_config("sketch", "subject", **{**usual, **fields})

    return make
