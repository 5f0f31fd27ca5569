"""The pictures and captions of a config, checked and cut: what is learned from, and what is held out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from PIL import Image

from pipelines.errors import ConfigError
from trainers.captions import captions_for
from trainers.config import DataConfig
from trainers.images import Source, find_pictures, read_picture, squares


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures as they were read, each with its caption.

    learn, held_out: (picture, caption). notes: lines that a person should read. sha256: over names,
    contents and captions, in order: the same for the same data.
    """

    learn: tuple[tuple[Source, str], ...]
    held_out: tuple[tuple[Source, str], ...]
    notes: tuple[str, ...]
    sha256: str


def load_dataset(data: DataConfig) -> Dataset:
    """Read all pictures and captions of `data`; the last `held_out` by name are held out.

    Raises: PictureError naming the folder or file that can't be used; ConfigError where nothing would be
    left to learn from.
    """
    paths = find_pictures(data.instance_images)
    if data.held_out >= len(paths):
        raise ConfigError(
            f"data.held_out: got {data.held_out} of {len(paths)} pictures, "
            f"expected at least one left to learn from; hold out fewer"
        )
    sources = [read_picture(path) for path in paths]
    captions, notes = captions_for(paths, data)
    notes = [f"picture {source.path.name!r}: {note}" for source in sources for note in source.notes] + notes
    digest = hashlib.sha256()
    for source, caption in zip(sources, captions, strict=True):
        digest.update(f"{source.path.name}\0{source.sha256}\0{caption}\n".encode())
    pairs = tuple(zip(sources, captions, strict=True))
    split = len(pairs) - data.held_out
    return Dataset(pairs[:split], pairs[split:], tuple(notes), digest.hexdigest())


def cut(
    pairs: tuple[tuple[Source, str], ...], data: DataConfig, resolution: int
) -> tuple[list[Image.Image], list[str]]:
    """Cut the squares of `resolution` pixels that `data` asks for, each with its picture's caption."""
    pictures: list[Image.Image] = []
    captions: list[str] = []
    for source, caption in pairs:
        found = squares(source.image, resolution, center=data.center_crop, flip=data.flip)
        pictures += found
        captions += [caption] * len(found)
    return pictures, captions
