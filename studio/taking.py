"""An adapter out of an earlier step: one that the run kept, or a training that goes on from a checkpoint."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipelines.errors import AdapterError, ConfigError, StudioError
from pipelines.files import make_folder, sync_tree, write_atomic
from studio.attached import attach
from studio.context import Context
from studio.entries import Entry
from studio.jobs import Job
from studio.verdict import candidates, kept_steps
from studio.work.job import OF_A_PROCESS
from studio.workspace import new_id
from trainers.config import validate
from trainers.run_folder import CHECKPOINTS, CONFIG_NAME


@dataclass(frozen=True)
class Taken:
    """What became of a step: entry, the adapter in the library; or job, which makes it."""

    entry: Entry | None = None
    job: Job | None = None


def steps_of(context: Context, job: Job) -> list[int]:
    """The steps of which a training job's folder holds a candidate or a checkpoint."""
    return kept_steps(context.jobs.folder(job), 0)


def taken_steps(context: Context, job: Job) -> dict[int, Entry]:
    """The adapters of earlier steps that are in the library, by step."""
    found = {}
    for step, adapter_id in (job.details.get("taken") or {}).items():
        with suppress(AdapterError, ValueError):
            if (entry := context.library.get(str(adapter_id))).trashed is None:
                found[int(step)] = entry
    return found


def take_step(context: Context, job: Job, step: int) -> Taken:
    """Make an adapter of what a run knew at `step`.

    At once where the run kept it as an adapter; of a checkpoint by a job, which takes as long as loading the
    base.

    Raises:
        ConfigError: nothing is kept of that step.
    """
    kept = steps_of(context, job)
    if step not in kept:
        there = ", ".join(map(str, kept)) or "none"
        raise ConfigError(f"nothing is kept of step {step} of {job.title!r}; there are: {there}")
    title = f"{job.title}, step {step}"
    if (path := candidates(context.jobs.folder(job)).get(step)) is None:
        return Taken(job=_from_checkpoint(context, job, step, title))
    entry, new = context.library.add(path, name=title, origin="trained", job=job.id)
    if new and (picture := _preview_next_to(context, job, step)):
        context.library.set_cover(entry.id, f"preview/{job.id}/{picture}")
    with suppress(StudioError, OSError):  # an adapter is one without evidence too
        attach(context.workspace, entry.id, context.jobs.folder(job), step=step)
    context.jobs.note(job.id, taken={str(step): entry.id})
    return Taken(entry=entry)


def _preview_next_to(context: Context, job: Job, step: int) -> str:
    """File name of the preview nearest to a step; empty where there is none after the first step."""
    shown = {one: files[0] for one, files in context.run_log(job).previews.items() if one and files}
    return PurePosixPath(shown[min(shown, key=lambda one: abs(one - step))]).name if shown else ""


def _from_checkpoint(context: Context, job: Job, step: int, title: str) -> Job:
    """Queue a training that goes on from a checkpoint, with nothing left to do."""
    taken = new_id()
    folder = context.workspace.folder("runs", taken)
    run = {**job.config["run"], "steps": step, "output": str(folder), "name": title}
    config = validate({**job.config, "run": run})
    source = context.jobs.folder(job) / CHECKPOINTS / f"step-{step:06d}"
    kept_details = {name: value for name, value in job.details.items() if name not in OF_A_PROCESS}
    details = {**kept_details, "taken_from": job.id}
    try:
        # The config goes before the checkpoint: a checkpoint without one couldn't be gone on from.
        make_folder(folder)
        write_atomic(folder / CONFIG_NAME, [config.as_json().encode()])
        shutil.copytree(source, folder / CHECKPOINTS / source.name)
        sync_tree(folder)
        again = context.jobs.submit("train", title, config.model_dump(mode="json"), details=details, id=taken)
    except BaseException:  # the queue or the disk is full, or the run has just been removed
        shutil.rmtree(folder, ignore_errors=True)
        raise
    context.runner.wake()
    return again
