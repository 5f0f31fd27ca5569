"""A second studio on one workspace: beside the first, after its end by SIGKILL, and while it dies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]

from tests.faults.load_server import Studio, end_server, start_server
from tests.faults.suites import Check, Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

LOCKS = Path("/proc/locks")
PATIENCE = 60.0  # seconds until a process has taken the workspace, or given up
CHILDREN = 10.0  # seconds that the drawing process of a killed server may outlive it
DRAWING = 40.0  # seconds until a server has one
LINGER = 3.0  # seconds that a server lives at most before it is killed


@dataclass
class Contest:
    """Studios that want the same workspace.

    Attributes:
        owner: the one that has it. started: how many were begun.
    """

    task: Task
    workspace: Path
    chance: random.Random
    owner: Studio | None = None
    started: int = 0
    everyone: list[Studio] = field(default_factory=list)

    def start(self) -> Studio:
        """Begin another studio."""
        self.started += 1
        self.everyone.append(start_server(self.task, self.workspace, name=f"server-{self.started}"))
        return self.everyone[-1]

    def holder(self) -> int:
        """The process that holds the workspace, as the system says; 0: none does.

        Trying to lock it would tell as well, but keep others out meanwhile.
        """
        lock = self.workspace / "workspace.lock"
        if not lock.is_file():
            return 0
        inode = str(lock.stat().st_ino)
        for line in LOCKS.read_text(encoding="ascii").splitlines():
            _, kind, *_, pid, place = line.split()[:6]
            if kind == "FLOCK" and place.rpartition(":")[2] == inode:  # who only waits has an arrow there
                return int(pid)
        return 0

    def decided(self, *studios: Studio) -> list[Studio]:
        """Wait until each has the workspace or has given up; returns those that live."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            living = [one for one in studios if one.popen.poll() is None]
            if not living or (len(living) == 1 and self._open(living[0])):
                return living
            if all(self._open(one) for one in living):
                return living  # two have it
            time.sleep(0.02)
        return [one for one in studios if one.popen.poll() is None]

    def _open(self, studio: Studio) -> bool:
        """Whether it has got past the workspace's door."""
        return self.holder() == studio.popen.pid or "Pigment is at" in studio.words()

    def end(self) -> None:
        """End them all."""
        for one in self.everyone:
            if one.popen.poll() is None:
                end_server(one, signal.SIGKILL)


def _beside(contest: Contest) -> str | None:
    """Two more beside one that lives: both say who has it, and leave it alone."""
    assert contest.owner is not None
    others = [contest.start(), contest.start()]
    if living := contest.decided(*others):
        return f"{len(living)} more opened the workspace of process {contest.owner.popen.pid}"
    for one in others:
        expected = f"in use by process {contest.owner.popen.pid}"
        if one.popen.returncode == 0 or expected not in one.words() or "Traceback" in one.words():
            return f"ended with {one.popen.returncode}, said {one.words()[-200:]!r}"
    return None if contest.owner.popen.poll() is None else "the first one ended"


def _after_its_end(contest: Contest) -> str | None:
    """One is killed; the next has the workspace, and what the first had started is gone."""
    children = _killed(contest)
    living = contest.decided(fresh := contest.start())
    if not living or contest.holder() != fresh.popen.pid:
        return f"nobody could open the workspace of one that was killed: {fresh.words()[-200:]!r}"
    contest.owner = fresh
    return _gone(children)


def _while_it_dies(contest: Contest) -> str | None:
    """Two come while the first is being killed: one of them has the workspace, or the next one."""
    others = [contest.start(), contest.start()]
    time.sleep(contest.chance.uniform(0, 1.2))
    children = _killed(contest, linger=0)
    living = contest.decided(*others)
    if len(living) > 1:
        return "two have opened the workspace"
    if not living:  # both came before its end
        living = contest.decided(contest.start())
    if len(living) != 1 or contest.holder() != living[0].popen.pid:
        return f"{len(living)} live, process {contest.holder()} has the workspace"
    contest.owner = living[0]
    return _gone(children)


def _killed(contest: Contest, linger: float = LINGER) -> list[psutil.Process]:
    """Kill the owner after a random while; returns its children. Asserts that it lived until then."""
    owner = contest.owner
    assert owner is not None
    if contest.started == 3:  # the first of them is killed when it has begun everything
        end = time.monotonic() + DRAWING
        while not owner.children() and time.monotonic() < end:
            time.sleep(0.05)
    time.sleep(contest.chance.uniform(0, linger))
    with suppress(psutil.NoSuchProcess):
        children = owner.children()
        os.kill(owner.popen.pid, signal.SIGKILL)
        if owner.popen.wait(PATIENCE) == -signal.SIGKILL:
            return children
    raise RuntimeError(f"the owner had ended before: {owner.words()[-300:]}")


def _gone(children: list[psutil.Process]) -> str | None:
    """None once children of one that was killed are gone, or what is left."""
    _, left = psutil.wait_procs(children, timeout=CHILDREN)
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    return f"{len(left)} of its processes outlived it" if left else None


TRIALS: tuple[tuple[str, int, Callable[[Contest], str | None]], ...] = (
    ("beside a living one", 2, _beside),
    ("killed before", 1, _after_its_end),
    ("while it dies", 2, _while_it_dies),
)
"""What is tried, the starts that it counts for, and how."""


def run(task: Task, tally: Tally) -> None:
    """Start `task.count` second studios."""
    contest = Contest(task, task.folder / "workspace", random.Random(task.seed))
    try:
        contest.owner = contest.start()
        if contest.decided(contest.owner) != [contest.owner]:
            tally.failures.append(f"the first one didn't open: {contest.owner.words()[-300:]}")
            return
        number = 0
        while tally.tried < task.count and len(tally.failures) < 3:
            name, starts, trial = TRIALS[number % len(TRIALS)]
            problem = trial(contest)
            for _ in range(starts):
                tally.happened(f"trial {number}, {name}", problem)
            if problem:
                break  # who has it now, nobody knows
            number += 1
    finally:
        contest.end()


# ── Safeguards


def _no_lock(patch: MonkeyPatch) -> None:
    """Whoever comes gets the lock."""
    from studio import locks

    patch.setattr(locks, "_lock", lambda fd: True)


def _lock_by_file(patch: MonkeyPatch) -> None:
    """A file that is there is a lock, as in tools that ask people to remove it by hand."""
    from studio import locks

    def acquire(self: locks.FileLock, *, note: str = "") -> bool:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        self._fd = fd
        os.write(fd, json.dumps({"pid": os.getpid(), "note": note}).encode())
        return True

    patch.setattr(locks.FileLock, "acquire", acquire)


def _outlives(patch: MonkeyPatch) -> None:
    """The drawing process doesn't end with the server that started it."""
    from studio import processes

    spawn = processes.spawn

    def spawned(module: str, *arguments: str, output: Path, **pipes: Any) -> Any:
        if pipes.get("stdin") == subprocess.PIPE:  # its other end stays open elsewhere
            reading, writing = os.pipe()
            os.set_inheritable(writing, True)
            pipes |= {"stdin": reading, "pass_fds": (writing,)}
            process = spawn(module, *arguments, output=output, **pipes)
            process.stdin = os.fdopen(writing, "wb")
            return process
        return spawn(module, *arguments, output=output, **pipes)

    patch.setattr(processes, "spawn", spawned)


def _needs() -> str | None:
    return None if LOCKS.is_file() else "the system doesn't say who holds a lock"


OWNERS_CHECK = Check(
    title="second studios on one workspace", run=run, unit="starts", full=50, short=0, planted=4,
    needs=_needs,
    plants={
        "one has the lock": _no_lock,
        "the system drops the lock": _lock_by_file,
        "the drawing process ends with its server": _outlives,
    },
)  # fmt: skip
