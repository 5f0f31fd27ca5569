"""What was found out about files, for as long as they don't change: their hashes, say.

A file is known by its number on the disk, its size and when it and its entry there were last changed, as git
knows files; one that was changed within moments of being read isn't.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.files import write_atomic

MOST = 100_000
"""Files that are remembered."""

_SETTLED_NS = 2_000_000_000
_ABANDONED_SECONDS = 3600.0


class Unchanged:
    """What is known of files, in one file of JSON. path: None keeps nothing. version: of what is known.

    The file may be removed at any time; a damaged one, or one of another version, is as one that is missing.
    It isn't written before `save`, and what is found out after that isn't kept.
    """

    def __init__(self, path: Path | None, version: str) -> None:
        self._path, self._version = path, version
        self._before = self._read()
        self._used: dict[str, Any] = {}
        self._new = False

    def of(self, file: Path, find_out: Callable[[], Any], about: str = "") -> Any:
        """Return what is known of a file, or what `find_out` gives: plain JSON.

        about: which of several things that can be known of it. Raises: what `find_out` raises.
        """
        key, changed = _key(file, about)
        if key and key in self._before:
            self._used[key] = self._before[key]
            return self._used[key]
        began = time.time_ns()
        found = find_out()
        if key and changed + _SETTLED_NS < began and _key(file, about)[0] == key:
            self._used[key] = found
            self._new = True
        return found

    def save(self) -> None:
        """Keep what is new; where the disk doesn't take it, it is found out again next time."""
        used, new = self._used, self._new
        self._before, self._used, self._new = {}, {}, False
        if new:
            # Another process may have written in the meantime. What is used goes last.
            before = {key: known for key, known in self._read().items() if key not in used}
            self._write(dict(list({**before, **used}.items())[-MOST:]))

    def forget(self, file: Path, about: str = "") -> None:
        """Let go, at once, of what is known of a file that turned out to be another one.

        Where a disk keeps no time of a change, or is damaged, that can't be seen from outside.
        """
        key = _key(file, about)[0]
        self._before.pop(key, None)
        self._used.pop(key, None)
        kept = self._read()
        if kept.pop(key, None) is not None:
            self._write(kept)

    def _write(self, kept: dict[str, Any]) -> None:
        if self._path is None:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, [json.dumps({"seal": self._seal(kept), "files": kept}).encode()])
            for left in self._path.parent.glob(f".{self._path.name}.*.tmp"):  # by killed writers
                if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    left.unlink()

    def _read(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            said = json.loads(self._path.read_bytes())
            files: dict[str, Any] = said["files"]
            return files if said["seal"] == self._seal(files) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _seal(self, files: dict[str, Any]) -> str:
        return hashlib.sha256(json.dumps([self._version, files]).encode()).hexdigest()


def _key(path: Path, about: str) -> tuple[str, int]:
    """What a file is known by, and when it was last changed, in ns; "" for one that can't be known."""
    try:
        found = os.stat(path)
    except OSError:
        return "", 0
    changed = max(found.st_mtime_ns, found.st_ctime_ns)
    parts = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, about)
    return (" ".join(map(str, parts)) if found.st_ino else ""), changed
