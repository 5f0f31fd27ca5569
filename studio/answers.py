"""What the API says of jobs, adapters, pictures and the studio: typed, and the same at every door."""

from __future__ import annotations

from typing import Any, TypedDict

from studio import markup
from studio.bases import POCKET, BaseEntry
from studio.context import Context
from studio.entries import Entry
from studio.examples import ExampleSet
from studio.exporting import exported
from studio.gallery import Drawn
from studio.work.job import Job

SHOWN = 20  # running and waiting jobs


class FileAnswer(TypedDict):
    """A file to download: its name, and its address below the studio's."""

    name: str
    address: str


class JobAnswer(TypedDict):
    """A job.

    state: queued, running, paused, done, failed, cancelled or interrupted. seconds_left: None while unknown.
    created, started, finished: seconds since 1970; None when it hasn't happened. memory_bytes: of its process
    at most. result: what came out of it, by what was asked: `adapter`, `images`, `report`. files: what can be
    downloaded of that.
    """

    id: str
    kind: str
    title: str
    state: str
    step: int
    total: int
    seconds_left: float | None
    message: str
    error: str
    created: float
    started: float | None
    finished: float | None
    memory_bytes: int
    result: dict[str, Any]
    files: list[FileAnswer]


class StatusAnswer(TypedDict):
    """The studio: its base, how many jobs are in each state, those that run, and those that wait, in turn."""

    base: str
    jobs: dict[str, int]
    running: list[JobAnswer]
    waiting: list[JobAnswer]


class ThingAnswer(TypedDict):
    """Something of a list. about: what is known of it."""

    id: str
    name: str
    about: dict[str, Any]
    files: list[FileAnswer]


class ListAnswer(TypedDict):
    """A part of a list. total: how many there are."""

    items: list[ThingAnswer]
    total: int


def told(value: Any) -> Any:
    """JSON values without where their files lie on this machine; Gradio's clients would ask for those."""
    if isinstance(value, dict):
        return {name: told(inner) for name, inner in value.items() if name != "path"}
    return [told(inner) for inner in value] if isinstance(value, list) else value


def job_answer(context: Context, job: Job) -> JobAnswer:
    """What is said of a job."""
    left = context.run_log(job).seconds_left if job.kind == "train" and job.state == "running" else None
    return {
        "id": job.id, "kind": job.kind, "title": job.title, "state": job.state, "step": job.step,
        "total": job.total, "seconds_left": left, "message": job.message, "error": job.error,
        "created": job.created, "started": job.started, "finished": job.finished,
        "memory_bytes": job.memory, "result": told(job.result), "files": _job_files(context, job),
    }  # fmt: skip


def _job_files(context: Context, job: Job) -> list[FileAnswer]:
    """The files that came out of a job."""
    files: list[FileAnswer] = []
    for key in ("images", "plain"):
        found = job.result.get(key)
        for image in found if isinstance(found, list) else ():
            files.append({"name": f"{image}.png", "address": markup.url("image", str(image))})
    if isinstance(adapter := job.result.get("adapter"), str):
        files.append({"name": f"{adapter}.safetensors", "address": markup.url("adapter", adapter)})
    if (path := exported(context.workspace, job)) is not None:
        files.append({"name": path.name, "address": markup.url("export", job.id)})
    return files


def status_answer(context: Context) -> StatusAnswer:
    """What is said of the studio."""
    jobs = context.jobs
    running = jobs.find(states=("running",), limit=SHOWN)
    return {
        "base": context.base,
        "jobs": jobs.counts(),
        "running": [job_answer(context, job) for job in running],
        "waiting": [job_answer(context, job) for job in jobs.waiting()[:SHOWN]],
    }


def adapter_answer(entry: Entry) -> ThingAnswer:
    """What is said of an adapter."""
    about = {
        "triggers": entry.triggers, "family": entry.family, "method": entry.method, "rank": entry.rank,
        "bytes": entry.bytes, "origin": entry.origin, "tags": list(entry.tags), "notes": entry.notes,
        "sha256": entry.sha256, "created": entry.created, "job": entry.job,
    }  # fmt: skip
    return {
        "id": entry.id, "name": entry.name, "about": about,
        "files": [{"name": entry.file_name, "address": markup.url("adapter", entry.id)}],
    }  # fmt: skip


def picture_answer(drawn: Drawn) -> ThingAnswer:
    """What is said of a picture."""
    about = {
        "seed": drawn.seed, "kind": drawn.kind, "width": drawn.width, "height": drawn.height,
        "created": drawn.created, "job": drawn.job, "settings": told(drawn.settings),
    }  # fmt: skip
    return {
        "id": drawn.id, "name": drawn.prompt, "about": about,
        "files": [{"name": drawn.file_name, "address": markup.url("image", drawn.id)}],
    }  # fmt: skip


def example_answer(one: ExampleSet) -> ThingAnswer:
    """What is said of an example set."""
    about = {
        "kind": one.kind, "trigger": one.trigger, "class_name": one.class_name, "pictures": len(one.pictures),
    }  # fmt: skip
    files: list[FileAnswer] = [
        {"name": path.name, "address": markup.url("example", one.id, str(number))}
        for number, path in enumerate(one.pictures)
    ]
    return {"id": one.id, "name": one.title, "about": about, "files": files}


def thing_of_job(job: JobAnswer) -> ThingAnswer:
    """A job as one of a list."""
    about = {name: value for name, value in job.items() if name not in ("id", "title", "files")}
    return {"id": job["id"], "name": job["title"], "about": about, "files": job["files"]}


def pocket_answer() -> ThingAnswer:
    """What is said of the embedded base."""
    return {"id": POCKET, "name": POCKET, "about": {"embedded": True}, "files": []}


def base_answer(base: BaseEntry) -> ThingAnswer:
    """What is said of a base."""
    about = {
        "family": base.family, "prediction_type": base.prediction_type, "bytes": base.bytes,
        "sha256": base.sha256, "created": base.created,
    }  # fmt: skip
    return {"id": base.name, "name": base.name, "about": about, "files": []}
