"""Workspace: one folder with everything a person made, and a SQLite index over it."""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import Busy, WorkspaceError
from pipelines.files import make_folder
from studio.locks import FileLock

SCHEMA_VERSION = 4
INDEX_NAME = "pigment.sqlite3"
FOLDERS = ("pictures", "adapters", "runs", "images", "trash", "cache")
ROOMS = "accounts"
"""The folder of a machine's workspace that holds those of further accounts, by their ids (`studio.rooms`)."""
_ROOM = re.compile(r"[0-9a-f]{16}")

_SCHEMA = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, title TEXT NOT NULL, state TEXT NOT NULL,
    config TEXT NOT NULL, details TEXT NOT NULL DEFAULT '{}', result TEXT NOT NULL DEFAULT '{}',
    created REAL NOT NULL, started REAL, finished REAL,
    pid INTEGER, pid_started REAL, heartbeat REAL, stop_requested INTEGER NOT NULL DEFAULT 0,
    step INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT ''
);
CREATE INDEX jobs_by_state ON jobs (state, created);
CREATE TABLE adapters (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, file TEXT NOT NULL, origin TEXT NOT NULL,
    sha256 TEXT NOT NULL DEFAULT '', info TEXT NOT NULL DEFAULT '{}', job TEXT, cover TEXT,
    created REAL NOT NULL, trashed REAL
);
CREATE TABLE images (
    id TEXT PRIMARY KEY, file TEXT NOT NULL, job TEXT, seed INTEGER NOT NULL,
    settings TEXT NOT NULL, created REAL NOT NULL
);
CREATE INDEX images_by_time ON images (created);
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_STEPS = {
    1: _SCHEMA,
    2: """
CREATE TABLE bases (
    name TEXT PRIMARY KEY, ref TEXT NOT NULL, family TEXT NOT NULL, prediction_type TEXT NOT NULL,
    bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, info TEXT NOT NULL DEFAULT '{}', created REAL NOT NULL
);
""",
    3: """
ALTER TABLE jobs ADD COLUMN position REAL NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN memory INTEGER NOT NULL DEFAULT 0;
UPDATE jobs SET position = created;
ALTER TABLE adapters ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';
ALTER TABLE adapters ADD COLUMN notes TEXT NOT NULL DEFAULT '';
ALTER TABLE adapters ADD COLUMN family TEXT NOT NULL DEFAULT '';
ALTER TABLE adapters ADD COLUMN method TEXT NOT NULL DEFAULT '';
ALTER TABLE adapters ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE adapters ADD COLUMN words TEXT NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN kind TEXT NOT NULL DEFAULT 'picture';
ALTER TABLE images ADD COLUMN width INTEGER NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN height INTEGER NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN words TEXT NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN trashed REAL;
CREATE TABLE pictures (
    sha256 TEXT PRIMARY KEY, file TEXT NOT NULL, name TEXT NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL, bytes INTEGER NOT NULL, notes TEXT NOT NULL DEFAULT '[]', created REAL NOT NULL
);
CREATE TABLE datasets (
    id TEXT PRIMARY KEY, name TEXT NOT NULL DEFAULT '', settings TEXT NOT NULL DEFAULT '{}',
    created REAL NOT NULL, changed REAL NOT NULL
);
CREATE TABLE dataset_pictures (
    dataset TEXT NOT NULL, position INTEGER NOT NULL, sha256 TEXT NOT NULL, name TEXT NOT NULL,
    caption TEXT NOT NULL DEFAULT '', mask TEXT NOT NULL DEFAULT '', PRIMARY KEY (dataset, position)
);
CREATE TABLE recipes (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, text TEXT NOT NULL, created REAL NOT NULL, changed REAL NOT NULL
);
""",
    4: """
DROP INDEX IF EXISTS adapters_by_time;
CREATE INDEX IF NOT EXISTS adapters_searched ON adapters
    (trashed, origin, created, family, method, name, bytes, sha256, tags, words);
UPDATE images SET
    words = lower(coalesce(json_extract(settings, '$.generation.prompt'), '') || ' ' || seed),
    width = coalesce(json_extract(settings, '$.generation.width'), 0),
    height = coalesce(json_extract(settings, '$.generation.height'), 0) WHERE words = '';
CREATE INDEX IF NOT EXISTS images_found ON images (trashed, created, kind, words);
""",
}
"""What leads to each version of the index from the one before; an older index is brought up to date."""
_COLUMNS = (("dataset_pictures", "mask", "TEXT NOT NULL DEFAULT ''"),)
"""Columns that an index of version 3 has or hasn't, as old as it is: (table, column, type)."""


def default_root() -> Path:
    """`$PIGMENT_WORKSPACE`, or `Pigment` in the user's data folder by the platform's convention.

    A workspace in `~/Pigment`, where earlier versions kept it, goes on being used.
    """
    chosen = os.environ.get("PIGMENT_WORKSPACE")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_data_path

    earlier = Path.home() / "Pigment"
    return earlier if (earlier / INDEX_NAME).is_file() else user_data_path("Pigment", appauthor=False)


def new_id() -> str:
    """A name for a thing on disk: time-ordered, random, only `[0-9a-f-]`."""
    return f"{int(time.time()):x}-{secrets.token_hex(5)}"


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """An opened workspace folder.

    Attributes:
        root: the folder; all paths in the index are relative to it, so that it can be moved.
        lock: the lock of the one process that owns the workspace; None in its child processes.
    """

    root: Path
    lock: FileLock | None

    @classmethod
    def open(cls, root: str | Path | None = None, *, own: bool = True, note: str = "") -> Workspace:
        """Open `root` (None: `default_root()`), making folder and index where they are missing.

        Args:
            own: take the workspace's lock. Child processes and short commands pass False.
            note: written into the lock for those who find it taken, such as the page's address.

        Raises:
            Busy: another process owns the workspace (named by its process id).
            WorkspaceError: the folder can't be used, or a newer Pigment wrote its index.
        """
        path = Path(root).expanduser().resolve() if root is not None else default_root().resolve()
        try:
            for folder in (path, *(path / name for name in FOLDERS)):
                make_folder(folder)
            lock = FileLock(path / "workspace.lock") if own else None
            taken = lock is None or lock.acquire(note=note)
        except OSError as error:
            raise WorkspaceError(
                f"workspace {path} can't be used: {error.strerror or error}; "
                "choose a folder you can write to with --workspace"
            ) from error
        if lock is not None and not taken:
            owner = lock.owner()
            where = f" at {owner['note']}" if owner.get("note") else ""
            raise Busy(
                f"workspace {path} is in use by process {owner.get('pid', '?')}{where} since "
                f"{owner.get('since', 'a while')}; use that one, end it, or choose another with --workspace"
            )
        workspace = cls(root=path, lock=lock)
        try:
            workspace._prepare_index()
        except BaseException:
            workspace.close()
            raise
        return workspace

    def _prepare_index(self) -> None:
        try:
            with self.write() as db:
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version < SCHEMA_VERSION:
                    for step in range(version + 1, SCHEMA_VERSION + 1):
                        for statement in _STEPS[step].split(";"):
                            db.execute(statement)
                    for table, column, kind in _COLUMNS:
                        known = [row["name"] for row in db.execute(f"PRAGMA table_info({table})")]
                        if column not in known:
                            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
                    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except sqlite3.DatabaseError as error:
            raise WorkspaceError(
                f"index {self.index_path} can't be read: {error}; restore it from a copy, or choose another "
                "workspace with --workspace"
            ) from error
        if version > SCHEMA_VERSION:
            raise WorkspaceError(
                f"workspace {self.root} has index version {version}, this Pigment reads {SCHEMA_VERSION}; "
                "update Pigment or choose another workspace with --workspace"
            )

    @property
    def index_path(self) -> Path:
        """The SQLite file."""
        return self.root / INDEX_NAME

    @property
    def machine(self) -> Workspace:
        """The workspace of the machine's own person: this one, or the one that this is a room of."""
        rooms = self.root.parent
        if rooms.name == ROOMS and _ROOM.fullmatch(self.root.name) and (rooms.parent / INDEX_NAME).is_file():
            return Workspace(root=rooms.parent, lock=None)
        return self

    @property
    def shared(self) -> bool:
        """Whether other accounts have, or have had, rooms beside it."""
        return (self.machine.root / ROOMS).is_dir()

    @property
    def device_lock(self) -> Path:
        """The lock file that whoever computes on the device holds meanwhile; one for all rooms."""
        return self.machine.root / "device.lock"

    @property
    def uploads(self) -> Path:
        """Where the page keeps what was dropped on it and not used yet."""
        return self.root / "cache" / "uploads"

    def uploaded(self, path: object) -> Path | None:
        """The file at a path that a browser or a program names; None where it isn't one of the uploads.

        No other file of this machine may be opened for it.
        """
        if not isinstance(path, str) or "\0" in path:
            return None
        found = Path(path).resolve()
        return found if found.is_relative_to(self.uploads.resolve()) and found.is_file() else None

    def folder(self, name: str, *parts: str) -> Path:
        """`<root>/<name>/<parts…>` for one of `FOLDERS`."""
        assert name in FOLDERS, name
        return self.root.joinpath(name, *parts)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading; rows come as `sqlite3.Row`."""
        db = sqlite3.connect(self.index_path, timeout=10, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            yield db
        finally:
            db.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A connection inside one durable transaction: everything or, after an exception, nothing."""
        with self.read() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def setting(self, key: str, default: Any = None) -> Any:
        """A remembered JSON value, or `default`."""
        with self.read() as db:
            row = db.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
        return default if row is None else json.loads(row["value"])

    def remember(self, key: str, value: Any) -> None:
        """Keep a JSON value under `key`."""
        with self.write() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, json.dumps(value)))

    def close(self) -> None:
        """Give the workspace back to whoever opens it next."""
        if self.lock is not None:
            self.lock.release()
