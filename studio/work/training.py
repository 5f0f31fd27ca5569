"""A training: a TrainConfig in, an adapter in the library out."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import StudioError
from pipelines.files import make_folder
from studio import attached
from studio.jobs import Jobs
from studio.library import Library
from studio.work import Ended
from studio.work.following import follow, stopped
from studio.work.job import Job
from studio.workspace import FOLDERS, Workspace

if TYPE_CHECKING:
    from trainers.config import TrainConfig


def run(workspace: Workspace, job: Job, stop: threading.Event) -> Ended:
    """Train what the job says, and add what was learned to the library.

    Raises:
        StudioError: something a person can mend.
    """
    from pipelines.bases.libraries import load_libraries
    from trainers.events import TrainEvent, append
    from trainers.listeners import heard

    jobs, config = Jobs(workspace), config_of(workspace, job)
    make_folder(jobs.folder(job))
    loading = TrainEvent(
        kind="stage", total=config.run.steps, message="Loading the base", data={"stage": "load"}
    )
    append(jobs.folder(job), loading)  # what the log said last was said by a process that has ended
    jobs.beat(job.id, message=loading.message)
    load_libraries()
    from trainers.loop import train
    from trainers.memory import advice

    jobs.note(job.id, lower=advice(config))
    if follow(workspace, job, heard(train(config), config), stop):
        return stopped(workspace, job)
    folder, library = config.run.output, Library(workspace)
    entry, new = library.add(folder / "adapter.safetensors", name=job.title, origin="trained", job=job.id)
    if new or attached.kept_record(workspace, entry.id) is None:
        attach(workspace, entry.id, folder)
    # Also where it is there: the process may have been killed before it had its cover.
    if (new or (entry.job == job.id and entry.cover is None)) and (cover := cover_of(folder)):
        library.set_cover(entry.id, f"preview/{job.id}/{cover}")
    return "done", {"adapter": entry.id}


def attach(workspace: Workspace, adapter_id: str, folder: Path) -> None:
    """Keep what was measured beside the adapter; where that fails the log says so, and the adapter stays."""
    try:
        attached.attach(workspace, adapter_id, folder)
    except (StudioError, OSError) as error:
        print(f"what was measured isn't kept beside the adapter: {error}", flush=True)


def cover_of(folder: Path) -> str:
    """Name of the preview nearest to the step the adapter is of; the last one where it isn't known."""
    previews = sorted(path.name for path in (folder / "previews").glob("step-*-00.png"))
    found = attached.run_record(folder)
    if not previews or found is None or found.choice is None:
        return previews[-1] if previews else ""
    step = found.drawn.step if found.drawn is not None else found.choice.step
    return min(previews, key=lambda name: abs(int(name.split("-")[1]) - step))


def config_of(workspace: Workspace, job: Job) -> TrainConfig:
    """The config of a job, with its folders where the workspace is now: it may have been moved since.

    Raises:
        ConfigError: it isn't one of a training.
    """
    from trainers.config import validate

    config = validate(job.config)
    sections = {}
    for name in type(config).model_fields:
        section = getattr(config, name)
        paths = {key: value for key, value in section if isinstance(value, Path)}
        if moved := {key: _here(workspace.root, path) for key, path in paths.items()}:
            sections[name] = section.model_copy(update=moved)
    found = config.model_copy(update=sections)
    return found.model_copy(
        update={"run": found.run.model_copy(update={"output": Jobs(workspace).folder(job)})}
    )


def _here(root: Path, path: Path) -> Path:
    """A path that isn't there, below the workspace's present root where it is found there."""
    if path.exists():
        return path
    for index, part in enumerate(path.parts):
        tail = path.parts[index:]
        whole = len(tail) > 1 or part == "cache"  # a folder of one's own named “pictures” is no part of it
        if part in FOLDERS and whole and root.joinpath(*tail).exists():
            return root.joinpath(*tail)
    return path
