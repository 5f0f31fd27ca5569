"""File locks that survive nothing: the system drops them when their process ends, however it ends."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

_LOCKED_BYTE = 1 << 30  # far behind the text, so that others can still read who holds the lock (Windows)


class FileLock:
    """An exclusive lock on a file, which also says in the file who holds it.

    The file stays when the lock is released (removing it would let two processes hold two files of one name).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """True while this object holds the lock."""
        return self._fd is not None

    def acquire(self, *, note: str = "") -> bool:
        """Take the lock without waiting and write `{"pid", "since", "note"}` into the file.

        Returns False when another holder has it, also one in this process.
        """
        if self.held:
            return False
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        if not _lock(fd):
            os.close(fd)
            return False
        self._fd = fd
        owner = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M"), "note": note}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(owner).encode(), 0) if hasattr(os, "pwrite") else os.write(
            fd, json.dumps(owner).encode()
        )
        return True

    def owner(self) -> dict[str, Any]:
        """What the last holder wrote about itself; empty when nothing can be read."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def release(self) -> None:
        """Give the lock back; does nothing when it isn't held."""
        if self._fd is not None:
            os.close(self._fd)  # closing the only descriptor releases the lock
            self._fd = None

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _lock(fd: int) -> bool:
    """Lock the open file `fd` exclusively without waiting; False when somebody else has it."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(fd, 0, os.SEEK_SET)
        return True
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
