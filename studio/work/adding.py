"""What comes into the workspace from outside: dropped adapters, and bases by file, folder or hub id."""

from __future__ import annotations

import shutil
import threading
from typing import Any

from pipelines.errors import AdapterError
from studio.bases import BaseOptions, Bases
from studio.importing import folder_of, staged, take
from studio.jobs import Jobs
from studio.library import Library
from studio.work import Ended
from studio.work.following import stopped
from studio.work.job import Job
from studio.workspace import Workspace


class _Stopped(Exception):
    """Somebody asked the job to stop."""


def adapters(workspace: Workspace, job: Job, stop: threading.Event) -> Ended:
    """Take dropped files into the library; fails only where none of them could be taken."""
    jobs = Jobs(workspace)
    folder = folder_of(workspace, job)
    before: dict[str, Any] = job.details.get("imported", {})
    if before and _there(workspace, before["adapters"]):  # killed before the index said that it was done
        shutil.rmtree(folder, ignore_errors=True)
        return "done", before

    def tell(done: int, of: int) -> None:
        jobs.beat(job.id, step=done, total=of, message="Reading every number")
        if stop.is_set():
            raise _Stopped

    try:
        taken = take(Library(workspace), staged(folder, job.config["names"]), tell)
    except _Stopped:
        return stopped(workspace, job)
    if not taken.entries:
        raise AdapterError("; ".join(f"{name}: {reason}" for name, reason in taken.refused[:3]))
    result = {
        "adapters": [entry.id for entry, _ in taken.entries],
        "known": [entry.name for entry, new in taken.entries if not new],
        "refused": taken.refused,
    }
    jobs.note(job.id, imported=result)  # what was dropped goes now, and can't be read again
    shutil.rmtree(folder, ignore_errors=True)
    return "done", result


def _there(workspace: Workspace, ids: list[str]) -> bool:
    """Whether all these adapters are in the library."""
    there = {entry.id for entry in Library(workspace).entries()}
    return there.issuperset(ids)


def base(workspace: Workspace, job: Job, stop: threading.Event) -> Ended:
    """List a base under a name; a hub id is fetched first, and goes on from where it was stopped.

    Raises:
        StudioError: it can't be fetched, read or used.
    """
    from pipelines.bases.loading import check_fit

    jobs = Jobs(workspace)

    def tell(progress: Any) -> None:
        jobs.beat(
            job.id, step=progress.done >> 20, total=max(1, progress.total >> 20),
            message=f"Fetching {progress.file}"[:200],
        )  # fmt: skip
        if stop.is_set():
            raise _Stopped

    options = BaseOptions(
        configs=job.config.get("configs") or None,
        prediction_type=job.config.get("prediction_type") or None,
        precision=job.config.get("precision") or None,
    )
    jobs.beat(job.id, message="Looking at it")
    try:
        source = options.open(job.config["ref"], on_progress=tell)
    except _Stopped:
        return stopped(workspace, job)
    check_fit(source)
    jobs.beat(job.id, message="Reading it once, for its SHA-256")
    entry, new = Bases(workspace).add(source, name=job.config.get("name", ""))
    return "done", {"base": entry.name, "new": new}
