"""What the functions of `studio.work` share: how a job that is to stop ends, and how events are kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING

from studio.jobs import Jobs
from studio.work import Ended
from studio.work.job import Job
from studio.workspace import Workspace

if TYPE_CHECKING:
    from trainers.events import TrainEvent

PROGRESS = 0.5  # seconds between two writes of the progress


def stopped(workspace: Workspace, job: Job) -> Ended:
    """The end of a job that was asked to stop: by a person, or because the studio closes."""
    return Jobs(workspace).get(job.id).asked or "interrupted", {}


def follow(
    workspace: Workspace, job: Job, happening: Generator[TrainEvent, None, object], stop: threading.Event
) -> bool:
    """Write events to the job's log and its progress to the index; True where it was stopped before the end.

    A stop closes the generator. Counted stages ({"done", "of"}) are the progress where there are no steps.
    """
    from trainers import events

    jobs, written = Jobs(workspace), 0.0
    folder = jobs.folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    with closing(happening):
        for event in happening:
            events.append(folder, event)
            now = time.monotonic()
            if event.kind != "step" or now - written > PROGRESS:
                done, of = event.data.get("done"), event.data.get("of")
                counted = event.kind == "stage" and event.total == 0 and isinstance(of, int)
                step, total = (done, of) if counted else (event.step, event.total)
                message = "Learning" if event.kind == "step" else event.message[:200]
                jobs.beat(job.id, step=step, total=total, message=message)
                written = now
            if stop.is_set():
                return True
    return False
