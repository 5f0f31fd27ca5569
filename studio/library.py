"""Library: the adapters of a workspace, with names, tags, covers and a trash that can be undone."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import AdapterError
from pipelines.files import file_sha256
from pipelines.formats import inspect_adapter
from studio import examples, searching
from studio.entries import (
    NAME_LENGTH,
    SIZE_LIMIT,
    Entry,
    clean_name,
    clean_notes,
    clean_tags,
    columns_of,
    copy_file,
    entry_of,
    refuse_early,
    slug,
    words_of,
)
from studio.workspace import Workspace, new_id

__all__ = ["NAME_LENGTH", "SIZE_LIMIT", "Entry", "Library", "clean_name", "copy_file", "refuse_early"]


@dataclass(frozen=True)
class Library:
    """The adapters of one workspace."""

    workspace: Workspace

    def _entry(self, row: sqlite3.Row) -> Entry:
        return entry_of(row, self.workspace.root)

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
        return [entry for entry in found if not entry.missing]

    def search(self, query: searching.Query, size: int = searching.PAGE) -> searching.Found:
        """A page of what a query finds. Raises: ConfigError for an unknown order."""
        return searching.search(self.workspace, query, size, self.changes())

    def facets(self) -> searching.Facets:
        """What the adapters can be filtered by."""
        return searching.facets(self.workspace, self.changes())

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
        if entry.missing:
            raise AdapterError(
                f"the file of adapter {entry.name!r} is gone from {entry.path.parent}; import it again"
            )
        return entry

    def find(self, name: str) -> Entry | None:
        """The adapter of that very name or id, else one that is called so (see `Entry.called`), else None."""
        wanted = name.casefold()
        found: list[tuple[bool, str]] = []
        with self.workspace.read() as db:
            for own_id, own in db.execute(
                "SELECT id, name FROM adapters WHERE trashed IS NULL "
                "ORDER BY origin = 'example', created DESC, rowid"
            ):
                short = own_id.removeprefix("example-")
                if name in (own, own_id) or wanted in (own.casefold(), short, own_id, slug(own).casefold()):
                    found.append((name not in (own, own_id), own_id))
        for _, adapter_id in sorted(found, key=lambda pair: pair[0]):
            try:
                return self.get(adapter_id)
            except AdapterError:
                continue  # its file is gone
        return None

    def by_hash(self, sha256: str) -> Entry | None:
        """The adapter whose file has, or had before its metadata were edited, that SHA-256; else None."""
        with self.workspace.read() as db:
            for where, value in (("sha256 = ?", sha256), ("instr(info, ?)", f'"{sha256}"')):
                for row in db.execute(f"SELECT * FROM adapters WHERE {where}", (value,)).fetchall():
                    entry = self._entry(row)
                    if not entry.missing and sha256 in (entry.sha256, *entry.former):
                        return entry
        return None

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
        refuse_early(path)
        info = inspect_adapter(path)
        if check is not None:
            check(path)
        chosen = self.free_name(clean_name((name or str(info.get("title") or "") or path.stem)[:NAME_LENGTH]))
        known = self.by_hash(file_sha256(path))
        if known is not None:
            if known.trashed is not None:
                self.restore(known.id)
            return self.get(known.id), False
        adapter_id = new_id()
        target = self.workspace.folder("adapters", f"{adapter_id}.safetensors")
        sha256 = copy_file(path, target)
        row = {"file": f"workspace:adapters/{target.name}", "origin": origin, "sha256": sha256, "job": job}
        try:
            self._insert(adapter_id, chosen, info, **row)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return self.get(adapter_id), True

    def _insert(self, adapter_id: str, name: str, info: Mapping[str, Any], **columns: Any) -> None:
        values = {"id": adapter_id, "name": name, "created": time.time(), **columns, **columns_of(info)}
        values["words"] = words_of(name, info, (), "")
        names, places = ", ".join(values), ", ".join("?" * len(values))
        with self.workspace.write() as db:
            db.execute(f"INSERT OR IGNORE INTO adapters ({names}) VALUES ({places})", [*values.values()])
            _count_change(db)

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

        A newer Pigment's example takes the place of the older one, unless a person has edited it.
        """
        self._fill_columns()
        for example in examples.example_sets():
            if example.adapter is None:
                continue
            adapter_id = f"example-{example.id}"
            sha256 = file_sha256(example.adapter)
            with self.workspace.read() as db:
                row = db.execute("SELECT sha256, file FROM adapters WHERE id = ?", (adapter_id,)).fetchone()
            if row is not None and (row["sha256"] == sha256 or row["file"].startswith("workspace:")):
                continue
            file = f"example:{example.adapter.relative_to(examples.EXAMPLES).as_posix()}"
            info = inspect_adapter(example.adapter)
            if row is None:
                name = self.free_name(example.title)
                self._insert(adapter_id, name, info, file=file, origin="example", sha256=sha256)
                self.set_cover(adapter_id, f"example/{example.id}/0")
                continue
            self.update(adapter_id, sha256=sha256, file=file, **columns_of(info))

    def _fill_columns(self) -> None:
        """What an older Pigment didn't keep beside an adapter's `info`."""
        with self.workspace.read() as db:
            rows = db.execute("SELECT id, name, info, tags, notes FROM adapters WHERE words = ''").fetchall()
        if not rows:
            return
        with self.workspace.write() as db:
            for row in rows:
                info = json.loads(row["info"])
                values = columns_of(info)
                values["words"] = words_of(row["name"], info, json.loads(row["tags"]), row["notes"])
                names = ", ".join(f"{name} = ?" for name in values)
                db.execute(f"UPDATE adapters SET {names} WHERE id = ?", (*values.values(), row["id"]))
            _count_change(db)

    def rename(self, adapter_id: str, name: str) -> Entry:
        """Give an adapter another name.

        Raises:
            AdapterError: the name is empty, too long, or another adapter's.
        """
        cleaned, entry = clean_name(name), self.get(adapter_id)
        if cleaned != entry.name and self.free_name(cleaned) != cleaned:
            raise AdapterError(f"another adapter is called {cleaned!r}; choose another name")
        self.update(adapter_id, name=cleaned)
        return self.get(adapter_id)

    def tag(self, adapter_id: str, tags: Iterable[str]) -> Entry:
        """Give an adapter these tags and no others. Raises: AdapterError for what can't be a tag."""
        self.get(adapter_id)
        self.update(adapter_id, tags=json.dumps(clean_tags(tags), ensure_ascii=False))
        return self.get(adapter_id)

    def note(self, adapter_id: str, notes: str) -> Entry:
        """Keep a person's notes on an adapter. Raises: AdapterError where they are too long."""
        self.get(adapter_id)
        self.update(adapter_id, notes=clean_notes(notes))
        return self.get(adapter_id)

    def set_cover(self, adapter_id: str, cover: str | None) -> None:
        """Show a picture for the adapter, None: none; see `Entry.cover`.

        Of a picture that may be thrown away, a drawn one, a small copy is kept.
        """
        if (cover or "").startswith(("image/", "picture/")):
            from studio.covers import address_file, set_cover

            if (found := address_file(self.workspace, str(cover))) is not None:
                set_cover(self, adapter_id, found)
                return
        self.update(adapter_id, cover=cover)

    def trash(self, adapter_id: str) -> Entry:
        """Put an adapter into the trash; `restore` brings it back. One whose file is gone goes as well."""
        with self.workspace.read() as db:
            row = db.execute("SELECT * FROM adapters WHERE id = ?", (adapter_id,)).fetchone()
        if row is None:
            self.get(adapter_id)  # says that there is none
        self.update(adapter_id, trashed=time.time())
        return self._entry(row)

    def restore(self, adapter_id: str) -> Entry:
        """Bring an adapter back from the trash, under another name when its own is taken by now."""
        entry = self.get(adapter_id)
        if entry.trashed is None:
            return entry
        self.update(adapter_id, trashed=None, name=self.free_name(entry.name))
        return self.get(adapter_id)

    def empty_trash(self) -> int:
        """Remove what is in the trash for good, files included; returns how many adapters that were.

        Those that come with Pigment stay in it.
        """
        with self.workspace.write() as db:
            rows = db.execute(
                "DELETE FROM adapters WHERE trashed IS NOT NULL AND origin <> 'example' RETURNING id, file"
            ).fetchall()
            _count_change(db)
        for row in rows:
            for path in self.workspace.folder("adapters").glob(f"{row['id']}.*"):
                path.unlink(missing_ok=True)
        return len(rows)

    def update(self, adapter_id: str, **columns: Any) -> None:
        """Write columns of an adapter's row, and the text that is searched with them."""
        names = ", ".join(f"{name} = ?" for name in columns)
        with self.workspace.write() as db:
            db.execute(f"UPDATE adapters SET {names} WHERE id = ?", (*columns.values(), adapter_id))
            row = db.execute("SELECT name, info, tags, notes FROM adapters WHERE id = ?", (adapter_id,))
            for name, info, tags, notes in row.fetchall():
                words = words_of(name, json.loads(info), json.loads(tags), notes)
                db.execute("UPDATE adapters SET words = ? WHERE id = ?", (words, adapter_id))
            _count_change(db)


def _count_change(db: sqlite3.Connection) -> None:
    db.execute(
        "INSERT INTO settings VALUES ('library_changes', '1') "
        "ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1"
    )
