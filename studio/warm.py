"""The server's side of the warm child process that draws (see `studio.maker`)."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import Any

from pipelines.errors import AdapterError, StudioError
from studio import processes
from studio.bases import BaseOptions
from studio.workspace import Workspace


class MakerProcess:
    """The warm child process of `studio.maker`, started when it is first needed and again after it died."""

    def __init__(self, workspace: Workspace, options: BaseOptions) -> None:
        self.workspace = workspace
        self.options = options
        self._process: Any = None
        self._turn = threading.Lock()
        self._verb = ""  # what it is doing
        self._closed = False

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Any:
        """The running process.

        Raises:
            StudioError: the studio is closing.
        """
        if self._closed:
            raise StudioError("the studio is closing; start it again to go on")
        if not self.alive:
            self._process = processes.spawn(
                "studio.maker",
                "--workspace",
                str(self.workspace.root),
                "--base-options",
                self.options.as_text(),
                output=self.workspace.folder("cache", "maker.log"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._process is not None
        return self._process

    def ask(self, verb: str, **request: Any) -> dict[str, Any]:
        """Send a request, wait for the answer; requests of several threads take turns.

        Raises:
            StudioError: what the child reported, or that it died.
        """
        with self._turn:
            process, self._verb = self.start(), verb
            try:
                process.stdin.write(json.dumps({"verb": verb, **request}).encode() + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except OSError:
                line = b""
            finally:
                self._verb = ""
        if not line:
            code = process.wait(timeout=5)
            reason = f"signal {-code}; often for lack of memory" if code and code < 0 else f"exit code {code}"
            raise StudioError(
                f"the drawing process ended ({reason}); try again, with fewer or smaller pictures"
            )
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            kind = AdapterError if answer["kind"] == "AdapterError" else StudioError
            raise kind(answer["error"])
        return answer

    def rest(self) -> None:
        """End the process, and so give its memory to a training; the next request starts it again.

        A request that runs is answered before, unless it only loads the base.
        """
        if self._verb == "warm" and self._process is not None:
            processes.end_tree(self._process, grace=2)
        with self._turn:
            if self._process is not None and self.alive:
                processes.end_tree(self._process, grace=2)

    def close(self) -> None:
        """End the process and start none again."""
        self._closed = True
        if self._process is not None and self.alive:
            processes.end_tree(self._process, grace=2)
