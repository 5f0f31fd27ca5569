"""Library: the adapters of a workspace, with names, covers and a trash that can be undone."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import AdapterError
from pipelines.files import file_sha256, write_atomic
from pipelines.formats import inspect_adapter
from studio.examples import EXAMPLES, example_sets
from studio.workspace import Workspace, new_id

NAME_LENGTH = 80  # characters
SIZE_LIMIT = 4 << 30  # bytes; the largest adapters people share are about 2 GB


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An adapter in the library.

    Attributes:
        path: its safetensors file.
        origin: "trained", "imported" or "example".
        info: what `inspect_adapter` read from the file's header.
        job: the id of the job that trained it.
        cover: the picture shown for it, as the server's address below /files: "preview/JOB/FILE",
            "example/SET/0", "image/ID".
        created, trashed: seconds since 1970; trashed is None while it isn't in the trash.
        tags, notes: a person's own. family, method, bytes: of `info`, as the index has them to filter by.
    """

    id: str
    name: str
    path: Path
    origin: str
    sha256: str
    info: dict[str, Any]
    job: str | None
    cover: str | None
    created: float
    trashed: float | None
    tags: tuple[str, ...] = ()
    notes: str = ""
    family: str = ""
    method: str = ""
    bytes: int = 0

    @property
    def triggers(self) -> list[str]:
        """The words that call what the adapter learned."""
        return [str(word) for word in self.info.get("triggers") or ()]

    @property
    def rank(self) -> int | None:
        """The rank; None when modules differ or the method has none."""
        rank = self.info.get("rank")
        return rank if isinstance(rank, int) else None

    @property
    def slug(self) -> str:
        """The name as the stem of a file: ASCII letters, digits, `-`, `_`; never empty."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.name).strip("-")[:60] or "adapter"

    @property
    def short(self) -> str:
        """What to offer people who misspelt it: its name, or of an example its set's, which can be typed."""
        return self.id.removeprefix("example-") if self.id.startswith("example-") else self.name

    def called(self, name: str) -> bool:
        """Whether people mean it by `name`: its name, file name or, of an example, its set, in any case."""
        names = (self.name.casefold(), self.slug.casefold(), self.id, self.short.casefold())
        return name.casefold() in names

    @property
    def file_name(self) -> str:
        """The name as a file's."""
        return f"{self.slug}.safetensors"


def copy_file(source: Path, target: Path) -> str:
    """Copy a file so that `target` is the old one or the whole new one; returns its SHA-256."""
    with source.open("rb") as read:
        return write_atomic(target, iter(lambda: read.read(1 << 20), b""))


def clean_name(name: str) -> str:
    """`name` on one line without surrounding space.

    Raises:
        AdapterError: it is empty or longer than `NAME_LENGTH` characters.
    """
    cleaned = " ".join(name.split())
    if not cleaned:
        raise AdapterError("the name is empty; an adapter needs a name")
    if len(cleaned) > NAME_LENGTH:
        raise AdapterError(f"the name has {len(cleaned)} characters, at most {NAME_LENGTH} fit; shorten it")
    return cleaned


@dataclass(frozen=True)
class Library:
    """The adapters of one workspace."""

    workspace: Workspace

    def _entry(self, row: sqlite3.Row) -> Entry:
        values = dict(row)
        scheme, _, rest = values.pop("file").partition(":")
        base = EXAMPLES if scheme == "example" else self.workspace.root
        del values["words"]
        values.update(info=json.loads(values["info"]), tags=tuple(json.loads(values["tags"])))
        return Entry(path=base / rest, **values)

    def changes(self) -> int:
        """How often the library changed: a page that has seen another number shows it anew."""
        return int(self.workspace.setting("library_changes", 0))

    def entries(self, *, trashed: bool = False) -> list[Entry]:
        """All adapters that are (or aren't) in the trash, newest first, examples last."""
        query = (
            f"SELECT * FROM adapters WHERE trashed IS {'NOT ' if trashed else ''}NULL "
            "ORDER BY origin = 'example', created DESC, rowid"
        )
        with self.workspace.read() as db:
            found = [self._entry(row) for row in db.execute(query)]
        return [entry for entry in found if entry.path.is_file()]

    def get(self, adapter_id: str) -> Entry:
        """The adapter of that id.

        Raises:
            AdapterError: there is none, or its file is gone.
        """
        with self.workspace.read() as db:
            row = db.execute("SELECT * FROM adapters WHERE id = ?", (adapter_id,)).fetchone()
        if row is None:
            raise AdapterError(f"no adapter {adapter_id!r} in the library; it may have been removed")
        entry = self._entry(row)
        if not entry.path.is_file():
            raise AdapterError(
                f"the file of adapter {entry.name!r} is gone from {entry.path.parent}; import it again"
            )
        return entry

    def find(self, name: str) -> Entry | None:
        """The adapter of that very name or id, else one that is called so (see `Entry.called`), else None."""
        entries = self.entries()
        exact = [entry for entry in entries if name in (entry.name, entry.id)]
        return next(iter([*exact, *(entry for entry in entries if entry.called(name))]), None)

    def add(
        self,
        path: Path,
        *,
        name: str = "",
        origin: str = "imported",
        job: str | None = None,
        check: Callable[[Path], Any] | None = None,
    ) -> tuple[Entry, bool]:
        """Copy an adapter file into the library.

        Args:
            name: empty: the title in the file, or the file's name.
            check: reads the whole file and raises where something is wrong with it.
        Returns:
            (entry, new): a file that is there already isn't copied again, but comes back from the trash.
        Raises:
            AdapterError: not an adapter that can be used; nothing has been copied.
        """
        self._refuse_early(path)
        info = inspect_adapter(path)
        if check is not None:
            check(path)
        chosen = self.free_name(clean_name((name or str(info.get("title") or "") or path.stem)[:NAME_LENGTH]))
        known = self._by_hash(file_sha256(path))
        if known is not None:
            if known.trashed is not None:
                self.restore(known.id)
            return self.get(known.id), False
        adapter_id = new_id()
        target = self.workspace.folder("adapters", f"{adapter_id}.safetensors")
        sha256 = copy_file(path, target)
        try:
            self._insert(adapter_id, chosen, f"workspace:adapters/{target.name}", origin, sha256, info, job)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return self.get(adapter_id), True

    @staticmethod
    def _refuse_early(path: Path) -> None:
        if not path.is_file():
            raise AdapterError(f"no file {path}; expected a .safetensors file")
        if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin", ".pkl"):
            raise AdapterError(
                f"{path.name} is a pickle file, which can run code when opened; "
                "convert it to .safetensors first"
            )
        if path.suffix.lower() != ".safetensors":
            raise AdapterError(f"{path.name} is not a .safetensors file; only that format can be imported")
        if path.stat().st_size > SIZE_LIMIT:
            raise AdapterError(
                f"{path.name} has {path.stat().st_size >> 20} MB, at most {SIZE_LIMIT >> 20} are read"
            )

    def _insert(
        self,
        adapter_id: str,
        name: str,
        file: str,
        origin: str,
        sha256: str,
        info: dict[str, Any],
        job: str | None,
    ) -> None:
        with self.workspace.write() as db:
            db.execute(
                "INSERT OR IGNORE INTO adapters (id, name, file, origin, sha256, info, job, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (adapter_id, name, file, origin, sha256, json.dumps(info, default=str), job, time.time()),
            )
            _count_change(db)

    def _by_hash(self, sha256: str) -> Entry | None:
        with self.workspace.read() as db:
            row = db.execute("SELECT * FROM adapters WHERE sha256 = ?", (sha256,)).fetchone()
        entry = None if row is None else self._entry(row)
        return entry if entry is not None and entry.path.is_file() else None

    def free_name(self, name: str) -> str:
        """`name`, or `name 2`, `name 3` … when it is taken."""
        with self.workspace.read() as db:
            taken = {row["name"] for row in db.execute("SELECT name FROM adapters WHERE trashed IS NULL")}
        number, chosen = 1, name
        while chosen in taken:
            number += 1
            chosen = f"{name[: NAME_LENGTH - 5]} {number}"
        return chosen

    def add_examples(self) -> None:
        """List the adapters that come with Pigment (nothing is copied; one put in the trash stays there).

        A newer Pigment's example takes the place of the older one.
        """
        for example in example_sets():
            if example.adapter is None:
                continue
            adapter_id = f"example-{example.id}"
            sha256 = file_sha256(example.adapter)
            with self.workspace.read() as db:
                row = db.execute("SELECT sha256 FROM adapters WHERE id = ?", (adapter_id,)).fetchone()
            if row is not None and row["sha256"] == sha256:
                continue
            file = f"example:{example.adapter.relative_to(EXAMPLES).as_posix()}"
            info = inspect_adapter(example.adapter)
            if row is None:
                self._insert(adapter_id, self.free_name(example.title), file, "example", sha256, info, None)
                self.set_cover(adapter_id, f"example/{example.id}/0")
                continue
            with self.workspace.write() as db:
                db.execute(
                    "UPDATE adapters SET sha256 = ?, file = ?, info = ? WHERE id = ?",
                    (sha256, file, json.dumps(info, default=str), adapter_id),
                )
                _count_change(db)

    def rename(self, adapter_id: str, name: str) -> Entry:
        """Give an adapter another name.

        Raises:
            AdapterError: the name is empty, too long, or another adapter's.
        """
        cleaned, entry = clean_name(name), self.get(adapter_id)
        if cleaned != entry.name and self.free_name(cleaned) != cleaned:
            raise AdapterError(f"another adapter is called {cleaned!r}; choose another name")
        self._set(adapter_id, "name", cleaned)
        return self.get(adapter_id)

    def set_cover(self, adapter_id: str, cover: str) -> None:
        """Show a picture for the adapter; see `Entry.cover`."""
        self._set(adapter_id, "cover", cover)

    def trash(self, adapter_id: str) -> Entry:
        """Put an adapter into the trash; `restore` brings it back."""
        entry = self.get(adapter_id)
        self._set(adapter_id, "trashed", time.time())
        return entry

    def restore(self, adapter_id: str) -> Entry:
        """Bring an adapter back from the trash, under another name when its own is taken by now."""
        entry = self.get(adapter_id)
        name = self.free_name(entry.name)
        self._set(adapter_id, "trashed", None)
        self._set(adapter_id, "name", name)
        return self.get(adapter_id)

    def _set(self, adapter_id: str, column: str, value: Any) -> None:
        assert column in ("name", "cover", "trashed"), column
        with self.workspace.write() as db:
            db.execute(f"UPDATE adapters SET {column} = ? WHERE id = ?", (value, adapter_id))
            _count_change(db)


def _count_change(db: sqlite3.Connection) -> None:
    db.execute(
        "INSERT INTO settings VALUES ('library_changes', '1') "
        "ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1"
    )
