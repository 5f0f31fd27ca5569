"""Class pictures: what the base draws by itself, learned along so that it isn't forgotten.

Half of them (`prior_breadth`) show other things than the class, on many backgrounds: a prior of one
prompt keeps only that prompt. They are made in groups of a few, each group once for a base, its prompts
and its settings, and kept in a cache folder that runs share.

Source: Ruiz et al. 2022, https://arxiv.org/abs/2208.12242, section 3.3; the other things are added here.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.base import Base
from pipelines.files import sync_folder
from pipelines.generate import GenerationConfig, generate_prompts
from trainers.config import DataConfig
from trainers.events import TrainEvent

SCENES = (
    "", "on a white background", "on a red background", "in the snow", "on a light blue background",
    "on green grass under a blue sky", "on a yellow background", "at night", "on a purple background",
    "on a wooden table", "on a black background", "on a sandy beach by the sea", "on a green background",
    "at sunset", "on a gray background", "on an orange background", "on a pink background",
)  # fmt: skip
THINGS = (
    "cat", "house", "fox", "sunflower", "car", "penguin", "red apple", "owl", "tree", "frog", "cake", "dog",
    "sailboat", "banana", "castle", "bear", "crown", "tiger", "hamburger", "rocket", "cow", "mushroom", "bus",
    "rabbit", "guitar", "robot", "strawberry", "lion", "cactus", "butterfly", "clock", "fish", "balloon",
)  # fmt: skip
"""Everyday things that any base knows."""

_GROUP = 8
_SETTINGS: dict[str, Any] = {"num_inference_steps": 16, "guidance_scale": 3.0, "sampler": "ddim"}


@dataclass(frozen=True)
class ClassPicture:
    """A class picture to be made: its prompt and its seed."""

    prompt: str
    seed: int


def plan(data: DataConfig) -> list[ClassPicture]:
    """Say which class pictures `data` asks for; the same settings give the same plan.

    The class comes first, over the scenes in turn, then the other things. Without a class prompt all
    are of other things.
    """
    others = round(data.num_class_images * (data.prior_breadth if data.class_prompt else 1.0))
    pictures = [
        ClassPicture(f"{data.class_prompt} {SCENES[index % len(SCENES)]}".strip(), index)
        for index in range(data.num_class_images - others)
    ]
    for index in range(others):
        # 5 has no factor in common with the number of scenes, so things and scenes meet in many pairs.
        thing, scene = THINGS[index % len(THINGS)], SCENES[index * 5 % len(SCENES)]
        article = "an" if thing[0] in "aeiou" else "a"
        pictures.append(ClassPicture(f"a photo of {article} {thing} {scene}".strip(), 1000 + index))
    return pictures


def cache_folder(configured: Path | None) -> Path:
    """Return the folder of caches: `configured`, else $PIGMENT_CACHE, else the user's own."""
    if configured is not None:
        return configured
    if own := os.environ.get("PIGMENT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pigment"


def make_class_pictures(
    base: Base, planned: Sequence[ClassPicture], cache: Path, resolution: int, total: int = 0
) -> Generator[TrainEvent, None, list[Image.Image]]:
    """Yield a stage event after each group that had to be made; return the pictures of `planned`.

    An interrupted call goes on with the first group that isn't there. A group is always drawn whole,
    since a batch's composition changes the last bits. resolution: side in pixels. total: steps of the run.
    """
    pictures: list[Image.Image] = []
    for start in range(0, len(planned), _GROUP):
        group = planned[start : start + _GROUP]
        folder = cache / "class_pictures" / _key(base, group, resolution)
        kept = _read(folder, len(group))
        if kept is None:
            config = GenerationConfig(prompt="", width=resolution, height=resolution, **_SETTINGS)
            prompts, seeds = [one.prompt for one in group], [one.seed for one in group]
            drawn = generate_prompts(base, prompts, seeds, config, batch_size=_GROUP)
            kept = [picture.convert("RGB") for picture in drawn]
            _write(folder, kept, prompts)
            done = start + len(group)
            yield TrainEvent(
                kind="stage",
                total=total,
                message=f"class pictures {done}/{len(planned)}",
                data={"stage": "class_pictures", "done": done, "of": len(planned)},
            )
        pictures += kept
    return pictures


def _key(base: Base, group: Sequence[ClassPicture], resolution: int) -> str:
    """Name of a group's folder: everything that its pictures depend on, hashed."""
    asked = [[one.prompt, one.seed] for one in group]
    source = base.source
    said = [] if source is None else [source.vae_sha256, source.asked.get("prediction_type")]
    text = json.dumps(
        [1, base.sha256, *(one for one in said if one), str(base.dtype), resolution, _SETTINGS, asked],
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(folder: Path, count: int) -> list[Image.Image] | None:
    """Read a group's pictures, or return None where it isn't whole."""
    pictures = []
    for index in range(count):
        try:
            with Image.open(folder / f"{index:03d}.png") as opened:
                pictures.append(opened.convert("RGB"))
        except (OSError, SyntaxError, ValueError):  # missing, or damaged: Pillow raises all three
            return None
    return pictures


def _write(folder: Path, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> None:
    """Write a group so that its folder is whole or not there; a damaged one is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".writing-{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        for index, picture in enumerate(pictures):
            picture.save(temporary / f"{index:03d}.png")
        (temporary / "prompts.json").write_text(json.dumps(list(prompts), indent=1), encoding="utf-8")
        if _read(folder, len(pictures)) is None:
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    except OSError:
        if _read(folder, len(pictures)) is None:
            raise
    finally:
        # Another run may have made the same group in the meantime: the pictures are the same.
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(folder.parent)
