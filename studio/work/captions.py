"""Captions: a model looks at the pictures of a dataset and writes what they show."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import ConfigError
from studio.work import Ended
from studio.work.following import follow, stopped
from studio.work.job import Job
from studio.workspace import Workspace

if TYPE_CHECKING:
    from trainers.captioning import Captioner
    from trainers.events import TrainEvent


class Asked(BaseModel):
    """What a job's config holds.

    dataset: its id. captioner: an image-to-text model, a folder or a hub id. replace: write also where there
    is a caption; else only where there is none. trigger: put in front of captions that lack it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    captioner: str = Field(min_length=1, max_length=300)
    replace: bool = False
    trigger: str = Field(default="", max_length=100)


def run(workspace: Workspace, job: Job, stop: threading.Event) -> Ended:
    """Caption a dataset's pictures. What was written before an interruption isn't written again.

    Raises:
        StudioError: the captioner can't be loaded, a picture can't be read, the dataset is gone.
    """
    try:
        asked = Asked.model_validate(job.config)
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        raise ConfigError(f"captions: {mistake['loc'][0]}: {mistake['msg']}; ask for them anew") from None
    written: list[str] = []
    if follow(workspace, job, _written(workspace, job, asked, written), stop):
        return stopped(workspace, job)
    return "done", {"dataset": asked.dataset, "captions": len(written)}


def _written(
    workspace: Workspace, job: Job, asked: Asked, written: list[str]
) -> Generator[TrainEvent, None, None]:
    """Write the captions one by one, an event for each; `written` becomes the pictures' hashes."""
    from studio.datasets import Datasets
    from studio.jobs import Jobs
    from trainers.events import TrainEvent, read
    from trainers.images import read_picture
    from trainers.tables import one_line

    datasets = Datasets(workspace)
    items = datasets.get(asked.dataset).items
    before = {
        str(event.data["sha256"]) for event in read(Jobs(workspace).folder(job)) if "sha256" in event.data
    }
    written += before
    todo = [
        item for item in items if item.sha256 not in before and (asked.replace or not item.caption.strip())
    ]
    if not todo:
        return
    yield TrainEvent(kind="stage", message="Loading the captioner", data={"stage": "captions"})
    say = _captioner(asked.captioner)
    for done, item in enumerate(todo, start=1):
        said = one_line(say(read_picture(datasets.pictures.get(item.sha256).path).image))
        if not said:
            yield TrainEvent(kind="warning", message=f"{item.name}: the captioner said nothing")
            continue
        if asked.trigger.casefold() not in said.casefold():
            said = f"{asked.trigger}, {said}"
        datasets.caption(asked.dataset, item.sha256, said)
        written.append(item.sha256)
        data = {"stage": "captions", "done": done, "of": len(todo), "sha256": item.sha256}
        yield TrainEvent(kind="stage", message=f"{item.name}: {said}", data=data)


def _captioner(name: str) -> Captioner:
    """Load the model where it runs best."""
    from pipelines.device import choose_device
    from trainers.captioning import load_captioner

    return load_captioner(name, str(choose_device().device))
