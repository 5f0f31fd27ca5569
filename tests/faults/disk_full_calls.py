"""Calls that a disk refuses: those that write, make, sync or rename below a folder, by their number."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest import MonkeyPatch

ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
GROWING = ("open", "write", "mkdir", "link", "fsync")
"""Calls that a full disk goes on refusing; it renames and removes as before."""


@dataclass(eq=False)
class Refusing:
    """Counts the calls below a folder and refuses the one of a number.

    at: that number, from 1; None: none. error: a key of ERRORS. A full disk refuses all that grow from then
    on. met: what was refused first.
    """

    root: Path
    at: int | None = None
    error: str = "ENOSPC"
    count: int = 0
    met: str = ""

    def call(self, name: str, path: Any) -> None:
        """A call is about to happen. Raises: OSError where it is refused."""
        self.count += 1
        again = self.error == "ENOSPC" and self.met != "" and name in GROWING
        if self.count != self.at and not again:
            return
        if self.error == "ENOSPC" and name not in GROWING:
            self.at = self.count + 1  # the next one that a full disk refuses
            return
        self.met = self.met or f"{name} of {Path(os.fspath(path)).name}"
        raise OSError(ERRORS[self.error], os.strerror(ERRORS[self.error]), os.fspath(path))

    def ours(self, path: Any) -> bool:
        """Whether a path lies below the folder."""
        try:
            return os.path.abspath(os.fsdecode(path)).startswith(f"{self.root}{os.sep}")
        except TypeError:  # a number of an open file
            return False

    def put_in(self, patch: MonkeyPatch) -> None:
        """Refuse from now on."""
        opened = self._opened(io.open)
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        for name in ("mkdir", "rename", "replace", "link"):
            patch.setattr(os, name, self._watched(name, getattr(os, name)))
        patch.setattr(os, "fsync", self._synced(os.fsync))
        patch.setattr(shutil, "_USE_CP_SENDFILE", False, raising=False)  # it would write past us

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **more: Any) -> Any:
            if self.ours(path) or (arguments and self.ours(arguments[0])):
                self.call(name, path)
            return real(path, *arguments, **more)

        return call

    def _synced(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def call(handle: int) -> None:
            path = os.readlink(f"/proc/self/fd/{handle}")
            if self.ours(path):
                self.call("fsync", path)
            real(handle)

        return call

    def _opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
            if not (set(mode) & set("wxa+")) or not self.ours(file):
                return real(file, mode, buffering, *rest, **more)
            self.call("open", file)
            raw = _Raw(self, file, mode.replace("b", "").replace("t", ""))
            whole = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return whole if "b" in mode else io.TextIOWrapper(whole, *rest, **more)

        return call


class _Raw(io.FileIO):
    """A file whose writes are counted."""

    def __init__(self, refusing: Refusing, path: Any, mode: str) -> None:
        super().__init__(path, mode)
        self._refusing, self._path = refusing, path

    def write(self, data: Any) -> int:
        self._refusing.call("write", self._path)
        return super().write(data)
