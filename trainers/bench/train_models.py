"""What is trained on, as folders that every tool can read: models in diffusers' layout, and pictures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipelines.base import ASSETS
from pipelines.errors import ConfigError, StudioError


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


def model_folder(ref: str) -> Path:
    """The diffusers folder that `--model ref` means. Raises: BaseError, ConfigError."""
    from pipelines.bases.source import local_path

    path = local_path(ref, half=False).resolve()
    if not path.is_dir():
        what = "one file, which not all tools read" if path.is_file() else "no such folder"
        raise ConfigError(f"model {ref!r} is {what}; give pocket, sd15, sdxl or a diffusers folder")
    return path


def about(folder: Path) -> tuple[str, int]:
    """The family of a model and the side in pixels of the square that it was made for."""
    from pipelines.bases.source import open_source

    source = open_source(folder)
    halvings = len(source.configs["vae"]["block_out_channels"]) - 1
    return source.family.id, int(source.configs["unet"]["sample_size"]) * 2**halvings


def random_folder(family: str, models: Path, *, small: bool, device: str) -> Path:
    """Return a folder below `models` with random weights in the published shapes, made where there is none.

    A process of its own makes it, so that this one takes nothing of a card. In bf16 on a card, fp32 on a CPU.
    Raises: ConfigError for a full-size one without a card, StudioError where it can't be made.
    """
    if device == "cpu" and not small:
        raise ConfigError(
            f"model {family!r} in full size needs a CUDA device; add --small for an eighth of its width"
        )
    folder = models / f"{family}{'-small' if small else ''}-{device}"
    if not (folder / "model_index.json").is_file():
        words = [family, str(folder), "small" if small else "full", device]
        paths = os.pathsep.join([str(ASSETS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "trainers.bench.train_models", *words],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths},
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it said nothing"]
            raise StudioError(f"making {family!r} ended with {done.returncode}: {lines[-1][:200]}")
    return folder


def main() -> None:
    """Write one model of random weights in diffusers' layout, whole or not at all."""
    import torch

    from pipelines.base import quiet
    from trainers.bench.models import random_base

    family, target, size, device = sys.argv[1:]
    base = random_base(family, small=size == "small", device=device)
    being = Path(target + ".being-written")
    shutil.rmtree(being, ignore_errors=True)
    with quiet(), torch.no_grad():
        base.pipeline().save_pretrained(being)
    being.rename(target)


if __name__ == "__main__":
    main()
