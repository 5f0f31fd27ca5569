"""A disk of our own that is as full as we want: a tmpfs in a mount namespace of a forked process."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOMY = 1 << 30  # bytes; a limit alone, no memory is taken for it
_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000
_REMOUNT, _PRIVATE = 32, (1 << 18) | 16384
PAGE = 4096


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _called(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _apart() -> None:
    """Give this process, which has one thread, mounts that nobody else sees."""
    libc, user, group = _libc(), os.getuid(), os.getgid()
    if user == 0 and libc.unshare(_NEW_MOUNTS) == 0:
        pass
    else:
        _called(libc.unshare(_NEW_MOUNTS | _NEW_USERS), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _called(libc.mount(b"none", b"/", None, _PRIVATE, None), "mount")


@dataclass(frozen=True)
class Space:
    """A mounted tmpfs."""

    folder: Path

    @classmethod
    def mounted(cls, folder: Path) -> Space:
        """Mount one on a folder, in a forked process alone."""
        _apart()
        size = f"size={ROOMY}".encode()
        _called(_libc().mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, size), "mount tmpfs")
        return cls(folder)

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    @property
    def free(self) -> int:
        """Bytes that are left."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def leave(self, free: int) -> None:
        """Let so many bytes be free, in whole pages."""
        self._limit(self.used + free // PAGE * PAGE)

    def make_room(self) -> None:
        """Let there be enough again."""
        self._limit(ROOMY)

    def _limit(self, size: int) -> None:
        said = f"size={max(PAGE, size)}".encode()
        _called(_libc().mount(b"tmpfs", os.fsencode(self.folder), b"tmpfs", _REMOUNT, said), "remount")


@cache
def needs() -> str | None:
    """Why no such disk can be had here; None where it can."""
    if sys.platform != "linux":
        return "needs Linux, for a tmpfs of its own"

    def attempt() -> dict[str, Any]:
        import tempfile

        Space.mounted(Path(tempfile.gettempdir()))
        return {}

    answer = forked(attempt, 20)
    return None if "broke" not in answer else f"needs the right to mount a tmpfs ({answer['broke'][-80:]})"


def forked(act: Callable[[], dict[str, Any]], limit: float = 600.0) -> dict[str, Any]:
    """What `act` answers in a fork of this process; {"broke": its traceback} where it raised.

    Everything that it imports had better be imported before: a fork of that is quick.
    """
    readable, writable = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        try:
            answer = act()
        except BaseException:
            answer = {"broke": traceback.format_exc()}
        try:
            with os.fdopen(writable, "wb") as pipe:
                pipe.write(json.dumps(answer).encode())
        finally:  # whoever asked may be gone
            os._exit(0)
    os.close(writable)
    with open(readable, "rb") as pipe:
        if not select.select([pipe], [], [], limit)[0]:
            os.kill(pid, signal.SIGKILL)
        text = pipe.read()
    os.waitpid(pid, 0)
    return dict(json.loads(text)) if text else {"broke": f"no answer after {limit:.0f} s"}
