"""What was told as done while a folder was watched, and whether it still is after a power cut."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.power_cut_disk import WAYS, Cut, Disk
from tests.faults.suites import Tally, Task

Held = Callable[[Any], str | None]
"""Looks at what a cut has left, as the studio would: what is wrong, or None."""


@dataclass(eq=False)
class Promises:
    """What was told, in order.

    opened: opens the folder that a cut has left; what it gives is what is looked at. always: what holds
    whenever the power goes.
    """

    disk: Disk
    always: Held
    opened: Callable[[Path], AbstractContextManager[Any]] = nullcontext
    _given: list[tuple[str, Held | None]] = field(default_factory=list)

    def give(self, about: str, held: Held | None) -> None:
        """Something was told as done; what was told before about the same holds no longer. None: something
        is about to change it."""
        self._given.append((about, held))
        self.disk.told = len(self._given)
        self.disk.look()
        self.disk.cut(f"when {about} was told" if held else f"before {about} changes")

    def problem(self, cut: Cut, left: Path) -> str | None:
        """What of that which was told until a cut isn't so in what it left."""
        told = dict(self._given[: cut.told])
        try:
            with self.opened(left) as found:
                for about, held in {**told, "whatever is shown": self.always}.items():
                    if held is not None and (problem := _asked(held, found)) is not None:
                        return f"{about}: {problem}"
        except Exception as error:
            return f"it doesn't open: {type(error).__name__}: {str(error)[:300]}"
        return None


def _asked(held: Held, found: Any) -> str | None:
    try:
        return held(found)
    except Exception as error:  # whatever a reader stumbles over was lost
        return f"{type(error).__name__}: {str(error)[:300]}"


def replay(task: Task, tally: Tally, disk: Disk, promises: Promises, more: Held | None = None) -> None:
    """Cut the power `task.count` times: after all that was told, then wherever chance says, nowhere twice.

    more: a longer look at some of them, every twelfth.
    """
    chance = random.Random(task.seed)
    strict = [(cut, way) for cut in disk.cuts if cut.what.startswith("when") for way in WAYS[:2]]
    chosen = strict if len(strict) <= task.count // 2 else chance.sample(strict, task.count // 2)
    others = [(cut, way) for cut in disk.cuts for way in WAYS]
    chosen += chance.sample(others, min(len(others), task.count - len(chosen)))
    for number, (cut, way) in enumerate(chosen):
        left = task.folder / f"left-{number}" / disk.root.name
        cut.leave(left, way, random.Random(task.seed * 100_003 + number))
        problem = promises.problem(cut, left)
        if problem is None and more is not None and number % 12 == 0:
            problem = _asked(more, left)
        tally.happened(f"power cut {cut.what}, {way} kept", problem)
        shutil.rmtree(left.parent)
    tally.measured("moments", len(disk.cuts))
