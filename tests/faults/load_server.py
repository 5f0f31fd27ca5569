"""A real studio in a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.faults.suites import ROOT, Task

STARTING = 180.0  # seconds
ENDING = 90.0


@dataclass(frozen=True)
class Studio:
    """A running studio. said: the file of what it prints."""

    address: str
    workspace: Path
    process: psutil.Process
    popen: subprocess.Popen[bytes]
    said: Path

    def children(self) -> list[psutil.Process]:
        """Processes below the server that live."""
        return [one for one in self._below() if one.status() != psutil.STATUS_ZOMBIE]

    def zombies(self) -> int:
        """Processes below the server that have ended and that nobody asked after."""
        return len(self._below()) - len(self.children())

    def _below(self) -> list[psutil.Process]:
        found = []
        for one in self.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                one.status()
                found.append(one)
        return found

    def words(self) -> str:
        """What it has printed by now."""
        return self.said.read_text(encoding="utf-8", errors="replace") if self.said.is_file() else ""


def start_server(task: Task, workspace: Path, base: str = "pocket", name: str = "server") -> Studio:
    """Start a studio on a free port; returns at once, see `listening`. name: of the file of its words."""
    said, scratch = task.folder / f"{name}.log", task.folder / "tmp"
    scratch.mkdir(exist_ok=True)
    more = {"TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "app.py", "--port", "0", "--workspace", str(workspace), "--base", base]
    with said.open("ab") as output:
        popen = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=task.environment(**more),
        )  # fmt: skip
    return Studio("", workspace, psutil.Process(popen.pid), popen, said)


def listening(studio: Studio, patience: float = STARTING) -> Studio:
    """The same once it answers, with its address. Raises: RuntimeError: it didn't start; its last words."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        for line in studio.words().splitlines():
            if line.startswith("Pigment is at "):
                return Studio(line.split()[3], studio.workspace, studio.process, studio.popen, studio.said)
        if studio.popen.poll() is not None:
            break
        time.sleep(0.05)
    end_server(studio)
    raise RuntimeError(f"the studio didn't start: {studio.words()[-500:]}")


def end_server(studio: Studio, how: int = signal.SIGTERM) -> None:
    """End a studio as a person does, and kill what is left."""
    family = [studio.process] if studio.popen.poll() is None else []
    with suppress(psutil.NoSuchProcess):
        family += studio.process.children(recursive=True)
    with suppress(ProcessLookupError):
        os.kill(studio.popen.pid, how)
    with suppress(subprocess.TimeoutExpired):
        studio.popen.wait(ENDING)
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    studio.popen.wait()


@contextmanager
def studio_of(task: Task, workspace: Path, base: str = "pocket", name: str = "server") -> Iterator[Studio]:
    """A studio that listens, and is ended afterwards."""
    studio = listening(start_server(task, workspace, base, name))
    try:
        yield studio
    finally:
        end_server(studio)
