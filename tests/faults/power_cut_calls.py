"""The calls that a `Disk` hears of, while a folder is watched."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest import MonkeyPatch

from tests.faults.power_cut_disk import Disk

CALLS = ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "link")


@contextmanager
def watching(root: Path) -> Iterator[Disk]:
    """Watch what this process (and its children, where it waits for them) does to a folder."""
    disk = Disk(root)
    disk.look()
    with MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, _watched(disk, name, getattr(os, name)))
        patch.setattr(os, "fsync", _synced(disk, os.fsync))
        index = Index(disk)
        patch.setattr(sqlite3, "connect", index.connecting(sqlite3.connect))
        yield disk
    disk.look()
    disk.cut("the end")


def _watched(disk: Disk, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **more: Any) -> Any:
        disk.look()
        before = len(disk._changes)
        disk.cut(f"before {name} of {_shown(arguments)}")
        vanishing = _last_name(disk, arguments[-1] if name in ("rename", "replace") else arguments[0], more)
        answer = real(*arguments, **more)
        if name in ("unlink", "remove", "rmdir", "rename", "replace") and vanishing is not None:
            disk.forget(vanishing)
        disk.look(together=True)
        if len(disk._changes) == before:
            disk.cuts.pop()  # nothing of ours
        return answer

    return call


def _last_name(disk: Disk, path: Any, more: dict[str, Any]) -> int | None:
    """The number of the file or folder that loses its last name with this call."""
    if more.get("dir_fd") is not None:
        path = os.path.join(os.readlink(f"/proc/self/fd/{more['dir_fd']}"), os.fspath(path))
    try:
        found = os.lstat(path)
    except (OSError, TypeError):
        return None
    last = stat.S_ISDIR(found.st_mode) or found.st_nlink == 1
    return disk._numbers.get(found.st_ino) if last else None


def _synced(disk: Disk, real: Callable[[int], None]) -> Callable[[int], None]:
    def call(handle: int) -> None:
        number = disk._numbers.get(os.fstat(handle).st_ino)
        disk.look()
        number = disk._numbers.get(os.fstat(handle).st_ino) if number is None else number
        if number is not None:
            disk.cut("before an fsync")
        real(handle)
        if number is not None:
            disk.sync(number)

    return call


def _shown(arguments: tuple[Any, ...]) -> str:
    return " → ".join(Path(os.fspath(one)).name for one in arguments if isinstance(one, str | os.PathLike))


@dataclass
class Index:
    """SQLite writes past Python: where it says that a transaction is on the disk, it is.

    In WAL with synchronous=FULL the log is synced at each commit, and its name when it is made; when the last
    connection goes, what is in the log goes into the database, synced, and the log is removed.
    """

    disk: Disk

    def connecting(self, real: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
        """`sqlite3.connect`, whose connections tell of their commits."""
        index = self

        class Watched(sqlite3.Connection):
            path: Path
            full = True

            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                answer = super().execute(sql, *arguments)
                if sql == "COMMIT":
                    self.full = super().execute("PRAGMA synchronous").fetchone()[0] >= 2
                    index.committed(self.path, self.full)
                return answer

            def close(self) -> None:
                before = index.state(self.path)
                super().close()
                index.closed(self.path, self.full, before)

        def connect(path: Any, *arguments: Any, **more: Any) -> sqlite3.Connection:
            if not Path(os.fspath(path)).is_relative_to(index.disk.root):
                return real(path, *arguments, **more)
            made = real(path, *arguments, **more, factory=Watched)
            assert isinstance(made, Watched)
            made.path = Path(path)
            return made

        return connect

    def committed(self, path: Path, full: bool) -> None:
        """A transaction has ended."""
        self.disk.look()
        self._sync(path, full)
        self.disk.cut("after a commit of the index")

    def state(self, path: Path) -> bytes:
        """The database's own file, which only a checkpoint writes to."""
        return hashlib.sha256(path.read_bytes() if path.exists() else b"").digest()

    def closed(self, path: Path, full: bool, before: bytes) -> None:
        """A connection was closed; where it was the last one the log has gone into the database."""
        self.disk.look()
        if self.state(path) != before:
            self._sync(path, full)

    def _sync(self, path: Path, full: bool) -> None:
        if not full:
            return
        for one in (path, path.with_name(f"{path.name}-wal")):
            if (number := self.disk.number_of(one)) is not None:
                self.disk.sync(number)
        folder = self.disk.number_of(path.parent)
        self.disk.sync_names(lambda name: name[0] == folder and name[1].startswith(path.name))
