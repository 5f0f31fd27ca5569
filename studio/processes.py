"""Child processes: started in their own sessions, recognised after a restart, ended with their children."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
POLL = 0.25  # seconds
GRACE = 20.0  # seconds between asking a process to stop and ending it


def spawn(module: str, *arguments: str, output: Path, **pipes: Any) -> Any:
    """Start `python -m module` in a session of its own; returns a `psutil.Popen`.

    Its errors, and its output where no pipe is asked for, are appended to the file `output`.
    """
    with output.open("ab") as log_file:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": log_file, **pipes}
        command = [sys.executable, "-m", module, *arguments]
        return psutil.Popen(command, stderr=log_file, cwd=ROOT, start_new_session=True, **pipes)


def attach(pid: int) -> Any | None:
    """The running process of that id; None when it is gone."""
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def start_time() -> float:
    """When this process started, in seconds since 1970."""
    return float(psutil.Process().create_time())


def alive(pid: int | None, started: float | None) -> bool:
    """True when process `pid` runs and is the one that started at `started` (± 1 s), not a later namesake."""
    process = None if pid is None else attach(pid)
    if process is None:
        return False
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return started is None or abs(process.create_time() - started) < 1.0
    except psutil.NoSuchProcess:
        return False


def ended(process: Any, *, timeout: float = POLL) -> tuple[bool, int | None]:
    """(whether it ended within `timeout` seconds, its exit code or None where it isn't our child)."""
    try:
        return True, process.wait(timeout=timeout)
    except psutil.TimeoutExpired:
        return False, None
    except psutil.NoSuchProcess:
        return True, None


def end_tree(process: Any, *, grace: float = GRACE) -> None:
    """Ask a process to stop, wait `grace` seconds, then end it and all its children."""
    try:
        family = [process, *process.children(recursive=True)]
        process.terminate()
    except psutil.NoSuchProcess:
        return
    _, left = psutil.wait_procs(family, timeout=grace)
    for survivor in left:
        try:
            survivor.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=5)
