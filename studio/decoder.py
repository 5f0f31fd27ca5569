"""The process that decodes pictures, from outside: started where needed, ended where it takes too long."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio import processes
from studio.workspace import Workspace

SECONDS = 120.0
"""For one picture; a slow one is refused."""


class Decoder:
    """A child process that decodes, started where it is needed and again where a picture has ended it.

    seconds: that one picture may take.
    """

    def __init__(self, log: Path, seconds: float = SECONDS) -> None:
        self._log, self._seconds = log, seconds
        self._child: Any = None

    def ask(self, path: Path, preview: Path | None) -> dict[str, Any]:
        """What `decoding.decode` says of a file, or {"error": reason}."""
        if self._child is None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._child = processes.spawn(
                "studio.decoding", output=self._log, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        child, late = self._child, threading.Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(self._seconds, end)
        timer.start()
        try:
            order = {"path": str(path), "preview": None if preview is None else str(preview)}
            child.stdin.write(json.dumps(order).encode() + b"\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except OSError:
            line = b""
        finally:
            timer.cancel()
        if line:
            return dict(json.loads(line))
        self.close()
        if late.is_set():
            return {"error": f"took more than {self._seconds:.0f} s to decode; save it again or smaller"}
        return {"error": "broke the decoder, so it is damaged or harmful; remove it or save it again"}

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()


@contextmanager
def decoder(workspace: Workspace, seconds: float = SECONDS) -> Iterator[Decoder]:
    """A decoder for a while."""
    one = Decoder(workspace.folder("cache", "decoding.log"), seconds)
    try:
        yield one
    finally:
        one.close()
