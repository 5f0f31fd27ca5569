"""Memory that is full and devices that are lost, in trainings, while drawing, in other jobs, and in a studio.

The job ends with a line that says what to lower, or goes on without what it can do without; nothing half is
left, the device is free, and going on comes to the same. The studio's page answers all the time, and its next
job starts within seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.faults import memory_card, memory_drawing, memory_runs, memory_studio
from tests.faults.suites import Check, Suite

if TYPE_CHECKING:
    from pytest import MonkeyPatch


def _not_told(patch: MonkeyPatch) -> None:
    """Nobody recognises a full memory."""
    for module in ("trainers.memory", "studio.worker", "studio.maker", "trainers.looking"):
        patch.setattr(f"{module}.out_of_memory", lambda error: False)


def _not_explained(patch: MonkeyPatch) -> None:
    """Nothing is said of what to lower."""

    @contextmanager
    def explained(*_: Any) -> Iterator[None]:
        yield

    patch.setattr("trainers.memory.explained", explained)


def _measured_or_ended(patch: MonkeyPatch) -> None:
    from trainers.looking import Looks

    patch.setattr(Looks, "_measured", Looks._measure)


def _half_stays(patch: MonkeyPatch) -> None:
    """What a checkpoint has begun with isn't cleared away."""
    patch.setattr("trainers.checkpoint.shutil.rmtree", lambda *given, **more: None)


def _drawn_on(patch: MonkeyPatch) -> None:
    """A lost device isn't recognised."""
    patch.setattr("studio.maker.device_lost", lambda error: False)


def _without_a_word(patch: MonkeyPatch) -> None:
    """A worker whose job fails ends as Python does."""

    def ended_by(error: Exception, *_: Any) -> tuple[str, str, int]:
        raise error

    patch.setattr("studio.worker.ended_by", ended_by)


def _kept(patch: MonkeyPatch) -> None:
    """What has drawn keeps the device."""
    patch.setattr("studio.making.held.Device.give", lambda self: None)


def figure(figures: Mapping[str, Mapping[str, float]]) -> str:
    """How soon the next job begins."""
    seconds = figures.get("studio", {}).get("seconds until the next job starts")
    return f"the next job starts within {seconds:.1f} s" if seconds else ""


SUITE = Suite(
    title="memory that runs out and devices that fail",
    figure=figure,
    checks={
        "training": Check(
            title="out of memory in trainings", run=memory_runs.run_trainings, unit="faults", full=52,
            short=2, plants={
                "nothing says what to lower": _not_explained,
                "a full memory isn't recognised": _not_told,
                "half a checkpoint stays": _half_stays,
                "measuring may end a training": _measured_or_ended,
            },
        ),
        "drawing": Check(
            title="out of memory while drawing", run=memory_drawing.run, unit="faults", full=60, short=4,
            planted=8,
            plants={
                "a full memory isn't recognised": _not_told, "a lost device is drawn on with": _drawn_on,
            },
        ),
        "studio": Check(
            title="a studio whose jobs have no memory", run=memory_studio.run, unit="faults", full=12,
            short=0, planted=2,
            plants={
                "an error ends the process without a word": _without_a_word,
                "a lost device is drawn on with": _drawn_on,
                "the device isn't given back": _kept,
            },
        ),
        "card": Check(
            title="a card's memory afterwards", run=memory_card.run, unit="faults", full=6, short=0,
            planted=1, plants=memory_card.PLANTS, needs=memory_card.needs,
        ),
        "jobs": Check(
            title="out of memory in other jobs", run=memory_runs.run_others, unit="faults", full=16, short=2,
            plants={"a full memory isn't recognised": _not_told},
        ),
    },
)  # fmt: skip
