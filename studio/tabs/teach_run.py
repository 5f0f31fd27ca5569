"""What the buttons on a run's card do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from pipelines.errors import ConfigError, nearest
from studio.context import Context
from studio.jobs import Job
from studio.taking import take_step

Shown = list[Any]
"""(run, wish, tabs): what the card shows, what Mix is asked for, which tab is open."""


@dataclass(frozen=True)
class Pressed:
    """A button on the card of a run. step: which one it is about; empty where it is about none."""

    context: Context
    job: Job
    step: str


def _queue(verb: str) -> Callable[[Pressed], Shown]:
    def change(pressed: Pressed) -> Shown:
        getattr(pressed.context.jobs, verb)(pressed.job.id)
        pressed.context.runner.wake()
        return [gr.skip(), gr.skip(), gr.skip()]

    return change


def _retry(pressed: Pressed) -> Shown:
    again = pressed.context.jobs.retry(pressed.job.id)
    pressed.context.runner.wake()
    return [{"part": "run", "key": again.id}, gr.skip(), gr.skip()]


def _show(pressed: Pressed) -> Shown:
    return [{"part": "run", "key": pressed.job.id}, gr.skip(), gr.skip()]


def _mix(pressed: Pressed) -> Shown:
    adapter = pressed.job.result.get("adapter")
    if not adapter:
        raise ConfigError(f"run {pressed.job.title!r} has made no adapter; resume it first")
    entry = pressed.context.library.get(adapter)
    wish = {
        "at": time.time(),
        "adapters": [{"id": entry.id}],
        "prompt": pressed.job.details.get("prompt", ""),
    }
    return [gr.skip(), wish, gr.Tabs(selected="mix")]


def _take(pressed: Pressed) -> Shown:
    if not pressed.step.isdecimal():
        raise ConfigError(f"step {pressed.step!r} is no number; reload the page")
    taken = take_step(pressed.context, pressed.job, int(pressed.step))
    return [{"part": "run", "key": taken.id}, gr.skip(), gr.skip()]


VERBS: dict[str, Callable[[Pressed], Shown]] = {
    "stop": _queue("stop"), "pause": _queue("pause"), "resume": _queue("resume"), "retry": _retry,
    "show": _show, "mix": _mix, "take": _take,
}  # fmt: skip


def acting(context: Context) -> Callable[..., Shown]:
    """The listener of the card."""

    def act(event: gr.EventData) -> Shown:
        """A button on the run's card."""
        verb = str(event.act)
        if verb not in VERBS:
            raise ConfigError(f"unknown action {verb!r}{nearest(verb, VERBS)}; reload the page")
        step = str(getattr(event, "step", ""))
        return VERBS[verb](Pressed(context, context.jobs.get(str(event.id)), step))

    return act
