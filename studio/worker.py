"""One training job in a process of its own: `python -m studio.worker --workspace DIR --job ID`.

The process outlives the page and the server. It writes events to the run's log, progress and heartbeat to the
index, and ends the job there. SIGTERM asks it to stop after the present step.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pipelines.errors import StudioError
from studio.jobs import Job, Jobs
from studio.library import Library
from studio.locks import FileLock
from studio.workspace import Workspace

HEARTBEAT = 5.0  # seconds
PROGRESS = 0.5  # seconds between two writes of the progress
HANDOVER = 15.0  # seconds until the server must have written this process into the index


@contextmanager
def _heartbeat(jobs: Jobs, job_id: str) -> Iterator[None]:
    """Write a sign of life every `HEARTBEAT` seconds, also during a long step."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            jobs.beat(job_id)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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
        jobs.beat(job_id, message=f"Waiting: process {lock.owner().get('pid', '?')} is using the device")
        if stop.wait(0.5):
            return False
    return True


def _stopped(jobs: Jobs, job_id: str) -> tuple[str, dict[str, Any]]:
    """The end of a job that was asked to stop: by a person, or because the studio closes."""
    return "cancelled" if jobs.get(job_id).stop_requested else "interrupted", {}


def train_job(workspace: Workspace, job: Job, stop: threading.Event) -> tuple[str, dict[str, Any]]:
    """Train what the job says; returns its final state and result.

    Raises:
        StudioError: something a person can mend.
    """
    from pipelines.bases.libraries import load_libraries
    from trainers import events
    from trainers.config import TrainConfig
    from trainers.listeners import heard

    load_libraries()
    from trainers.loop import train

    jobs, folder = Jobs(workspace), Jobs(workspace).folder(job)
    config = TrainConfig.model_validate(job.config)
    written = 0.0
    with closing(heard(train(config), config)) as run:
        for event in run:
            events.append(folder, event)
            now = time.monotonic()
            if event.kind != "step" or now - written > PROGRESS:
                message = "Learning" if event.kind == "step" else event.message
                jobs.beat(job.id, step=event.step, total=event.total, message=message[:200])
                written = now
            if stop.is_set():
                return _stopped(jobs, job.id)
    library = Library(workspace)
    entry, new = library.add(folder / "adapter.safetensors", name=job.title, origin="trained", job=job.id)
    previews = sorted((folder / "previews").glob("*-00.png"))
    if new and previews:
        library.set_cover(entry.id, f"preview/{job.id}/{previews[-1].name}")
    return "done", {"adapter": entry.id}


def run(workspace: Workspace, job_id: str, stop: threading.Event) -> int:
    """Run one job to its end and write that end into the index; returns the exit code."""
    jobs = Jobs(workspace)
    job = _handed_over(jobs, job_id)
    if job is None:
        return 3
    try:
        with _heartbeat(jobs, job_id), FileLock(workspace.device_lock) as device:
            if not _take_device(device, jobs, job_id, stop):
                state, result = _stopped(jobs, job_id)
            else:
                state, result = train_job(workspace, job, stop)
    except StudioError as error:
        jobs.finish(job_id, "failed", error=str(error))
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        line = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        jobs.finish(job_id, "failed", error=f"{line} (details in {Path('runs') / job_id / 'log.txt'})")
        return 1
    reasons = {"cancelled": "stopped by you", "interrupted": "stopped with the studio", "done": ""}
    jobs.finish(job_id, state, error=reasons[state], result=result)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point of the child process."""
    parser = argparse.ArgumentParser(prog="studio.worker")
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--job", required=True)
    args = parser.parse_args(argv)
    stop = threading.Event()
    for name in ("SIGTERM", "SIGINT"):
        signal.signal(getattr(signal, name), lambda *_: stop.set())
    return run(Workspace.open(args.workspace, own=False), args.job, stop)


if __name__ == "__main__":
    sys.exit(main())
