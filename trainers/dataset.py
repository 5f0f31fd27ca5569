"""The pictures and captions of a config, checked: what is learned from, and what is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines.errors import ConfigError
from trainers.captions import Words, listed, words_for
from trainers.config import DataConfig
from trainers.folders import find_folders
from trainers.frames import Cut, Frame, Variant, frame_notes, frames
from trainers.images import Source, unread
from trainers.known import Known
from trainers.masks import check_mask, find_mask

__all__ = [
    "Cut", "Dataset", "Frame", "Item", "Variant", "frame_notes", "frames", "load_dataset",
]  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Item:
    """A picture with its words.

    caption: as it is written; what a sample says is `captions.spoken` of it. own: whether it was written for
    this picture. repeats: how often the picture comes in one round through all. masked: whether the
    picture's own opacity is its mask. mask_source: the picture that is its mask, or None. name: the file's
    path in the folder of pictures.
    """

    source: Source
    caption: str
    name: str
    own: bool = False
    repeats: int = 1
    masked: bool = False
    mask_source: Source | None = None

    def layers(self) -> tuple[Image.Image, Image.Image | None]:
        """Decode the picture (RGB) and its mask (L, of the same size; 255 counts, 0 doesn't) or None."""
        picture, alpha = self.source.layers()
        if self.mask_source is not None:
            drawn = self.mask_source.image.convert("L")
            return picture, drawn if drawn.size == picture.size else drawn.resize(picture.size)
        return picture, alpha if self.masked else None

    @property
    def mask(self) -> Image.Image | None:
        """The mask, see `layers`."""
        return self.layers()[1]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures that were read and found good, each with its words.

    notes: lines that a person should read. sha256: over names, contents, captions, repeats and masks, in
    order: the same for the same data. known: what was read, to be kept for later runs once one may write.
    """

    learn: tuple[Item, ...]
    held_out: tuple[Item, ...]
    notes: tuple[str, ...]
    sha256: str
    known: Known


def load_dataset(data: DataConfig, cache: Path | None = None) -> Dataset:
    """Read all pictures, captions and masks of `data`, and split off what is held out.

    cache: the cache folder, by which pictures that haven't changed since they were read needn't be decoded;
    nothing is written there (see `Known.save`).

    Raises: PictureError naming the folder or file that can't be used; ConfigError where nothing would be
    left to learn from, or where masks are asked for and there are none.
    """
    folders = find_folders(data)
    paths = [path for folder in folders for path in folder.pictures]
    count = _held_out(data, len(paths))
    known = Known(cache)
    sources = [known.read(path, data.background) for path in paths]
    prompts = [folder.prompt for folder in folders for _ in folder.pictures]
    words, notes = words_for(paths, data, prompts)
    repeats = [folder.repeats for folder in folders for _ in folder.pictures]
    items = [
        _item(data, source, said, often, known)
        for source, said, often in zip(sources, words, repeats, strict=True)
    ]
    notes = _picture_notes(items) + notes
    if other := unread(data.instance_images):
        notes.append(f"not read, since of another format: {', '.join(other[:5])}; save them as PNG or JPEG")
    notes += _mask_notes(data, items)
    if data.masks != "file" and any(said.mask for said in words):
        notes.append("table of captions: its masks aren't used; set data.masks to “file”")
    digest = hashlib.sha256()
    for item in items:
        digest.update(_line(item).encode(errors="surrogateescape"))  # names may be no UTF-8
    chosen = set(_chosen(data, items, count))
    return Dataset(
        tuple(item for index, item in enumerate(items) if index not in chosen),
        tuple(item for index, item in enumerate(items) if index in chosen),
        tuple(notes),
        digest.hexdigest(),
        known,
    )


def _item(data: DataConfig, source: Source, said: Words, repeats: int, known: Known) -> Item:
    """Join what is known of one picture, and check its mask."""
    mask_source = None
    if data.masks == "file" and (path := find_mask(source.path, said.mask)) is not None:
        mask_source = known.read(path, "black")  # what nobody has painted white doesn't count
    item = Item(
        source=source,
        caption=said.caption,
        name=source.path.relative_to(data.instance_images).as_posix(),
        own=said.own,
        repeats=said.repeats or repeats,
        masked=data.masks == "alpha" and source.alpha,
        mask_source=mask_source,
    )
    if item.masked or mask_source is not None:
        check_mask(item)
    return item


def _picture_notes(items: Sequence[Item]) -> list[str]:
    """Say what was done to pictures; one line for all that it was done to."""
    names: dict[str, list[str]] = {}
    for item in items:
        for note in item.source.notes:
            names.setdefault(note, []).append(item.name)
    return [
        f"picture {found[0]!r}: {note}" if len(found) == 1 else f"pictures {listed(found)}: {note}"
        for note, found in names.items()
    ]


def _line(item: Item) -> str:
    """Everything about an item that a run depends on."""
    mask = item.mask_source.sha256 if item.mask_source else "alpha" if item.masked else ""
    parts = (item.name, item.source.sha256, item.source.background, item.caption, str(item.repeats), mask)
    return "\0".join(parts) + "\n"


def _mask_notes(data: DataConfig, items: Sequence[Item]) -> list[str]:
    """Say which pictures have no mask. Raises: ConfigError where none has one."""
    if data.masks == "none":
        return []
    without = [item.name for item in items if not item.masked and item.mask_source is None]
    if len(without) == len(items):
        wanted = "transparent parts" if data.masks == "alpha" else "a mask (name.mask.png, or masks/name.png)"
        raise ConfigError(f"data.masks: got {data.masks!r}, but no picture has {wanted}; leave masks out")
    return [f"no mask for {listed(without)}: all of it counts"] if without else []


def _held_out(data: DataConfig, total: int) -> int:
    """Return how many of `total` pictures are held out. Raises: ConfigError where none would be left."""
    count = data.set_aside(total)
    if count >= total:
        name = "held_out_share" if data.held_out_share else "held_out"
        raise ConfigError(
            f"data.{name}: got {getattr(data, name)} of {total} pictures, "
            f"expected at least one left to learn from; hold out fewer"
        )
    return count


def _chosen(data: DataConfig, items: Sequence[Item], count: int) -> list[int]:
    """Return the indices of the held-out items: the last by name, or by chance.

    Chance is a hash of seed and content, so that another picture in the folder moves few of them.
    """
    order = list(range(len(items)))
    if data.held_out_share:
        order.sort(
            key=lambda index: hashlib.sha256(
                f"{data.split_seed}\0{items[index].source.sha256}\0{items[index].name}".encode(
                    errors="surrogateescape"
                )
            ).digest()
        )
    return order[len(items) - count :]
