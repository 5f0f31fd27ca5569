"""Pictures of a workspace by what is in them: `pictures/<SHA-256>.<format>`, and small ones in the cache."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import PictureError
from pipelines.files import write_atomic
from studio.decoding import PREVIEW, STORED, write_preview
from studio.workspace import Workspace

SIZES = (64, 128, 256, 512, PREVIEW)
"""Longer sides in pixels that small pictures come in; another one that is asked for is rounded up."""
MEDIA = dict(STORED.values())
_ONE_AT_A_TIME = threading.Lock()  # of the previews that are made anew: a page may ask for a hundred
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that was read and found good.

    Attributes:
        path: its file, in the format it came in. name: what its file was called; data, never a path.
        width, height: in pixels, upright. notes: what a person should know of it, a line each.
    """

    sha256: str
    path: Path
    name: str
    width: int
    height: int
    bytes: int
    notes: tuple[str, ...]
    created: float

    @property
    def media(self) -> str:
        """Its type for browsers."""
        return MEDIA[self.path.suffix]


@dataclass(frozen=True)
class Pictures:
    """The pictures of one workspace."""

    workspace: Workspace

    def get(self, sha256: str) -> Picture:
        """The picture with that content.

        Raises:
            PictureError: there is none, or its file is gone.
        """
        row = None
        if _HASH.fullmatch(sha256):
            with self.workspace.read() as db:
                row = db.execute("SELECT * FROM pictures WHERE sha256 = ?", (sha256,)).fetchone()
        if row is None:
            raise PictureError(f"no picture {sha256[:12]!r} in the workspace; drop it again")
        picture = self._picture(row)
        if not picture.path.is_file():
            raise PictureError(f"the file of picture {picture.name!r} is gone; drop it again")
        return picture

    def _picture(self, row: sqlite3.Row) -> Picture:
        values = dict(row)
        path = self.workspace.folder("pictures", values.pop("file"))
        return Picture(path=path, notes=tuple(json.loads(values.pop("notes"))), **values)

    def copy(self, source: Path, found: dict[str, Any], name: str) -> Picture:
        """Copy a file that was decoded into the workspace, if it isn't there yet; `enter` makes it known.

        Args:
            found: what `decoding.decode` said of it. name: what people know it by.
        Raises:
            PictureError: it was changed since.
        """
        sha256 = str(found["sha256"])
        target = self.workspace.folder("pictures", sha256 + str(found["suffix"]))
        if not target.is_file() or target.stat().st_size != found["bytes"]:
            with source.open("rb") as read:
                written = write_atomic(target, iter(lambda: read.read(1 << 20), b""))
            if written != sha256:
                target.unlink(missing_ok=True)
                raise PictureError("was changed while it was read; drop it again")
        return Picture(
            sha256=sha256, path=target, name=name, width=found["width"], height=found["height"],
            bytes=found["bytes"], notes=tuple(found["notes"]), created=time.time(),
        )  # fmt: skip

    def enter(self, pictures: Sequence[Picture]) -> None:
        """Put pictures that were copied into the index, all or none; what is there keeps its name."""
        rows = [
            (one.sha256, one.path.name, one.name, one.width, one.height, one.bytes, json.dumps(one.notes),
             one.created)
            for one in pictures
        ]  # fmt: skip
        if not rows:
            return
        with self.workspace.write() as db:
            db.executemany(
                "INSERT INTO pictures (sha256, file, name, width, height, bytes, notes, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (sha256) DO UPDATE SET file = excluded.file, notes = excluded.notes",
                rows,
            )

    def preview(self, sha256: str) -> Path:
        """Where the WebP lies that smaller ones are made from; it may not be there."""
        return self.workspace.folder("cache", "pictures", f"{sha256}-{PREVIEW}.webp")

    def _make_preview(self, picture: Picture, target: Path) -> None:
        """Make it anew, in a process of bounded memory. Raises: PictureError where the file is damaged."""
        from studio.decoder import decoder

        with _ONE_AT_A_TIME, decoder(self.workspace) as by:
            if target.is_file():  # another thread was first
                return
            if "error" in (said := by.ask(picture.path, target)):
                raise PictureError(f"picture {picture.name!r} {said['error']}")

    def small(self, sha256: str, size: int) -> Path:
        """A WebP of the picture, upright, at least `size` pixels on its longer side; made where missing.

        Its own pixels, or PREVIEW, are the most it has.

        Raises:
            PictureError: there is no such picture, or its file is damaged.
        """
        wanted = next((one for one in SIZES if one >= size), PREVIEW)
        if not _HASH.fullmatch(sha256):
            raise PictureError(f"no picture {sha256[:12]!r} in the workspace; drop it again")
        target = self.workspace.folder("cache", "pictures", f"{sha256}-{wanted}.webp")
        if target.is_file():
            return target
        picture = self.get(sha256)
        from PIL import Image

        large = self.preview(sha256)
        if not large.is_file():
            self._make_preview(picture, large)
        if wanted != PREVIEW:
            with Image.open(large) as opened:
                write_preview(opened.convert("RGB"), target, wanted)
        return target
