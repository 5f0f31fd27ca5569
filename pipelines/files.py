"""Files that are either whole or not there."""

from __future__ import annotations

import hashlib
import math
import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.tmp", re.DOTALL)


def write_atomic(path: Path, chunks: Iterable[bytes]) -> str:
    """Write `chunks` to `path` so that a reader sees the old file, the whole new one, or none.

    A temporary file in the same folder is written and synced, renamed over `path`, and the folder
    is synced. On any failure the temporary file is removed and `path` is as it was.

    Returns: the SHA-256 of what was written, as 64 hexadecimal digits.
    Raises: OSError as the system gives it (disk full, no permission).
    """
    digest = hashlib.sha256()
    begin = path.name.encode(errors="ignore")[:100].decode(errors="ignore")  # names end at 255 bytes
    temporary = path.with_name(f".{begin}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return digest.hexdigest()


def sweep_temporaries(folder: Path, before: float = math.inf) -> None:
    """Remove what `write_atomic` was writing in a folder, or below it, when its process was killed.

    before: only what was changed last before that, in seconds since 1970, where others may write there.
    """
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names if _TEMPORARY.fullmatch(name)):
            with suppress(OSError):
                if path.lstat().st_mtime < before:
                    path.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename or unlink in `folder` last through a power cut. Does nothing on Windows."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, that last through a power cut; one that is there stays as it is.

    Without this a file that is synced in a new folder may be gone with the folder's own name.

    Raises: OSError as the system gives it.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def sync_tree(path: Path) -> None:
    """Make what a file holds, or all that a folder holds, last through a power cut.

    Its own name lasts with `sync_folder` of where it lies. Raises: OSError as the system gives it.
    """
    inside = sorted(path.rglob("*")) if path.is_dir() else []
    for one in (path, *inside):
        if one.is_dir():
            sync_folder(one)
            continue
        with open(one, "rb+" if os.name == "nt" else "rb") as file:
            os.fsync(file.fileno())


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
