"""One thing that the studio does, killed on the way: opened again, looked at, done again, and swept."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.killing import Ended, Kill, Tell, each_call, forked, moments
from tests.faults.kills_looks import Shown, amiss, orphans, shape, shown
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from studio.workspace import Workspace

DAY = 86400.0
IMPORTED = (
    "psutil",
    "PIL.WebPImagePlugin",
    "studio.context",
    "studio.worker",
    "studio.dropping",
    "studio.importing",
    "studio.amending",
    "studio.work.adding",
    "studio.work.exporting",
    "studio.work.training",
    "studio.work.class_pictures",
    "studio.decoding",
    "trainers.images",
    "pipelines.export",
)
"""What the forks use: imported once, before the first of them."""


@dataclass(frozen=True)
class Way:
    """Something that the studio does.

    Attributes:
        once: imports and makes what all forks share, before the first of them.
        ready: fills a new workspace with what it takes.
        do: does it, or what is left of it, in an opened workspace; calls its second argument after each part
            of which people have been told that it is done.
    """

    once: Callable[[], object]
    ready: Callable[[Workspace], None]
    do: Callable[[Workspace, Callable[[], None]], None]


def studio_opened(root: Path) -> Workspace:
    """Open a workspace as the server does when it starts."""
    from studio.jobs import Jobs
    from studio.work import keeping
    from studio.workspace import Workspace

    workspace = Workspace.open(root)
    keeping.sweep(workspace)
    Jobs(workspace).recover()
    return workspace


def make_ready(way: Way, root: Path, tell: Tell) -> None:
    """Fill a new workspace."""
    workspace = studio_opened(root)
    way.ready(workspace)
    workspace.close()


def do_it(way: Way, root: Path, tell: Tell) -> None:
    """Do it, telling all that is shown after each part."""
    workspace = studio_opened(root)
    way.do(workspace, lambda: tell(shown(workspace)))
    workspace.close()


def aftermath(
    way: Way, root: Path, told: Shown, coming: Shown, whole: Shown | None, tell: Tell
) -> dict[str, Any]:
    """Open a workspace after a kill, look, do the rest, look, and sweep a month later.

    told: what was shown when it last told of something. coming: what it would have told next. whole: what is
    shown where nothing happened; None: this is such a workspace. Returns: "problem" (or None), what is
    "shown" and the "shape" of the files.
    """
    workspace = studio_opened(root)
    problem = amiss(workspace)
    here = shown(workspace)
    lost = sorted(name for name, value in told.items() if here.get(name) not in (value, coming.get(name)))
    if problem is None and lost:
        problem = f"{lost[0]} was told to be {told[lost[0]][:80]!r} and is {here.get(lost[0], 'gone')[:80]!r}"
    if problem is None:
        try:
            way.do(workspace, lambda: None)
        except Exception as error:
            problem = f"it can't be done again: {type(error).__name__}: {str(error)[:300]}"
    problem = problem or amiss(workspace)
    here = shown(workspace)
    if problem is None and whole is not None and here != whole:
        name = sorted(one for one in {*here, *whole} if here.get(one) != whole.get(one))[0]
        ours, other = (found.get(name, "missing")[:90] for found in (here, whole))
        problem = f"done again, {name} is {ours!r}, without the kill {other!r}"
    sweep_later(workspace)
    problem = problem or amiss(workspace)
    workspace.close()
    return {"problem": problem, "shown": here, "shape": dict(shape(root))}


def sweep_later(workspace: Workspace) -> None:
    """Start the server in two days and in six weeks."""
    from studio.work import keeping

    now = time.time
    for days in (2, 42):
        time.time = lambda days=days: now() + days * DAY  # type: ignore[misc]
        keeping.sweep(workspace)
        time.time = now


# ── Doing harm


@dataclass(eq=False)
class Killing:
    """A way, done whole once and then killed as often as wanted. folder: for its workspaces."""

    way: Way
    folder: Path
    name: str
    runs: int = 0

    def begin(self) -> None:
        """Do it whole."""
        for name in IMPORTED:
            import_module(name)
        self.way.once()
        made = forked(partial(make_ready, self.way, self.folder / "ready"))
        assert not made.failed, made.failed
        self.whole: Ended = forked(partial(do_it, self.way, self._copy("whole")))
        assert self.whole.calls, self.whole.failed
        after = forked(partial(aftermath, self.way, self.folder / "whole", {}, {}, None))
        assert after.answer is not None, after.failed
        assert after.answer["problem"] is None, after.answer["problem"]
        self.shown: Shown = after.answer["shown"]
        self.shape: dict[str, int] = after.answer["shape"]

    def _copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.folder / "ready", self.folder / name, symlinks=True))

    def kill(self, kill: Kill, tally: Tally) -> None:
        """Kill it in a workspace of its own, and look at all it left."""
        self.runs += 1
        root = self._copy(f"run-{self.runs}")
        ended = forked(partial(do_it, self.way, root), kill)
        if ended.killed:
            problem = orphans(root) or self._problem(root, ended)
            tally.happened(f"{self.name}, {self._said(kill)}", problem)
        else:
            tally.didnt_happen()
            if ended.failed:
                tally.happened(f"{self.name}, {kill}", ended.failed)
        shutil.rmtree(root, ignore_errors=True)

    def _said(self, kill: Kill) -> str:
        return f"{kill} ({self.whole.calls[kill.at - 1].name})" if kill.at else str(kill)

    def _problem(self, root: Path, ended: Ended) -> str | None:
        told: Shown = ended.told[-1] if ended.told else {}
        coming: Shown = (self.whole.told[len(ended.told) :] or [{}])[0]
        after = forked(partial(aftermath, self.way, root, told, coming, self.shown))
        if after.answer is None:
            return after.failed or "what looks at it was killed"
        if after.answer["problem"] is not None:
            return str(after.answer["problem"])
        more = Counter(after.answer["shape"])
        more.subtract(self.shape)
        odd = sorted((name, count) for name, count in more.items() if count)
        return None if not odd else f"six weeks later {odd[0][1]:+d} files {odd[0][0]} (of {len(odd)} such)"


def check_of(**ways: Way) -> Callable[[Task, Tally], None]:
    """A check that kills these ways in turn: three of four times at a call, else at random."""

    def run(task: Task, tally: Tally) -> None:
        chance = random.Random(task.seed)
        share = -(-task.count // len(ways))
        for name, way in ways.items():
            one = Killing(way, task.folder / name, name)
            one.begin()
            goal = min(tally.tried + share, task.count)
            for kill in _kills(one.whole, share, chance):
                if tally.tried >= goal:
                    break
                one.kill(kill, tally)
            tally.measured(f"calls of {name}", len(one.whole.calls))
            shutil.rmtree(one.folder, ignore_errors=True)

    return run


def _kills(whole: Ended, count: int, chance: random.Random) -> Iterator[Kill]:
    at_calls = min(len(whole.calls), -(-3 * count // 4))
    for number, kill in enumerate(each_call(whole, at_calls, chance)):
        if number == at_calls:
            break
        yield kill
    yield from moments(whole, count, chance)
