"""What a fault suite is: checks that do harm and look what is left, and safeguards that can be switched off.

A check makes faults happen, `Task.count` of them, and tells of each to a `Tally`: whether it was survived. A
fault that didn't happen (the process had ended before its kill) counts for nothing, and a check that can't
make as many as it should has failed. Each check names the safeguards that it stands guard over: plants, which
take one away by patching our code, here or in the processes that are started (`environment`). With any of its
plants a check must fail; `tests/faults/__main__.py` runs both.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest import MonkeyPatch

ROOT = Path(__file__).resolve().parents[2]
SUITES = (
    "kills", "power_cut", "disk_full", "memory", "not_finite",
    "pictures", "model_files", "access", "load", "long_run",
)  # fmt: skip
"""Each is the module of its name in this package, whose `SUITE` is a Suite."""
KEPT = 20  # failures whose words are kept
PLANT = "PIGMENT_TEST_PLANT"
"""The variable by which a child process learns of a plant: "suite/check/plant"."""

Plant = Callable[["MonkeyPatch"], None]
"""Takes one safeguard away by patching our code."""


@dataclass(frozen=True)
class Task:
    """What a check is to do.

    Attributes:
        folder: empty, for whatever it writes.
        count: faults to make happen, in the check's unit.
        seed: of all that is left to chance.
        whole: whether figures that depend on the machine's speed are held to their limits; a short form on a
            busy machine doesn't.
        plant: "suite/check/plant" that is taken away; empty: nothing is. A check doesn't look at it; it only
            hands it on to the processes that it starts (`environment`).
    """

    folder: Path
    count: int
    seed: int = 0
    whole: bool = False
    plant: str = ""

    def environment(self, **more: str) -> dict[str, str]:
        """Variables for a Python process of ours, in which the same safeguard is missing as here."""
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}
        env.pop(PLANT, None)
        if self.plant:
            paths = [str(ROOT / "tests" / "faults" / "seam"), str(ROOT), env.get("PYTHONPATH", "")]
            env |= {PLANT: self.plant, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        return env


@dataclass
class Tally:
    """What came of a check.

    Attributes:
        tried, survived: faults that happened, and after how many all was as it should be.
        missed: faults that were meant to happen and didn't.
        failures: one line for each of the first that weren't survived, or of a limit passed.
        figures: what was measured, by name.
    """

    tried: int = 0
    survived: int = 0
    missed: int = 0
    failures: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def happened(self, what: str, problem: str | None) -> None:
        """Count a fault. what: the fault. problem: what wasn't as it should be afterwards; None: nothing."""
        self.tried += 1
        if problem is None:
            self.survived += 1
        elif len(self.failures) < KEPT:
            self.failures.append(f"{what}: {problem}")

    def didnt_happen(self) -> None:
        """Count a fault that was meant to happen and didn't."""
        self.missed += 1

    def measured(self, name: str, value: float, *, most: float = math.inf, held: bool = True) -> None:
        """Keep a figure; more than `most` is a failure where it is `held` (see `Task.whole`)."""
        self.figures[name] = value
        if held and not value <= most:
            self.failures.append(f"{name} is {value:.4g}, at most {most:.4g} wanted")

    def passed(self, least: int) -> bool:
        """Whether at least so many faults happened, all were survived, and no limit was passed."""
        return self.tried >= max(1, least) and self.survived == self.tried and not self.failures


@dataclass(frozen=True, kw_only=True)
class Check:
    """One kind of fault.

    Attributes:
        title: what happens, in a few words.
        run: makes it happen and tells the tally.
        unit: what `full` and `short` count: "kills", "files"; "seconds" and the like of what lasts, where the
            tally counts something else and is only held to have anything at all.
        full, short: how many `make test-faults` makes happen, and how many the suite of tests.
        plants: safeguards by name, each of which taken away alone must make the check fail.
        planted: how many are made to happen with a plant; 0: as many as `short`.
        needs: None where it can run here, else the reason why not (a program, a right that is missing).
    """

    title: str
    run: Callable[[Task, Tally], None]
    unit: str
    full: int
    short: int
    plants: Mapping[str, Plant]
    planted: int = 0
    needs: Callable[[], str | None] = lambda: None

    def least(self, count: int) -> int:
        """How many faults must have happened where `count` were asked for."""
        return 1 if self.unit in ("seconds", "jobs", "minutes") else count


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Checks of one subject, by name. figure: the suite's figure in words, from all its checks' figures."""

    title: str
    checks: Mapping[str, Check]
    figure: Callable[[Mapping[str, Mapping[str, float]]], str] = lambda figures: ""


def suite(name: str) -> Suite:
    """The suite of that name."""
    found = import_module(f"tests.faults.{name}").SUITE
    assert isinstance(found, Suite)
    return found


def take_away(plant: str, patch: MonkeyPatch) -> None:
    """Switch a safeguard off. plant: "suite/check/plant"."""
    name, check, which = plant.split("/")
    suite(name).checks[check].plants[which](patch)


def take_away_here() -> None:
    """Switch off what the environment says, while this process lives; for `seam/sitecustomize.py`."""
    if plant := os.environ.get(PLANT):
        from pytest import MonkeyPatch

        print(f"test: without the safeguard {plant}", file=sys.stderr)
        take_away(plant, MonkeyPatch())
