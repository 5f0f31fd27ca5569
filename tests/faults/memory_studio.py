"""A real studio whose processes run out of memory: its page answers, and its next job starts soon."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.ground import ground
from tests.faults.memory_places import DRAWING, FAULT, LOST, TRAINING, wrong_words
from tests.faults.memory_runs import Bench
from tests.faults.not_finite_drawing import SETTINGS
from tests.faults.suites import ROOT, Tally, Task

if TYPE_CHECKING:
    from studio.jobs import Job

START, ANSWER, END = 120.0, 30.0, 300.0  # seconds for the studio to start, a page to answer, a job to end
SOON = 10.0  # seconds until the next job starts, and until what has failed has let go
CASES = (
    ("train", "a step", "MemoryError"),
    ("generate", "the UNet", LOST),
    ("train", "the base", "CUDA out of memory"),
    ("generate", "the decoder", "no memory on the CPU"),
    ("train", "a checkpoint", LOST),
    ("generate", "the mix", "CUDA out of memory"),
    ("train", "an update", "no memory on the CPU"),
    ("generate", "the picture's file", "MemoryError"),
    ("train", "the library", "MemoryError"),
    ("train", "a preview", "CUDA out of memory"),
)
"""(kind of job, place, error)"""


@dataclass
class Page:
    """Looks at the page all the time. slowest: seconds that an answer took. refused: what wasn't a page."""

    address: str
    slowest: float = 0.0
    refused: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Ask for the page until `end`."""
        while not self._ended.wait(0.5):
            began = time.monotonic()
            try:
                with urllib.request.urlopen(self.address, timeout=ANSWER) as answer:
                    if answer.status != 200:
                        self.refused.append(f"answered {answer.status}")
            except (OSError, urllib.error.URLError) as error:
                self.refused.append(str(error))
            self.slowest = max(self.slowest, time.monotonic() - began)

    @contextmanager
    def looked_at(self) -> Iterator[Page]:
        """Look while this lasts."""
        thread = threading.Thread(target=self.look, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join(ANSWER)


@contextmanager
def _studio(task: Task, root: Path, fault: Path) -> Iterator[str]:
    """A studio in a process of its own; its address."""
    command = [sys.executable, "-m", "tests.faults.memory_child", "studio", "--port", "0"]
    command += ["--workspace", str(root), "--base", str(ground() / "base")]
    environment = task.environment(**{FAULT: str(fault), "PYTHONUNBUFFERED": "1"})
    with (
        (task.folder / "studio.log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=ROOT)
        as process,
    ):  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Pigment is at http"), (task.folder / "studio.log").read_text()[-1000:]
        try:
            yield line.split()[3]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _until(true: Callable[[], bool], seconds: float) -> float | None:
    """Seconds until something is true; None where it isn't in time."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(0.05)
    return time.monotonic() - began


def run(task: Task, tally: Tally) -> None:
    """One job after the other fails, and each time the next one is done."""
    root, fault = task.folder / "workspace", task.folder / "fault"
    with _studio(task, root, fault) as address, bench_of(root) as bench, Page(address).looked_at() as page:
        slowest = 0.0
        for (kind, name, error), _ in zip(cycle(CASES), range(2 * task.count), strict=False):
            if tally.tried >= task.count:
                break
            fault.write_text(f"{name}|{error}", encoding="utf-8")
            problem, seconds = _one(bench, kind, name, error, held=task.whole)
            if fault.exists():
                fault.unlink()
                tally.didnt_happen()
                continue
            if page.refused:
                problem = problem or f"the page: {page.refused.pop()}"
            slowest = max(slowest, seconds)
            tally.happened(f"{error} in {name} of a job of kind {kind}", problem)
    tally.measured("seconds until the next job starts", slowest, most=SOON, held=task.whole)
    tally.measured("seconds that a page took", page.slowest)


@contextmanager
def bench_of(root: Path) -> Iterator[Bench]:
    """The workspace of a studio that runs."""
    from studio.workspace import Workspace

    yield Bench(Workspace.open(root, own=False))


def _one(bench: Bench, kind: str, name: str, error: str, *, held: bool) -> tuple[str | None, float]:
    """(what is wrong after one fault, or None; seconds until the next job started)."""
    place = (TRAINING if kind == "train" else DRAWING)[name]
    job, pid = _followed(bench, bench.training() if kind == "train" else _drawing(bench))
    if place.goes_on:
        problem = None if job.state == "done" else f"it is {job.state}: {job.error}"
    elif job.state != "failed":
        problem = f"it is {job.state}: {job.error}"
    else:
        problem = wrong_words(job.error, place, error)
    if (kind == "train" or error == LOST) and not _gone(pid):
        problem = problem or "its process is still there"
    if _until(lambda: bench.held() is None, SOON) is None:
        problem = problem or "the device is still held"
    elif kind == "train" and bench.litter(job):
        problem = problem or bench.litter(job)
    following = _drawing(bench)
    seconds = _until(lambda: bench.jobs.get(following.id).state != "queued", END)
    following, _ = _followed(bench, following)
    if following.state != "done":
        problem = problem or f"the next job is {following.state}: {following.error}"
    if _until(lambda: bench.held() is None, SOON) is None:
        problem = problem or "the device is still held after the next job"
    return problem, END if seconds is None else seconds


def _gone(pid: int) -> bool:
    """Whether a process ends soon."""
    from studio import processes

    return _until(lambda: not processes.alive(pid, None), SOON) is not None


def _drawing(bench: Bench) -> Job:
    """Queue a picture."""
    from studio import mixing

    request = mixing.read_request({"generation": SETTINGS}).model_dump(mode="json")
    return bench.jobs.submit("generate", "a zuv disc", {**request, "base": str(ground() / "base")})


def _followed(bench: Bench, job: Job) -> tuple[Job, int]:
    """A job at its end, and the process that it had."""
    pids = [0]

    def ended() -> bool:
        found = bench.jobs.get(job.id)
        pids[0] = found.pid or pids[0]
        return not found.active

    _until(ended, END)
    return bench.jobs.get(job.id), pids[0]
