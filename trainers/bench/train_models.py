"""What is trained on, as folders that every tool can read: models in diffusers' layout, and pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.base import ASSETS
from pipelines.errors import ConfigError


def write_pictures(folder: Path, count: int, side: int) -> Path:
    """Write `count` of the examples' pictures as squares of `side` pixels into `folder`; return it.

    They have the size that is learned, so that no way pays for scaling. Raises: ConfigError for more than
    there are.
    """
    from PIL import Image

    files = sorted((ASSETS / "examples").glob("*/*.png"))
    if count > len(files):
        raise ConfigError(f"--pictures is {count}, but there are {len(files)} of them; give at most that")
    folder.mkdir(parents=True)
    for index, file in enumerate(files[:count]):
        picture = Image.open(file).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        picture.save(folder / f"{index:02}.png")
    return folder


def random_folder(family: str, folder: Path, *, small: bool, device: str) -> Path:
    """Write a model of random weights in diffusers' layout, in bf16 on a card; return its folder.

    One that is there already is taken as it is.
    """
    import torch

    from pipelines.base import quiet
    from trainers.bench.models import random_base

    if (folder / "model_index.json").is_file():
        return folder
    base = random_base(family, small=small, device=device, dtype=None)
    being = folder.with_name(folder.name + ".being-written")
    shutil.rmtree(being, ignore_errors=True)
    with quiet():
        pipeline = base.pipeline()
        pipeline.to(dtype=torch.bfloat16)
        pipeline.save_pretrained(being)
    being.rename(folder)
    return folder
