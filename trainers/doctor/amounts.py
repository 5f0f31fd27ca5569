"""Checks of how many pictures there are, for what is taught and for how long."""

from __future__ import annotations

from collections.abc import Iterator

from trainers.config import RunConfig
from trainers.doctor.case import Case, Finding

FEW = {"subject": 4, "style": 8}
MANY = {"subject": 60, "style": 1000}
"""Pictures of a kind below which little is learned, and above which they are hardly all of one thing."""
SEEN_FEW, SEEN_MANY = 10, 1000
"""How often each picture is seen in a run: below, it isn't learned; above, it is learned by heart."""


def too_few(case: Case) -> Iterator[Finding]:
    """Find that there are too few pictures for the kind, or for the length of the run."""
    count, kind = _learned(case), case.data.kind
    if count < FEW[kind]:
        yield Finding(
            "too_few",
            "",
            f"{count} picture{'s'[: count > 1]} to learn a {kind} from, expected at least {FEW[kind]}",
            "add some that show it differently" + (", or hold out fewer" if count < len(case.looks) else ""),
        )
    seen = _seen(case, count)
    if case.run is not None and seen > SEEN_MANY:
        steps = max(1, SEEN_MANY * count // _per_step(case.run))
        yield Finding(
            "too_few",
            "",
            f"{_of(count)} is seen {seen:.0f} times in {case.run.steps} steps: learned by heart",
            f"add pictures, or lower run.steps to {steps}",
        )


def too_many(case: Case) -> Iterator[Finding]:
    """Find that there are too many pictures for the kind, or for the length of the run."""
    count, kind = _learned(case), case.data.kind
    if count > MANY[kind]:
        yield Finding(
            "too_many",
            "",
            f"{count} pictures to learn a {kind} from, expected at most {MANY[kind]}",
            "keep the best ones: a few good pictures teach more than many alike",
        )
    seen = _seen(case, count)
    if case.run is not None and seen < SEEN_FEW:
        steps = -(-SEEN_FEW * count // _per_step(case.run))
        yield Finding(
            "too_many",
            "",
            f"{_of(count)} is seen {seen:.1f} times only in {case.run.steps} steps",
            f"raise run.steps to {steps}, or take pictures out",
        )


def _learned(case: Case) -> int:
    return sum(not one.held_out for one in case.looks) + case.unseen


def _seen(case: Case, count: int) -> float:
    """How often a picture is seen in the run; repeats change which, not how many in all."""
    return case.run.steps * _per_step(case.run) / count if case.run is not None else float(SEEN_FEW)


def _per_step(run: RunConfig) -> int:
    return run.batch_size * run.accumulate


def _of(count: int) -> str:
    return "the one picture" if count == 1 else f"each of {count} pictures"
