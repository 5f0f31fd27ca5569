"""An index of folders full of adapter files: headers only, remembered between calls."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import AdapterError
from pipelines.files import write_atomic

_VERSION = 1
_SAVE_EVERY = 15.0  # seconds, while many new headers are read
_KEPT = ("name", "format", "family", "method", "rank", "components", "modules", "dtype", "triggers")

Progress = Callable[[int, int], None]
"""Called while new headers are read with (files looked at, files in all)."""


@dataclass(frozen=True)
class Indexed:
    """One adapter file of a folder.

    size: bytes. modified: seconds since 1970. info: name, format, family, method, rank, components,
    modules, dtype and triggers as `inspect_adapter` says; empty where the file was refused. error: why,
    in one line; empty where it wasn't.
    """

    path: Path
    size: int
    modified: float
    info: dict[str, Any]
    error: str


def index_folder(
    folder: str | Path, cache: str | Path | None = None, on_progress: Progress | None = None
) -> list[Indexed]:
    """List every `.safetensors` file below a folder with what its header says, sorted by path.

    cache: a JSON file that remembers headers by path, size and time of change, so that only new and
    changed files are opened; None remembers nothing. A damaged cache is made anew. Folders and files
    whose names begin with a dot, and links to folders, are passed over.

    Raises: AdapterError where the folder can't be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AdapterError(f"no folder {str(folder)!r}; give a folder with .safetensors files")
    cache_file = None if cache is None else Path(cache)
    known = {} if cache_file is None else _load(cache_file, root)
    files = sorted(_walk(str(root)))
    fresh: dict[str, list[Any]] = {}
    changed, saved = len(files) != len(known), time.monotonic()
    for number, (relative, size, stamp) in enumerate(files):
        row = known.get(relative)
        if row is None or row[0] != size or row[1] != stamp:
            row = [size, stamp, *_inspect(root / relative)]
            changed = True
            if on_progress is not None:
                on_progress(number + 1, len(files))
        fresh[relative] = row
        if changed and cache_file is not None and time.monotonic() - saved > _SAVE_EVERY:
            _save(cache_file, root, {**known, **fresh})
            saved = time.monotonic()
    if changed and cache_file is not None:
        _save(cache_file, root, fresh)
    return [Indexed(root / relative, row[0], row[1] / 1e9, row[2], row[3]) for relative, row in fresh.items()]


def _walk(root: str) -> Iterator[tuple[str, int, int]]:
    """Yield (relative path, bytes, nanoseconds since 1970 of the last change) of adapter files."""
    pending = [""]
    while pending:
        inside = pending.pop()
        try:
            entries = list(os.scandir(os.path.join(root, inside)))
        except OSError:
            continue
        for entry in entries:
            relative = os.path.join(inside, entry.name)
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(relative)
            elif entry.name.lower().endswith(".safetensors") and entry.is_file():
                about = entry.stat()
                yield relative, about.st_size, about.st_mtime_ns


def _inspect(path: Path) -> tuple[dict[str, Any], str]:
    from pipelines.formats import inspect_adapter

    try:
        info = inspect_adapter(path)
    except AdapterError as error:
        return {}, str(error)
    return {field: info[field] for field in _KEPT if field in info}, ""


def _load(cache: Path, root: Path) -> dict[str, list[Any]]:
    """Return the remembered rows of a folder: path → [bytes, nanoseconds, info, error]."""
    try:
        stored = json.loads(cache.read_bytes())
        rows = (
            stored["files"]
            if stored["version"] == _VERSION and stored["folder"] == str(root.resolve())
            else {}
        )
        sound = all(
            isinstance(row, list) and len(row) == 4 and isinstance(row[2], dict) and isinstance(row[3], str)
            for row in rows.values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return rows if sound else {}


def _save(cache: Path, root: Path, rows: dict[str, list[Any]]) -> None:
    """Write the cache; one that can't be written is done without."""
    text = json.dumps({"version": _VERSION, "folder": str(root.resolve()), "files": rows})
    try:
        write_atomic(cache, [text.encode()])
    except OSError:
        return
