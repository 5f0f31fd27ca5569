"""Numbers that are none: NaN and infinity in what a training computes, keeps, reads, and in pictures.

A run stops at that step and says where it began; none is in any file that it leaves. The last sound
checkpoint stays and can be gone on from, to the same file as without the fault. A picture or a mix of such
numbers is said, not shown.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults import not_finite_drawing as drawing
from tests.faults import not_finite_sources as sources
from tests.faults.ground import ground
from tests.faults.not_finite_places import PLACES, put
from tests.faults.not_finite_runs import (
    BAD,
    EVERY,
    STEPS,
    VARIANTS,
    Run,
    config_in,
    in_one_line,
    step_said,
    undisturbed,
    unsound_files,
)
from tests.faults.suites import Check, Suite, Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

RESUMED = 3
"""Of so many faults one run is gone on with."""


def _cases(seed: int) -> Iterator[tuple[str, str, int, str]]:
    """(place, variant, step, number): every place in turn; at first with its own variant, then by chance."""
    chance, numbers = random.Random(seed), cycle(BAD)
    for place, row in PLACES.items():
        yield place, row.first, 2 * EVERY, next(numbers)
    for place in cycle(PLACES):
        row = PLACES[place]
        variant = row.first if row.only else chance.choice(sorted(VARIANTS))
        yield place, variant, chance.randint(1, STEPS), chance.choice(sorted(BAD))


def _learning(task: Task, tally: Tally) -> None:
    for number, case in enumerate(_cases(task.seed)):
        if tally.tried >= task.count or number >= 3 * task.count:
            return
        _one(task.folder / str(number), tally, *case, resumed=number % RESUMED == 0)


def _one(
    folder: Path, tally: Tally, place: str, variant: str, step: int, number: str, *, resumed: bool
) -> None:
    """Put one number into one run. resumed: whether it is gone on with."""
    with put(place, step, BAD[number]) as spoiled:
        run = Run.of(config_in(folder, **VARIANTS[variant]))
    if not spoiled.happened:
        tally.didnt_happen()
        return
    scaled = place == "a gradient" and variant == "fp16"  # as scaling makes them too: the step is left out
    problem = _survived(run) if scaled else _stopped(run, place, step)
    if problem is None and not scaled:
        assert run.error is not None
        late = step_said(run.error) - step
        which = "stopped later" if late else "stopped at the step"
        tally.figures[which] = tally.figures.get(which, 0) + 1
        tally.figures["steps late at most"] = max(late, tally.figures.get("steps late at most", 0))
    if problem is None and PLACES[place].before and (changed := spoiled.changed()):
        problem = f"the step was taken: {changed[0]} is another than before it"
    if problem is None and (saved := unsound_files(folder, ground() / "cache")):
        problem = f"saved all the same: {saved[0]}"
    if problem is None and resumed and not scaled:
        problem = _goes_on(run, variant)
    tally.happened(f"{number} in {place} at step {step} ({variant})", problem)


def _survived(run: Run) -> str | None:
    """What is wrong with a run that leaves a step out, and says so."""
    if run.error is not None:
        return f"it ended: {run.error}"
    said = any("step left out" in warning for warning in run.warnings)
    return None if said else "no warning says that a step was left out"


def _stopped(run: Run, place: str, step: int) -> str | None:
    """What is wrong with a run that was to stop at a step; None: nothing."""
    if (odd := in_one_line(run.error)) is not None:
        return odd
    assert run.error is not None
    row, at = PLACES[place], step_said(run.error)
    if not step <= at <= step + row.late:
        return f"it stopped at step {at}: {run.error}"
    if "first in" not in str(run.error):
        return f"it doesn't say where it began: {run.error}"
    if run.step >= at:
        return f"step {run.step} was told as taken, and it stopped at {at}"
    if (run.folder / "adapter.safetensors").exists():
        return "an adapter was written"
    kept = [path.name for path in sorted((run.folder / "checkpoints").glob("step-*"))]
    last = (at - 1) // EVERY * EVERY
    if kept[-1:] != ([f"step-{last:06d}"] if last else []):
        return f"checkpoints {kept} are there, that of step {last} was to be the last"
    if row.before and step > 1 and not _last_finite(run.folder, step - 1):
        return f"the adapter of step {step - 1} wasn't kept"
    return None


def _last_finite(folder: Path, step: int) -> bool:
    """Whether the adapter of a step lies there."""
    from pipelines.formats import read_adapter
    from trainers.run_folder import LAST_FINITE

    path = folder / LAST_FINITE
    return path.is_file() and read_adapter(path).metadata.get("steps") == str(step)


def _goes_on(run: Run, variant: str) -> str | None:
    """What is wrong with going on where the fault doesn't come again; None: it ends as undisturbed."""
    again = Run.of(run.config)
    if again.error is not None:
        return f"can't be gone on with: {again.error}"
    return None if again.sha256 == undisturbed(variant) else "gone on with it comes to another adapter"


# ── Safeguards


def _told_as_sound(patch: MonkeyPatch) -> None:
    from trainers.stepping.readings import Reading

    patch.setattr(Reading, "finite", True)


def _saved_unseen(patch: MonkeyPatch) -> None:
    from trainers.state import RunState

    patch.setattr(RunState, "unsound", lambda self: None)


def _taken_all_the_same(patch: MonkeyPatch) -> None:
    """The step is taken whatever its loss and its gradients are."""
    import torch

    from trainers.stepping import Stepper

    def take(self: Stepper, kind: Any, inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        norm = torch.nn.utils.clip_grad_norm_(self.gradients.parameters, self._max_norm)
        self._optimizer.step()
        return {"norm": norm}

    patch.setattr(Stepper, "_take", take)


def _unguarded(patch: MonkeyPatch) -> None:
    """Optimizers that are told on the host step by a loss that is none."""
    from trainers.precision import Precision

    real: Callable[..., Any] = Precision.step
    patch.setattr(Precision, "step", lambda self, *given: real(self, *given[:3]))


def figure(figures: Mapping[str, Mapping[str, float]]) -> str:
    """When trainings stopped; what an update leaves behind is looked at one or two steps later."""
    learning = figures.get("learning", {})
    there, after = learning.get("stopped at the step", 0), learning.get("stopped later", 0)
    late = learning.get("steps late at most", 0)
    said = f"{there:.0f} trainings stopped at that step, {after:.0f} at most {late:.0f} later"
    return said if there else ""


SUITE = Suite(
    title="NaN and infinity in trainings and pictures",
    figure=figure,
    checks={
        "learning": Check(
            title="NaN or infinity in a step", run=_learning, unit="faults", full=150, short=3,
            plants={
                "broken losses count as sound": _told_as_sound,
                "saved without a look": _saved_unseen,
                "the step is taken all the same": _taken_all_the_same,
                "a loss alone stops no step": _unguarded,
            },
        ),
        "sources": Check(
            title="NaN in the cache and in bases", run=sources.run, unit="faults", full=24, short=2,
            plants=sources.PLANTS,
        ),
        "drawing": Check(
            title="NaN in pictures and mixes", run=drawing.run, unit="faults", full=69, short=2,
            plants=drawing.PLANTS,
        ),
    },
)  # fmt: skip
