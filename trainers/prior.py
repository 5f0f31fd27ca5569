"""Class pictures: what the base draws by itself, learned along so that it isn't forgotten.

Half of them (`prior_breadth`) show other things than the class, on many backgrounds: a prior of one
prompt keeps only that prompt. They are made in groups of a few, each group once for a base, its prompts
and its settings, and kept in a cache folder that runs share; a group is whole or not there, and its
pictures are read only where their SHA-256 holds. The folder may be removed at any time.

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
from pipelines.errors import ConfigError, StudioError
from pipelines.exhausted import out_of_memory
from pipelines.files import file_sha256, sync_folder
from pipelines.generate import GenerationConfig, generate_prompts
from trainers.captions import read_caption
from trainers.config import DataConfig
from trainers.dataset import Item
from trainers.events import TrainEvent
from trainers.frames import Frame, Variant, frames
from trainers.images import Source, find_pictures, read_picture
from trainers.room import disk_full

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

CLASS_PICTURES = "class_pictures"
"""The folder of class pictures below the cache folder: a folder in it for each group."""
_MANIFEST = "group.json"
_PIXELS_AT_ONCE = 2**20
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


def drawn_at_once(height: int, width: int) -> int:
    """Return how many pictures of this size are drawn together: 4 of 512×512 pixels, 1 of 1024×1024."""
    return max(1, min(8, _PIXELS_AT_ONCE // (height * width)))


def read_class_pictures(data: DataConfig) -> list[Item]:
    """Read the pictures of `data.class_images`, each with the words of its .txt file or the class prompt.

    None where the config names no folder. Call it before a run begins, so that what can't be used is
    refused then.

    Raises: PictureError naming the folder or file; ConfigError where a picture has no words at all.
    """
    if data.class_images is None:
        return []
    items = []
    for path in find_pictures(data.class_images):
        written = read_caption(path.with_suffix(".txt"))
        if not (written or data.class_prompt):
            raise ConfigError(
                f"data.class_images: picture {path.name!r} has no words; write {path.stem}.txt, or set "
                "data.class_prompt"
            )
        source = read_picture(path, data.background)
        items.append(
            Item(source=source, caption=written or data.class_prompt, name=path.name, own=bool(written))
        )
    return items


def joined_sha256(data_sha256: str, given: Sequence[Item]) -> str:
    """Return the hash of a run's data with the class pictures that a person has given; without, as it is."""
    if not given:
        return data_sha256
    lines = [f"{item.name}\0{item.source.sha256}\0{item.caption}\n" for item in given]
    text = data_sha256 + "".join(lines)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()  # names may be no UTF-8


def class_frames(
    base: Base, data: DataConfig, given: Sequence[Item], cache: Path, multiple: int, total: int = 0
) -> Generator[TrainEvent, None, list[Frame]]:
    """Yield an event after each group that had to be made; return what is learned of the class.

    First the pictures that were given (see `read_class_pictures`), cut as those to learn are, without
    variants; then, up to `data.num_class_images`, squares that the base draws. They stay on disk until they
    are cut. multiple: pixels that sides must be multiples of for the base. total: steps of the run.
    """
    resolution = data.resolution or base.resolution
    found = frames(given, data, resolution, multiple, plain=True)
    planned = plan(data)[len(given) :]
    size = (resolution, resolution)
    paths = yield from draw_class_pictures(base, planned, cache, resolution, total)
    for one, path in zip(planned, paths, strict=True):
        source = Source(path, size, (), file_sha256(path))
        item = Item(source=source, caption=one.prompt, name=f"{one.prompt} ({one.seed})")
        found.append(Frame(item=item, size=size, variants=(Variant(scaled=size, crop=(0, 0)),)))
    return found


def draw_class_pictures(
    base: Base, planned: Sequence[ClassPicture], cache: Path, resolution: int, total: int = 0
) -> Generator[TrainEvent, None, list[Path]]:
    """Yield a stage event after each group that had to be made; return the files of `planned`.

    An interrupted call goes on with the first group that isn't there. A group is always drawn whole,
    since a batch's composition changes the last bits. resolution: side in pixels. total: steps of the run.
    """
    files: list[Path] = []
    at_once = drawn_at_once(resolution, resolution)
    for start in range(0, len(planned), at_once):
        group = planned[start : start + at_once]
        folder = cache / CLASS_PICTURES / _key(base, group, resolution)
        if not _whole(folder, len(group)):
            _write(folder, _drawn(base, group, resolution), [one.prompt for one in group])
            done = start + len(group)
            yield TrainEvent(
                kind="stage",
                total=total,
                message=f"class pictures {done}/{len(planned)}",
                data={"stage": "class_pictures", "done": done, "of": len(planned)},
            )
        files += [folder / _name(index) for index in range(len(group))]
    return files


def where_drawn(base: Base, planned: Sequence[ClassPicture], cache: Path, resolution: int) -> list[Path]:
    """Return the files that `draw_class_pictures` gives, whether or not they are drawn yet."""
    at_once = drawn_at_once(resolution, resolution)
    groups = [planned[start : start + at_once] for start in range(0, len(planned), at_once)]
    return [
        cache / CLASS_PICTURES / _key(base, group, resolution) / _name(index)
        for group in groups
        for index in range(len(group))
    ]


def _drawn(base: Base, group: Sequence[ClassPicture], resolution: int) -> list[Image.Image]:
    """Draw a group: at once, or one by one where the device's memory is full."""
    config = GenerationConfig(prompt="", width=resolution, height=resolution, **_SETTINGS)
    prompts, seeds = [one.prompt for one in group], [one.seed for one in group]
    try:
        drawn = generate_prompts(base, prompts, seeds, config, batch_size=len(group))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error) or len(group) == 1:
            raise
        drawn = generate_prompts(base, prompts, seeds, config, batch_size=1)
    return [picture.convert("RGB") for picture in drawn]


def _key(base: Base, group: Sequence[ClassPicture], resolution: int) -> str:
    """Name of a group's folder: everything that its pictures depend on, hashed."""
    asked = [[one.prompt, one.seed] for one in group]
    source, setup = base.source, base.setup
    said = [] if source is None else [source.vae_sha256, source.asked.get("prediction_type")]
    said += [] if setup is None else [setup.quantise]
    text = json.dumps(
        [2, base.sha256, *(one for one in said if one), str(base.dtype), resolution, _SETTINGS, asked],
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _name(index: int) -> str:
    return f"{index:03d}.png"


def _whole(folder: Path, count: int) -> bool:
    """Whether a group's pictures are there, each as it was written."""
    try:
        sealed = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["sha256"]
        return len(sealed) == count and all(
            sealed[_name(index)] == file_sha256(folder / _name(index)) for index in range(count)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def sealed(path: Path) -> str | None:
    """Return the SHA-256 that a class picture was drawn with; None where its group isn't whole."""
    try:
        kept: dict[str, str] = json.loads((path.parent / _MANIFEST).read_text(encoding="utf-8"))["sha256"]
        return kept.get(path.name) if _whole(path.parent, len(kept)) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(folder: Path, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> None:
    """Write a group so that its folder is whole or not there; a damaged one is replaced."""
    temporary = folder.with_name(f".writing-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        if disk_full(error):
            raise
        raise StudioError(
            f"class pictures can't be kept in {str(folder.parent)!r} ({error.strerror}); set run.cache to a "
            "folder that can be written"
        ) from error
    try:
        for index, picture in enumerate(pictures):
            picture.save(temporary / _name(index))
        sealed = {_name(index): file_sha256(temporary / _name(index)) for index in range(len(pictures))}
        text = json.dumps({"prompts": list(prompts), "sha256": sealed}, indent=1)
        (temporary / _MANIFEST).write_text(text, encoding="utf-8")
        if not _whole(folder, len(pictures)):
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    except OSError:
        if not _whole(folder, len(pictures)):
            raise
    finally:
        # Another run may have made the same group in the meantime: the pictures are the same.
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(folder.parent)
