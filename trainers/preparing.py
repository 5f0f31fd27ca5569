"""What a run learns from, made ready: pictures as latents, class pictures, what is measured on, captions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.base import Base
from trainers.batches import Stream, draw_step
from trainers.caching.encoding import encode_frames
from trainers.captions import spoken
from trainers.conditions import PromptEncoder
from trainers.config import DataConfig, TrainConfig
from trainers.dataset import Dataset, Frame, Item, frame_notes, frames
from trainers.doctor import examine
from trainers.events import TrainEvent
from trainers.evidence.sets import Fixed, fix_sets
from trainers.known import Known, keep_hashes
from trainers.objective import Levels, predict
from trainers.prior import cache_folder, class_frames, joined_sha256, read_class_pictures

INSTANCE, PRIOR = 0, 1
"""Numbers of the streams: what is learned, and what is to be kept."""

LOOKED_AT = 200
"""Pictures that the doctor looks at before a run."""

_EVA_BATCHES = 4
_SAID_BEFORE = ("missing_trigger", "too_small")


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a run learns from.

    folder: of the caches. streams: by number. fixed: what is measured on. captions: all that can be asked
    for.
    """

    folder: Path
    streams: tuple[Stream, ...]
    fixed: Fixed
    captions: tuple[str, ...]


def before_captions(data: DataConfig) -> DataConfig:
    """Return how the pictures can be read before a captioner has written what it is to write."""
    return data.model_copy(update={"captions": "prompt"}) if data.captioner else data


@dataclass(frozen=True)
class Cuts:
    """What is cut from the pictures: to learn from, and to measure on.

    class_pictures: those that a person gave. sha256: of all that is learned from. known: what was read of
    the pictures, to be kept for later runs.
    """

    learn: tuple[Frame, ...]
    held_out: tuple[Frame, ...]
    class_pictures: tuple[Item, ...]
    sha256: str
    known: Known


def plan_cuts(base: Base, config: TrainConfig, dataset: Dataset) -> Cuts:
    """Say what is cut from the pictures.

    Raises: ConfigError for a resolution that the base can't have; PictureError for a class picture.
    """
    data, sizes = config.data, (resolution_of(base, config), size_multiple(base))
    measured = config.run.evaluate_every > 0
    given = tuple(read_class_pictures(data))
    return Cuts(
        tuple(frames(dataset.learn, data, *sizes, seed=config.run.seed)),
        tuple(frames(dataset.held_out, data, *sizes, plain=True)) if measured else (),
        given,
        joined_sha256(dataset.sha256, given),
        dataset.known,
    )


def prepare(base: Base, config: TrainConfig, cuts: Cuts) -> Generator[TrainEvent, None, Prepared]:
    """Yield what happens while everything is encoded that isn't in the cache yet; return it.

    Raises: BaseError where the VAE fails; PictureError where a picture has changed.
    """
    data, run, folder = config.data, config.run, cache_folder(config.run.cache)
    cuts.known.save()
    keep_hashes(base)
    for note in frame_notes(cuts.learn):
        yield TrainEvent(kind="warning", total=run.steps, message=note)
    encoding: dict[str, Any] = {"unmasked": data.unmasked_weight, "total": run.steps}
    instance = yield from encode_frames(base, cuts.learn, folder, **encoding)

    def speak(caption: str, generator: torch.Generator) -> str:
        return spoken(caption, data, generator)

    streams = [Stream.of("instance", instance, run.batch_size, 1.0, 2 * run.seed, speak)]
    if data.prior_weight > 0:
        known = yield from class_frames(
            base, data, cuts.class_pictures, folder, size_multiple(base), run.steps
        )
        prior = yield from encode_frames(base, known, folder, total=run.steps)
        size = data.prior_batch_size or run.batch_size
        streams.append(Stream.of("prior", prior, size, data.prior_weight, 2 * run.seed + 1))
    fixed = yield from fix_sets(base, config, cuts.learn, cuts.held_out, folder, **encoding)
    captions = [caption for stream in streams for caption in stream.cache.captions] + fixed.captions
    captions += [""] if data.caption_dropout else []
    unique = tuple(dict.fromkeys(captions))
    return Prepared(folder, tuple(streams), fixed, unique)


def doctor_notes(base: Base, config: TrainConfig, dataset: Dataset | None = None) -> Iterator[str]:
    """Say what the dataset doctor finds, a line each; of many of one kind the first, and how many more.

    What the notes of the dataset and of its frames say anyway is left out. Of many pictures only LOOKED_AT
    are looked at, so that a run begins soon however many there are. dataset: where it is read already.
    """
    found = examine(
        config.data, config.run, resolution=resolution_of(base, config), dataset=dataset, at_most=LOOKED_AT
    )
    for kind in dict.fromkeys(finding.kind for finding in found if finding.kind not in _SAID_BEFORE):
        alike = [finding for finding in found if finding.kind == kind]
        more = f" (and {len(alike) - 1} more like it)" if len(alike) > 1 else ""
        yield alike[0].line() + more
    if dataset is not None and len(dataset.learn) > LOOKED_AT:
        yield f"looked for faults in {LOOKED_AT} of {len(dataset.learn)} pictures; --doctor looks at all"


def resolution_of(base: Base, config: TrainConfig) -> int:
    """Return the side in pixels of the square that has as many as every picture is learned with."""
    return config.data.resolution or base.resolution


def size_multiple(base: Base) -> int:
    """Return what pictures' sides must be multiples of, in pixels: each down block but the last halves."""
    return base.vae_scale_factor * int(2 ** (len(base.unet.config["block_out_channels"]) - 1))


def forwards(
    base: Base, levels: Levels, config: TrainConfig, prepared: Prepared
) -> list[Callable[[], object]]:
    """Return calls that run a few batches through the base, for starts that look at activations.

    They have an order and a chance of their own, so that the run's aren't touched.
    """
    encode = PromptEncoder(base, trained=False)
    stream = prepared.streams[INSTANCE]
    own = Stream.of("start", stream.cache, stream.size, 1.0, config.run.seed)

    def forward() -> object:
        with torch.no_grad():
            for batch in draw_step([own], levels, config.objective):
                batch = batch.to(base.device)
                told = encode(batch.captions)
                predict(base, levels, batch.latents, batch.input_noise, batch.timesteps, told, batch.frames)
        return None

    return [forward] * _EVA_BATCHES
