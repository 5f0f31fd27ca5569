"""Datasets: pictures to teach with, each with its caption and mask, kept in the workspace as they grow."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import PictureError, WorkspaceError, nearest
from pipelines.files import make_folder, sync_folder, write_atomic
from studio.dropped import Refused
from studio.examples import example_sets
from studio.pictures import Pictures
from studio.workspace import Workspace, new_id

MAX_PICTURES = 10_000
"""In one set."""
NAME_LENGTH = 100


@dataclass(frozen=True, kw_only=True)
class Item:
    """A picture of a dataset.

    Attributes:
        name: what its file was called; data, never a path. caption: on one line; may be empty.
        mask: content hash of the picture whose white parts count; empty: all of it does.
        width, height: in pixels, upright. notes: what was done to it that a person should know, a line each.
    """

    position: int
    sha256: str
    name: str
    caption: str
    mask: str
    width: int
    height: int
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Pictures and what is to be taught with them.

    Attributes:
        settings: what the page keeps of its form; JSON values by name.
        items: in their order. created, changed: seconds since 1970.
    """

    id: str
    name: str
    settings: dict[str, Any]
    created: float
    changed: float
    items: tuple[Item, ...] = ()

    def item(self, sha256: str) -> Item:
        """The picture of that content. Raises: PictureError where the set hasn't got it."""
        for one in self.items:
            if one.sha256 == sha256:
                return one
        raise PictureError(f"no picture {sha256[:12]!r} in this set; it may have been removed")


@dataclass(frozen=True)
class Taken:
    """What became of files that were dropped. added: pictures. notes: lines that a person should read."""

    added: int
    refused: tuple[Refused, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Datasets:
    """The datasets of one workspace; any process may hold one."""

    workspace: Workspace

    @property
    def pictures(self) -> Pictures:
        """The pictures they are made of."""
        return Pictures(self.workspace)

    def new(self, name: str = "", settings: Mapping[str, Any] | None = None) -> Dataset:
        """Make an empty one. settings: JSON values."""
        with self.workspace.write() as db:
            dataset_id = self.insert(db, name, settings)
        return self.get(dataset_id)

    def insert(self, db: sqlite3.Connection, name: str, settings: Mapping[str, Any] | None) -> str:
        """Make an empty one within a transaction; returns its id."""
        now, dataset_id = time.time(), new_id()
        called = " ".join(name.split())[:NAME_LENGTH]
        db.execute(
            "INSERT INTO datasets (id, name, settings, created, changed) VALUES (?, ?, ?, ?, ?)",
            (dataset_id, called, json.dumps(dict(settings or {})), now, now),
        )
        return dataset_id

    def get(self, dataset_id: str) -> Dataset:
        """The dataset of that id, with its pictures.

        Raises:
            WorkspaceError: there is none.
        """
        with self.workspace.read() as db:
            row = db.execute("SELECT * FROM datasets WHERE id = ?", (dataset_id,)).fetchone()
            rows = db.execute(
                "SELECT position, sha256, dataset_pictures.name, caption, mask, width, height, notes "
                "FROM dataset_pictures JOIN pictures USING (sha256) WHERE dataset = ? ORDER BY position",
                (dataset_id,),
            ).fetchall()
        if row is None:
            raise WorkspaceError(f"no set of pictures {dataset_id!r} here; it may have been removed")
        return _dataset(row, rows)

    def recent(self, limit: int = 8) -> list[Dataset]:
        """The datasets that were changed last, newest first, without their pictures."""
        with self.workspace.read() as db:
            rows = db.execute("SELECT * FROM datasets ORDER BY changed DESC, rowid DESC LIMIT ?", (limit,))
            return [_dataset(row, ()) for row in rows]

    def from_example(self, example_id: str) -> Dataset:
        """Make one of an example set: its pictures, captions, and as settings what the Teach tab asks for.

        It is there whole or not at all.

        Raises:
            PictureError: there is no such set.
        """
        from studio.dropping import take_new

        sets = {one.id: one for one in example_sets()}
        if example_id not in sets:
            raise PictureError(f"no example set {example_id!r}{nearest(example_id, sets)}")
        example = sets[example_id]
        names = ("kind", "trigger", "class_name", "instance_prompt", "class_prompt")
        settings = {name: getattr(example, name) for name in names}
        return self.get(take_new(self, example.title, {**settings, "example": example.id}, example))

    def take(self, dataset_id: str, files: Sequence[tuple[Path, str]]) -> Taken:
        """Add what was dropped: pictures, zips, captions (a.txt of a.png), masks (a.mask.png).

        A caption or mask of a picture that is in the set already goes to it.

        Args:
            files: (file, what it is called) pairs; names are data.
        Raises:
            WorkspaceError: there is no such dataset.
        """
        from studio.dropping import take

        return take(self, dataset_id, files)

    def caption(self, dataset_id: str, sha256: str, text: str) -> None:
        """Write what a picture shows; line breaks become spaces. Empty: nothing is said.

        Raises:
            PictureError: the set hasn't got the picture, or the caption is too long.
        """
        from trainers.tables import MAX_CAPTION_BYTES, one_line

        said = one_line(text)
        if len(said.encode()) > MAX_CAPTION_BYTES:
            raise PictureError(f"the caption is longer than {MAX_CAPTION_BYTES} bytes; shorten it")
        self._update(dataset_id, sha256, "UPDATE dataset_pictures SET caption = ?", said)

    def mask(self, dataset_id: str, sha256: str, mask: str) -> None:
        """Say which part of a picture counts: by the content hash of another one; empty: all of it.

        Raises:
            PictureError: the set hasn't got the picture, or there is no such mask.
        """
        if mask:
            self.pictures.get(mask)
        self._update(dataset_id, sha256, "UPDATE dataset_pictures SET mask = ?", mask)

    def remove(self, dataset_id: str, sha256: str) -> None:
        """Take a picture out of a set; its file stays in the workspace.

        Raises:
            PictureError: the set hasn't got it.
        """
        self._update(dataset_id, sha256, "DELETE FROM dataset_pictures")

    def _update(self, dataset_id: str, sha256: str, statement: str, *values: str) -> None:
        with self.changing(dataset_id) as db:
            where = f"{statement} WHERE dataset = ? AND sha256 = ?"
            if not db.execute(where, (*values, dataset_id, sha256)).rowcount:
                raise PictureError(f"no picture {sha256[:12]!r} in this set; it may have been removed")

    def settings(self, dataset_id: str, values: Mapping[str, Any]) -> Dataset:
        """Keep some settings beside those that are there; None forgets one. Returns: the dataset.

        Raises:
            WorkspaceError: there is no such dataset.
        """
        with self.changing(dataset_id) as db:
            row = db.execute("SELECT settings FROM datasets WHERE id = ?", (dataset_id,)).fetchone()
            kept = {**json.loads(row["settings"]), **values}
            kept = {name: value for name, value in kept.items() if value is not None}
            db.execute("UPDATE datasets SET settings = ? WHERE id = ?", (json.dumps(kept), dataset_id))
        return self.get(dataset_id)

    def rename(self, dataset_id: str, name: str) -> Dataset:
        """Call a set something else.

        Raises:
            WorkspaceError: there is no such dataset.
        """
        with self.changing(dataset_id) as db:
            called = " ".join(name.split())[:NAME_LENGTH]
            db.execute("UPDATE datasets SET name = ? WHERE id = ?", (called, dataset_id))
        return self.get(dataset_id)

    def delete(self, dataset_id: str) -> None:
        """Remove a set; its pictures' files stay in the workspace.

        Raises:
            WorkspaceError: there is no such dataset.
        """
        with self.changing(dataset_id) as db:
            db.execute("DELETE FROM dataset_pictures WHERE dataset = ?", (dataset_id,))
            db.execute("DELETE FROM datasets WHERE id = ?", (dataset_id,))

    @contextmanager
    def changing(self, dataset_id: str) -> Iterator[sqlite3.Connection]:
        """One transaction on a set that is there."""
        with self.workspace.write() as db:
            found = db.execute(
                "UPDATE datasets SET changed = ? WHERE id = ?", (time.time(), dataset_id)
            ).rowcount
            if not found:
                raise WorkspaceError(f"no set of pictures {dataset_id!r} here; it may have been removed")
            yield db

    def lay_out(self, dataset_id: str, folder: Path) -> dict[str, str]:
        """Put a set into a folder as trainings read it: 000.png, 000.txt, 000.mask.png …

        folder: made where it is missing. Returns: what each picture is called for people, by its file's name.

        Raises:
            PictureError: the file of a picture is gone.
        """
        dataset, pictures = self.get(dataset_id), self.pictures
        make_folder(folder)
        called, digits = {}, max(3, len(str(len(dataset.items) - 1)))
        for position, item in enumerate(dataset.items):
            source, number = pictures.get(item.sha256).path, f"{position:0{digits}d}"
            name = f"{number}{source.suffix}"
            _place(source, folder / name)
            called[name] = item.name
            if item.caption:
                write_atomic(folder / f"{number}.txt", [item.caption.encode()])
            if item.mask:
                mask = pictures.get(item.mask).path
                _place(mask, folder / f"{number}.mask{mask.suffix}")
        sync_folder(folder)
        return called


def _place(source: Path, target: Path) -> None:
    """Let a file be in a second place: by a link where the disk can, since pictures never change."""
    try:
        os.link(source, target)
    except OSError:
        with source.open("rb") as read:
            write_atomic(target, iter(lambda: read.read(1 << 20), b""))


def _dataset(row: sqlite3.Row, rows: Sequence[sqlite3.Row]) -> Dataset:
    items = tuple(Item(**{**dict(one), "notes": tuple(json.loads(one["notes"]))}) for one in rows)
    return Dataset(**{**dict(row), "settings": json.loads(row["settings"])}, items=items)
