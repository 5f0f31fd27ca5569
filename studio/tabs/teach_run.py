"""What the buttons on a run's card do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from pipelines.errors import ConfigError, nearest
from studio import reworking
from studio.context import Context
from studio.jobs import Job
from studio.markup import text
from studio.tabs import run_found
from studio.tabs.asking import validated
from studio.taking import take_step
from studio.verdict import known

Shown = list[Any]
"""(run, wish, tabs, again): what the card shows, what Mix is asked for, which tab is open, and the run that
the form is to be filled from: {"at", "job", "changes"}."""


@dataclass(frozen=True)
class Pressed:
    """A button on the card of a run. step, rank, rule: what it is about; empty where it is about none."""

    context: Context
    job: Job
    step: str = ""
    rank: str = ""
    rule: str = ""


def _shown(run: Any = None, wish: Any = None, tabs: Any = None, again: Any = None) -> Shown:
    """What changes; None: nothing does."""
    return [gr.skip() if one is None else one for one in (run, wish, tabs, again)]


def _queue(verb: str) -> Callable[[Pressed], Shown]:
    def change(pressed: Pressed) -> Shown:
        getattr(pressed.context.jobs, verb)(pressed.job.id)
        pressed.context.runner.wake()
        return _shown()

    return change


def _retry(pressed: Pressed) -> Shown:
    again = pressed.context.jobs.retry(pressed.job.id)
    pressed.context.runner.wake()
    return _shown({"part": "run", "key": again.id})


def _show(pressed: Pressed) -> Shown:
    return _shown({"part": "run", "key": pressed.job.id})


def _mix(pressed: Pressed) -> Shown:
    adapter = pressed.job.result.get("adapter")
    if not adapter:
        raise ConfigError(f"run {pressed.job.title!r} has made no adapter; resume it first")
    entry = pressed.context.library.get(adapter)
    prompt = pressed.job.details.get("prompt", "")
    wish = {"at": time.time(), "adapters": [{"id": entry.id}], **({"prompt": prompt} if prompt else {})}
    return _shown(wish=wish, tabs=gr.Tabs(selected="mix"))


def _take(pressed: Pressed) -> Shown:
    if not pressed.step.isdecimal():
        raise ConfigError(f"step {pressed.step!r} is no number; reload the page")
    taken = take_step(pressed.context, pressed.job, int(pressed.step))
    if taken.job is not None:
        return _shown({"part": "run", "key": taken.job.id})
    if taken.entry is not None:
        gr.Info(f"“{text(taken.entry.name)}” is in the library", duration=6)
    return _shown()


def _again(pressed: Pressed) -> Shown:
    record = known(pressed.context.jobs.folder(pressed.job)) if pressed.rule else None
    changes = run_found.changes(record, pressed.rule)
    return _shown(again={"at": time.time(), "job": pressed.job.id, "changes": changes})


def _resize(pressed: Pressed) -> Shown:
    adapter = str(pressed.job.result.get("adapter") or "")
    name = f"{pressed.context.library.get(adapter).name}, rank {pressed.rank}"[:200]
    asked = validated(reworking.ResizeRequest, adapter=adapter, rank=pressed.rank, name=name)
    reworking.start(pressed.context, "resize", asked)
    return _shown()


VERBS: dict[str, Callable[[Pressed], Shown]] = {
    "stop": _queue("stop"), "pause": _queue("pause"), "resume": _queue("resume"), "retry": _retry,
    "show": _show, "mix": _mix, "take": _take, "again": _again, "resize": _resize,
}  # fmt: skip


def acting(context: Context) -> Callable[..., Shown]:
    """The listener of the card."""

    def act(event: gr.EventData) -> Shown:
        """A button on the run's card."""
        verb = str(event.act)
        if verb not in VERBS:
            raise ConfigError(f"unknown action {verb!r}{nearest(verb, VERBS)}; reload the page")
        about = {name: str(getattr(event, name, "") or "") for name in ("step", "rank", "rule")}
        return VERBS[verb](Pressed(context, context.jobs.get(str(event.id)), **about))

    return act
