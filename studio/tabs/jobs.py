"""Jobs: what runs, what waits and why, what has ended; stop, pause, resume, reorder, do again, remove."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import gradio as gr

from studio import widgets
from studio.context import Context
from studio.jobs import Job, Jobs
from studio.mixing import MixPart
from studio.tabs.jobs_pieces import HOMES
from studio.tabs.page import QUIET, Page, toast
from studio.work.order import PLACES

Given = dict[str, Any]
"""What an action gives to some of "view", "wish", "tabs"."""


def build(context: Context, page: Page) -> None:
    """Add the tab's components and listeners."""
    view = widgets.widget("jobs", {}, elem_id="jobs")
    outputs = {"view": view, "wish": page.wish, "tabs": page.tabs}

    def act(event: gr.EventData) -> list[Any]:
        given = ACTIONS[str(event.act)](context, str(event.id))
        context.runner.wake()
        return [given.get(name, gr.skip()) for name in outputs]

    view.act(toast(act), None, list(outputs.values()), **QUIET)


def _calling(verb: Callable[[Jobs, str], Any]) -> Callable[[Context, str], Given]:
    def call(context: Context, job_id: str) -> Given:
        verb(context.jobs, job_id)
        return {}

    return call


def _move(jobs: Jobs, job_id: str, where: str) -> Job:
    return jobs.move(job_id, where)


def _remove(context: Context, job_id: str) -> Given:
    job = context.jobs.remove(job_id)
    return {"view": {"said": f"“{job.title[:80]}” is off the list.", "undo": job.id, "at": time.time()}}


def _mix(context: Context, job_id: str) -> Given:
    entry = context.library.get(str(context.jobs.get(job_id).result.get("adapter")))
    wish: dict[str, Any] = {"at": time.time(), "adapters": [MixPart(id=entry.id).model_dump(mode="json")]}
    if entry.triggers:
        wish["prompt"] = f"a photo of {entry.triggers[0]}"
    return {"wish": wish, "tabs": gr.Tabs(selected="mix")}


def _going(tab: str) -> Callable[[Context, str], Given]:
    return lambda context, job_id: {"tabs": gr.Tabs(selected=tab)}


ACTIONS: dict[str, Callable[[Context, str], Given]] = {
    "stop": _calling(Jobs.stop),
    "pause": _calling(Jobs.pause),
    "resume": _calling(Jobs.resume),
    "retry": _calling(Jobs.retry),
    "restore": _calling(Jobs.restore),
    **{where: _calling(functools.partial(_move, where=where)) for where in PLACES},
    "remove": _remove,
    "mix": _mix,
    **{f"tab-{tab}": _going(tab) for tab in set(HOMES.values())},
}
"""What the buttons of the queue do (`studio/tabs/jobs_pieces.py`)."""
