"""What was dropped, checked by its content and kept: each file that isn't, with its reason."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.errors import PictureError
from pipelines.files import file_sha256
from studio.decoder import Decoder, decoder
from studio.dropped import Dropped, Refused, Sorted, key, one_name, read_tables, repeating, sort, unzipped
from studio.pictures import Picture, Pictures

STALE = 86400
"""Seconds after which a folder for unpacking is nobody's any more."""
ASPECT = 0.02
"""How much a mask's shape may differ from its picture's."""


@dataclass(frozen=True)
class Good:
    """A picture that was taken. caption, mask: that lay beside it, or None."""

    picture: Picture
    name: str
    caption: str | None = None
    mask: Picture | None = None


@dataclass(frozen=True)
class Ingest:
    """What takes files for a while: see `ingesting`. scratch: a folder for what is unpacked."""

    pictures: Pictures
    scratch: Path
    by: Decoder

    def take(
        self, files: Sequence[Dropped], known: Collection[str] = (), most: int | None = None
    ) -> tuple[list[Good], Sorted]:
        """Take all that can be used of some files.

        known, most: content hashes of the pictures that are there, and how many there may be; any other one
        is then refused, without being decoded and kept. None: any number.

        Returns: what was taken, with captions and masks that lay beside; and the rest: captions and masks
        whose picture isn't among them, what was refused, and notes.
        """
        plain, refused = unzipped([replace(one, name=one_name(one.name)) for one in files], self.scratch)
        rest = sort(plain)
        rest.refused[:0] = refused
        written = read_tables(rest, self.scratch)
        good, there = [], set(known)
        for dropped in rest.pictures:
            full = most is not None and len(there) >= most
            if full and dropped.path.is_file() and file_sha256(dropped.path) not in there:
                reason = f"is too many: a set holds {most} pictures; make a second one"
                rest.refused.append(Refused(dropped.shown, reason))
            elif (found := self._one(dropped, rest, written)) is not None:
                good.append(found)
                there.add(found.picture.sha256)
        masks = [one.mask for one in good if one.mask is not None]
        self.pictures.enter([*(one.picture for one in good), *masks])
        if any(repeating(one.place) for one in rest.pictures):
            rest.notes.append("folders like “10_zuv dog” don't repeat their pictures here: each counts once")
        for one in rest.pictures:
            rest.captions.pop(key(one.place, one.name), None)
            rest.masks.pop(key(one.place, one.name), None)
        return good, rest

    def _one(self, one: Dropped, rest: Sorted, written: dict[str, str]) -> Good | None:
        """Take a picture and what lies beside it; None, and a line in what is refused, where it is none."""
        taken = self._copied(one)
        if isinstance(taken, Refused):
            rest.refused.append(taken)
            return None
        name = key(one.place, one.name)
        beside, drawn = rest.captions.get(name), rest.masks.get(name)
        caption = written.get(one.shown)
        if beside is not None:
            caption = self.caption(beside, rest.refused)
        picture = taken[0]
        mask = None if drawn is None else self._mask(drawn, (picture.width, picture.height), rest.refused)
        return Good(picture, one.name, caption, mask)

    def picture(self, one: Dropped) -> tuple[Picture, dict[str, Any]] | Refused:
        """Check a file and keep it, with a small one for the page; what `decoding.decode` said of it."""
        taken = self._copied(one)
        if not isinstance(taken, Refused):
            self.pictures.enter([taken[0]])
        return taken

    def _copied(self, one: Dropped) -> tuple[Picture, dict[str, Any]] | Refused:
        """As `picture`, but the index doesn't know it yet."""
        if not one.path.is_file():
            return Refused(one.shown, "is gone; drop it again")
        if one.path.stat().st_size == 0:
            return Refused(one.shown, "is empty; remove it or save it again")
        small = self.scratch / "small.webp"
        found = self.by.ask(one.path, small)
        if "error" in found:
            return Refused(one.shown, str(found["error"]))
        try:
            picture = self.pictures.copy(one.path, found, one.name)
        except PictureError as error:
            return Refused(one.shown, str(error))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            return Refused(one.shown, f"can't be kept ({reason}); make room and drop it again")
        small.replace(self.pictures.preview(picture.sha256))
        return picture, found

    def caption(self, one: Dropped, refused: list[Refused]) -> str | None:
        """The text of a caption's file on one line; None, and a line in `refused`, where it can't be used."""
        from trainers.captions import read_caption

        try:
            return read_caption(one.path)
        except PictureError as error:
            refused.append(Refused(one.shown, str(error).removeprefix(f"caption {one.path.name!r} ")))
            return None

    def mask(self, one: Dropped, size: tuple[int, int], refused: list[Refused]) -> Picture | None:
        """Keep the mask of a picture of `size` (width, height); None, and a line in `refused`, where it
        can't be used."""
        mask = self._mask(one, size, refused)
        self.pictures.enter([] if mask is None else [mask])
        return mask

    def _mask(self, one: Dropped, size: tuple[int, int], refused: list[Refused]) -> Picture | None:
        """As `mask`, but the index doesn't know it yet."""
        taken = self._copied(one)
        if isinstance(taken, Refused):
            refused.append(taken)
            return None
        (mask, found), (width, height) = taken, size
        reason = ""
        if abs(mask.width * height / (mask.height * width) - 1) > ASPECT:
            reason = (
                f"is a mask of {mask.width}×{mask.height} for a picture of {width}×{height}; "
                "draw it over the picture"
            )
        elif found["brightest"] == 0:
            reason = "is a mask that leaves nothing to learn from; make some of it white"
        if reason:
            refused.append(Refused(one.shown, reason))
            return None
        return mask


@contextmanager
def ingesting(pictures: Pictures) -> Iterator[Ingest]:
    """Hold a decoder, and a folder that is gone afterwards; so are those that a killed process has left."""
    folder = pictures.workspace.folder("cache", "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("drop-*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="drop-") as name, decoder(pictures.workspace) as by:
        yield Ingest(pictures, Path(name), by)
