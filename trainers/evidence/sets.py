"""The fixed samples that a run is measured on, made of its pictures and of the base's own."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.base import Base
from pipelines.files import file_sha256
from trainers.caching.encoding import encode_frames
from trainers.config import DataConfig, TrainConfig
from trainers.dataset import Item
from trainers.events import TrainEvent
from trainers.evidence.asking import plain as without_trigger
from trainers.evidence.held_out import HeldOut, hold_out
from trainers.evidence.record import CLASS_LEVELS, FEW_LEVELS, TAUGHT
from trainers.frames import Frame, Variant, changed
from trainers.images import Source
from trainers.prior import SCENES, THINGS, ClassPicture, draw_class_pictures
from trainers.wording import with_article

SELDOM = ("plain",)
"""Sets that no step is chosen by, and that a few moments are enough for."""

_SEED = 5000  # of the base's own pictures: none that is learned along has it
_NOISE = {"teaching": 1, "altered": 1, "plain": 1, "class": 2}
"""Seeds of the noise: one for what is compared with each other."""


@dataclass(frozen=True, eq=False)
class Fixed:
    """What is measured on: sets by name, and how many pictures each is made of."""

    sets: dict[str, HeldOut]

    def due(self, number: int, *, last: bool) -> dict[str, HeldOut]:
        """What is measured the `number`th time: SELDOM every fourth and the last time only."""
        often = number % 4 == 0 or last
        return {name: one for name, one in self.sets.items() if often or name not in SELDOM}

    @property
    def captions(self) -> list[str]:
        """All that is asked for."""
        return [caption for one in self.sets.values() for caption in one.captions]


def fix_sets(
    base: Base, config: TrainConfig, learn: Sequence[Frame], held_out: Sequence[Frame], folder: Path,
    **encoding: Any,
) -> Generator[TrainEvent, None, Fixed]:  # fmt: skip
    """Yield what happens while the sets are made; return them, none where nothing is measured.

    learn, held_out: what is cut from the pictures. folder: of the caches. encoding: for `encode_frames`.
    """
    sets: dict[str, HeldOut] = {}
    asked = config.evidence.measured_on if config.run.evaluate_every else ()
    if held_out and "held_out" in asked:
        sets["held_out"] = hold_out(base, (yield from encode_frames(base, held_out, folder, **encoding)))
    few: dict[str, Any] = {"levels": FEW_LEVELS, "dealt": True}
    if {"teaching", "altered", "plain"} & set(asked):
        flip = config.data.flip
        some = [replace(one, variants=(one.variants[0], changed(one, flip))) for one in _evenly(learn)]
        cache = yield from encode_frames(base, some, folder, **encoding)
        plain = [without_trigger(caption, config.data) for caption in cache.captions]
        made: dict[str, dict[str, Any]] = {"teaching": {}, "altered": {"variant": 1}}
        if plain != list(cache.captions):
            made["plain"] = {"captions": plain}
        for name, how in made.items():
            if name in asked:
                sets[name] = hold_out(base, cache, _NOISE[name], **how, **few)
    if "class" in asked:
        count, total = config.evidence.class_samples, config.run.steps
        own = yield from _class_frames(base, config.data, count, folder, total)
        of_class = yield from encode_frames(base, own, folder, total=total)
        sets["class"] = hold_out(base, of_class, _NOISE["class"], levels=CLASS_LEVELS, dealt=True)
    return Fixed(sets)


def _evenly(found: Sequence[Frame]) -> list[Frame]:
    """At most TAUGHT of them, evenly."""
    if len(found) <= TAUGHT:
        return list(found)
    return [found[index * len(found) // TAUGHT] for index in range(TAUGHT)]


def class_plan(data: DataConfig, count: int) -> list[ClassPicture]:
    """Say what the base draws to be measured on: half of the class, where it is said, and other things."""
    of_class = count // 2 if data.class_prompt else 0
    planned = [
        ClassPicture(f"{data.class_prompt} {SCENES[1 + index]}", _SEED + index) for index in range(of_class)
    ]
    for index in range(count - of_class):
        thing, scene = THINGS[index * 7 % len(THINGS)], SCENES[index * 3 % len(SCENES)]
        planned.append(ClassPicture(f"a photo of {with_article(thing)} {scene}".strip(), _SEED + 500 + index))
    return planned


def _class_frames(
    base: Base, data: DataConfig, count: int, folder: Path, total: int
) -> Generator[TrainEvent, None, list[Frame]]:
    """Yield an event for what had to be drawn; return squares of the base's own pictures."""
    resolution = data.resolution or base.resolution
    planned, size = class_plan(data, count), (resolution, resolution)
    paths = yield from draw_class_pictures(base, planned, folder, resolution, total)
    return [
        Frame(
            item=Item(source=Source(path, size, (), file_sha256(path)), caption=one.prompt, name=one.prompt),
            size=size,
            variants=(Variant(scaled=size, crop=(0, 0)),),
        )
        for one, path in zip(planned, paths, strict=True)
    ]
