"""One export: the file for another tool, with the report that proves it, kept for download."""

from __future__ import annotations

import shutil
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.errors import AdapterError, BaseError
from pipelines.files import make_folder
from studio.bases import BaseOptions
from studio.exporting import (
    ExportRequest,
    checked,
    cover_file,
    file_name,
    folder_of,
    with_cover,
    write,
)
from studio.jobs import Jobs
from studio.library import Library
from studio.locks import FileLock
from studio.whole import read_whole
from studio.work import Ended
from studio.work.following import stopped
from studio.work.job import Job
from studio.work.loading import load_weights, need_weights
from studio.workspace import Workspace

KEPT = 24  # exports whose files stay for another download
STAGES = ("Reading the adapter", "Loading the base", "Writing and checking")


def run(workspace: Workspace, job: Job, stop: threading.Event) -> Ended:
    """Export what the job says. Raises: StudioError where a check fails; no file is kept then."""
    from pipelines.tools import half

    jobs, library = Jobs(workspace), Library(workspace)
    request = ExportRequest.model_validate(job.config)
    entry = library.get(request.adapter)
    request = checked(request, entry)
    _tell(jobs, job, 0)
    adapter = replace(read_whole(library, entry, family=entry.family or None), name=entry.name)
    adapter = with_cover(adapter, cover_file(workspace, entry))
    if request.only:
        adapter = half(adapter, request.only)
    target = folder_of(workspace, job) / file_name(entry.slug, request.format)
    _tell(jobs, job, 1)
    with FileLock(workspace.device_lock) as device:
        base, note = _base_of(request, adapter, device, f"job {job.id}")
        if stop.is_set():
            return stopped(workspace, job)
        _tell(jobs, job, 2)
        make_folder(target.parent)
        try:
            report = write(
                adapter, target, request.format, base, _rule(request), dtype=request.dtype,
                allow_left_out=request.allow_left_out,
            )  # fmt: skip
        except BaseException:
            shutil.rmtree(target.parent, ignore_errors=True)
            raise
    if stop.is_set():
        shutil.rmtree(target.parent, ignore_errors=True)
        return stopped(workspace, job)
    _clear_old(target.parent)
    text = report.as_text() + (f"\nno picture was compared: {note}" if note else "")
    return "done", {
        "file": target.name, "bytes": target.stat().st_size, "text": text, "report": report.as_dict(),
        "note": note,
    }  # fmt: skip


def _tell(jobs: Jobs, job: Job, stage: int) -> None:
    jobs.beat(job.id, step=stage, total=len(STAGES), message=STAGES[stage])


def _rule(request: ExportRequest) -> Any:
    from pipelines.lowrank import RankRule

    if not request.as_lora:
        return None
    return RankRule(rank=request.rank, energy=request.energy, error=request.error)


def _base_of(request: ExportRequest, adapter: Any, device: FileLock, note: str) -> tuple[Any, str]:
    """(the base to compare a picture with, or whose weights are needed; why no picture, else empty)."""
    why = ""
    if not request.picture:
        why = "it wasn't asked for"
    elif not device.acquire(note=note):
        why = "the device is busy with something else"
    else:
        try:
            base = BaseOptions(**request.options).load(request.base)
            adapter.check(base)
            return base, ""
        except (AdapterError, BaseError) as error:
            why = str(error)
            device.release()
        except RuntimeError as error:
            if "out of memory" not in str(error).lower():
                raise
            why = "there is no memory for another base beside the one that draws"
            device.release()
    if request.as_lora and need_weights([adapter]):
        base = load_weights(request.base, request.options)
        adapter.check(base)
        return base, ""
    return None, why


def _clear_old(newest: Path) -> None:
    """Keep the files of the last `KEPT` exports."""
    found: list[tuple[float, Path]] = []
    for folder in newest.parent.iterdir():
        with suppress(OSError):  # another export that ends now has cleared it away
            found.append((folder.stat().st_mtime, folder))
    for _, folder in sorted(found)[:-KEPT]:
        if folder != newest:
            shutil.rmtree(folder, ignore_errors=True)
