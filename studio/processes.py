"""Child processes: started in their own sessions, recognised after a restart, ended with their children."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
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


def behind(process: Any) -> None:
    """Let a process stand back behind those that a person looks at, such as the browser."""
    try:
        process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS if sys.platform == "win32" else 10)
    except psutil.Error:
        return  # it is gone, or may not be changed: then it runs as it is


def attach(pid: int) -> Any | None:
    """The running process of that id; None when it is gone."""
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


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
    _kill(left)


def ask_to_stop(process: Any) -> None:
    """Send a process SIGTERM; nothing where it is gone."""
    with suppress(psutil.NoSuchProcess):
        process.terminate()


def kill_tree(process: Any) -> None:
    """End a process and all its children now."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    _kill(family)


def kill_left_behind(pid: int) -> None:
    """End what a process that is gone has left running in the session that it was started in."""
    if os.name == "nt":
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _kill(family: list[Any]) -> None:
    for survivor in family:
        with suppress(psutil.NoSuchProcess):
            survivor.kill()
    psutil.wait_procs(family, timeout=5)


def peak_memory(pid: int | None = None) -> int:
    """The most memory (bytes, resident) that a process has had, as far as the system says; else what it has.

    None: this process. 0 where it is gone.
    """
    try:
        now = int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid or 'self'}/status").read_text())
    except OSError:
        return now
    return max(now, 1024 * int(found.group(1))) if found else now


def memory_total() -> int:
    """Bytes of this machine's memory."""
    return int(psutil.virtual_memory().total)
