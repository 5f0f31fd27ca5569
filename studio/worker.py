"""One job in a process of its own: `python -m studio.worker --workspace DIR --job ID`.

The process outlives the page and the server. It writes progress and heartbeat to the index, and ends the job
there. SIGTERM, or the wish of a person in the index, asks it to stop after the present step.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipelines.errors import NotFinite, StudioError
from pipelines.exhausted import device_lost, lost_line, out_of_memory
from studio import processes
from studio.full_disk import is_full
from studio.jobs import Jobs
from studio.locks import FileLock
from studio.turns import ELSEWHERES, holder
from studio.work import Ended, keeping, kind_of
from studio.work.following import stopped
from studio.work.job import REASONS, Job
from studio.workspace import Workspace

HEARTBEAT = 5.0  # seconds
HANDOVER = 15.0  # seconds until the server must have written this process into the index
LAST_WORDS = 10.0  # seconds that the end of a job is tried to be written
DISK_FULL = 75  # exit code of a process that could not write even its end down
DISK_FULL_SAID = "paused: disk full; what was kept so far stays: make room and resume to go on"


@contextmanager
def _heartbeat(jobs: Jobs, job_id: str, stop: threading.Event) -> Iterator[None]:
    """Write a sign of life every `HEARTBEAT` seconds, also during a long step; hear of a wish to stop."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            with suppress(sqlite3.Error):  # a full disk; the next may pass
                if jobs.beat(job_id, memory=processes.peak_memory()):
                    stop.set()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(sqlite3.Error):
            jobs.beat(job_id, memory=processes.peak_memory())


def _handed_over(jobs: Jobs, job_id: str) -> Job | None:
    """The job once the server has written this process into it; None when it was taken away before."""
    deadline = time.monotonic() + HANDOVER
    while time.monotonic() < deadline:
        job = jobs.get(job_id)
        if job.state == "running" and job.pid == os.getpid():
            return job
        if job.state != "queued":
            return None
        time.sleep(0.05)
    return None


def _take_device(lock: FileLock, jobs: Jobs, job_id: str, stop: threading.Event) -> bool:
    """Wait for the device; False when the job was stopped meanwhile."""
    while not lock.acquire(note=f"job {job_id}"):
        has_it = holder(lock, jobs.workspace)
        if has_it != ELSEWHERES:
            has_it = f"process {lock.owner().get('pid', '?')}"
        jobs.beat(job_id, message=f"Waiting: {has_it} is using the device")
        if stop.wait(0.5):
            return False
    return True


def _done(workspace: Workspace, job: Job, stop: threading.Event) -> Ended:
    """Do the job, with the device in hand where it needs that."""
    kind, jobs = kind_of(job.kind), Jobs(workspace)
    with _heartbeat(jobs, job.id, stop), FileLock(workspace.device_lock) as device:
        if kind.device and not _take_device(device, jobs, job.id, stop):
            return stopped(workspace, job)
        return kind.work()(workspace, job, stop)


def ended_by(error: Exception, workspace: Workspace, job_id: str) -> tuple[str, str, int]:
    """(state, one line, exit code) of a job that an error has ended."""
    paused = str(error).startswith("paused:")
    if isinstance(error, StudioError) and (paused or not is_full(error, workspace.root)):
        state = "paused" if paused else "failed"
        return state, str(error), error.exit_code
    if is_full(error, workspace.root):
        return "paused", DISK_FULL_SAID, StudioError.exit_code
    if out_of_memory(error):
        lower = kind_of(Jobs(workspace).get(job_id).kind).lower
        return "failed", f"out of memory; {lower}, then try again", 2
    if device_lost(error):
        return "failed", lost_line(error), 2
    line = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return "failed", f"{line} (details in {Path('runs') / job_id / 'log.txt'})", 1


def _write_end(jobs: Jobs, job_id: str, state: str, error: str, result: dict[str, Any]) -> bool:
    """Write a job's end into the index, trying for a while where the disk is full."""
    deadline = time.monotonic() + LAST_WORDS
    while True:
        try:
            jobs.finish(job_id, state, error=error, result=result or None)
            return True
        except sqlite3.OperationalError:
            if keeping.spend(jobs.workspace):
                continue
            _keep_traceback()
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)


def _note_stuck(jobs: Jobs, job: Job, stuck: bool) -> None:
    """Remember whether going on as it was comes to the same end, so that it isn't offered."""
    if stuck != bool(job.details.get("stuck")):
        with suppress(sqlite3.Error):
            jobs.note(job.id, stuck=stuck)


def _keep_traceback() -> None:
    with suppress(OSError):  # the log is on the full disk too
        traceback.print_exc()


def run(workspace: Workspace, job_id: str, stop: threading.Event) -> int:
    """Run one job to its end and write that end into the index; returns the exit code."""
    jobs = Jobs(workspace)
    job = _handed_over(jobs, job_id)
    if job is None:
        return 3
    try:
        state, result = _done(workspace, job, stop)
        error, code = {**REASONS, "interrupted": "stopped with the studio"}.get(state, ""), 0
    except Exception as raised:
        if not isinstance(raised, StudioError):
            _keep_traceback()
        _note_stuck(jobs, job, isinstance(raised, NotFinite) and raised.comes_again)
        state, error, code = ended_by(raised, workspace, job_id)
        result = {}
    return code if _write_end(jobs, job_id, state, error, result) else DISK_FULL


def main(argv: list[str] | None = None) -> int:
    """Entry point of the child process."""
    parser = argparse.ArgumentParser(prog="studio.worker")
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--job", required=True)
    args = parser.parse_args(argv)
    stop = threading.Event()
    for name in ("SIGTERM", "SIGINT"):
        signal.signal(getattr(signal, name), lambda *_: stop.set())
    code = run(Workspace.open(args.workspace, own=False), args.job, stop)
    if code == DISK_FULL:
        os._exit(code)  # what else Python would write, it couldn't, and end with a code of its own
    return code


if __name__ == "__main__":
    sys.exit(main())
