"""Files that are either whole or not there."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path


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


def sync_folder(folder: Path) -> None:
    """Make a rename or unlink in `folder` last through a power cut. Does nothing on Windows."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
