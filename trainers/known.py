"""What pictures were when they were last read, so that unchanged ones needn't be decoded to be checked.

A file is known by its number on the disk, its size and when it and its entry there were last changed, as git
knows files; one that was changed within moments of being read isn't. Its pixels are decoded, and its content
is held against the hash, wherever they are used.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import PIL

from pipelines.files import write_atomic
from trainers.images import Source, read_picture

NAME = "pictures.json"
MOST = 100_000
"""Pictures that are remembered."""

_VERSION = 1
_SETTLED_NS = 2_000_000_000


class Known:
    """The pictures that runs have read. folder: the cache folder; None: nothing is known or kept.

    The file may be removed at any time; a damaged one is as one that is missing. What is read after `save`
    isn't known.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / NAME
        self._before = _read(self._path)
        self._used: dict[str, list[Any]] = {}
        self._new = False

    def read(self, path: Path, background: str = "white") -> Source:
        """Return what `read_picture` does, without decoding a file that is known.

        Raises: as `read_picture`.
        """
        key, changed = _key(path, background)
        found = self._before.get(key) if key else None
        if found is not None:
            self._used[key] = found
            sha256, size, alpha, notes = found
            return Source(path, (size[0], size[1]), tuple(notes), sha256, alpha, background)
        began = time.time_ns()
        source = read_picture(path, background)
        if key and changed + _SETTLED_NS < began and _key(path, background)[0] == key:
            self._used[key] = [source.sha256, list(source.size), source.alpha, list(source.notes)]
            self._new = True
        return source

    def save(self) -> None:
        """Keep what is new; where the disk doesn't take it, the next run reads the pictures again."""
        used, new = self._used, self._new
        self._before, self._used, self._new = {}, {}, False
        if self._path is None or not new:
            return
        # Another run may have written in the meantime.
        whole = {**_read(self._path), **used}
        kept = dict(list(whole.items())[-MOST:])
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, [json.dumps({"seal": _seal(kept), "pictures": kept}).encode()])


def _read(path: Path | None) -> dict[str, list[Any]]:
    if path is None:
        return {}
    try:
        said = json.loads(path.read_bytes())
        pictures: dict[str, list[Any]] = said["pictures"]
        return pictures if said["seal"] == _seal(pictures) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _seal(pictures: dict[str, list[Any]]) -> str:
    return hashlib.sha256(json.dumps([_VERSION, PIL.__version__, pictures]).encode()).hexdigest()


def _key(path: Path, background: str) -> tuple[str, int]:
    """What a file is known by, and when it was last changed, in ns; "" for one that can't be known."""
    try:
        found = os.stat(path)
    except OSError:
        return "", 0
    changed = max(found.st_mtime_ns, found.st_ctime_ns)
    parts = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, background)
    return (" ".join(map(str, parts)) if found.st_ino else ""), changed
