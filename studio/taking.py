"""An adapter out of an earlier step: a training goes on from that checkpoint, with nothing left to do."""

from __future__ import annotations

import shutil

from pipelines.errors import ConfigError
from pipelines.files import write_atomic
from studio.context import Context
from studio.jobs import Job
from studio.verdict import kept_steps
from studio.work.job import OF_A_PROCESS
from studio.workspace import new_id
from trainers.config import validate
from trainers.run_folder import CHECKPOINTS, CONFIG_NAME


def steps_of(context: Context, job: Job) -> list[int]:
    """The steps of which a training job's folder holds a checkpoint."""
    return kept_steps(context.jobs.folder(job), 0)


def take_step(context: Context, job: Job, step: int) -> Job:
    """Queue the job that makes an adapter of what a run knew at `step`; it takes as long as loading the base.

    Raises:
        ConfigError: nothing is kept of that step.
    """
    kept = steps_of(context, job)
    if step not in kept:
        there = ", ".join(map(str, kept)) or "none"
        raise ConfigError(f"nothing is kept of step {step} of {job.title!r}; there are: {there}")
    taken = new_id()
    folder = context.workspace.folder("runs", taken)
    title = f"{job.title}, step {step}"
    run = {**job.config["run"], "steps": step, "output": str(folder), "name": title}
    config = validate({**job.config, "run": run})
    source = context.jobs.folder(job) / CHECKPOINTS / f"step-{step:06d}"
    kept_details = {name: value for name, value in job.details.items() if name not in OF_A_PROCESS}
    details = {**kept_details, "taken_from": job.id}
    try:
        # The config goes before the checkpoint: a checkpoint without one couldn't be gone on from.
        folder.mkdir()
        write_atomic(folder / CONFIG_NAME, [config.as_json().encode()])
        shutil.copytree(source, folder / CHECKPOINTS / source.name)
        again = context.jobs.submit("train", title, config.model_dump(mode="json"), details=details, id=taken)
    except BaseException:  # the queue or the disk is full, or the run has just been removed
        shutil.rmtree(folder, ignore_errors=True)
        raise
    context.runner.wake()
    return again
