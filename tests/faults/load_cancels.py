"""Jobs stopped at any moment: their process goes, and all that it started, and the next one begins."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]

from tests.faults.suites import Check, Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

    from studio.context import Context
    from studio.jobs import Job

LIMIT = 10.0  # seconds from the wish to stop until the process is gone, and from then until the next job's
LOOSE = 30.0  # the same on a machine that does other things as well
BEGINS = 120.0  # seconds until a job's process is there, or a job takes its first step
DRAWN = 5  # every so manieth job is a drawing


@dataclass
class Queue:
    """A queue whose jobs are stopped.

    Attributes:
        ready: seconds from a training's process to its first step, as measured.
        waits: seconds until processes were gone, and until the next one was there, the longest of each.
    """

    context: Context
    chance: random.Random
    pictures: Path
    limit: float
    ready: float = 8.0
    waits: dict[str, float] = field(default_factory=dict)

    def teach(self) -> Job:
        """Queue a training that lasts."""
        from studio.workspace import new_id

        job_id, root = new_id(), self.context.workspace
        config: dict[str, Any] = {
            "data": {
                "instance_images": str(self.pictures), "trigger": "zuv", "prior_weight": 0,
                "instance_prompt": "a photo of a zuv disc",
            },
            "adapter": {"rank": 2},
            "run": {
                "output": str(root.folder("runs", job_id)), "cache": str(root.folder("cache")),
                "base": self.context.base, "steps": 50_000, "batch_size": 1, "threads": 1,
                "checkpoint_every": 50_000, "preview_every": 0,
            },
        }  # fmt: skip
        return self.context.jobs.submit("train", "zuv", config, id=job_id)

    def draw(self) -> Job:
        """Queue a drawing that lasts."""
        from studio import mixing

        asked = mixing.generation_config(prompt="a disc", seed=1, num_images=16, num_inference_steps=500)
        return mixing.start(self.context, mixing.Request(generation=asked))

    def running(self, job: Job) -> Job:
        """The job once a process has it. Raises: RuntimeError: none comes."""
        end = time.monotonic() + BEGINS
        while time.monotonic() < end:
            found = self.context.jobs.get(job.id)
            if found.state == "running":
                return found
            time.sleep(0.02)
        raise RuntimeError(f"job {job.id} doesn't begin: {found.state}, {found.error}")

    def longest(self, name: str, seconds: float) -> None:
        """Keep a time, where it is the longest of its name."""
        self.waits[name] = max(seconds, self.waits.get(name, 0.0))


@contextmanager
def queue_of(task: Task) -> Iterator[Queue]:
    """A queue on a tiny base, with workers that have a child each; ended afterwards."""
    from PIL import Image

    from studio import runner
    from studio.context import Context
    from studio.workspace import Workspace
    from tests.tiny import save_tiny_pipeline

    base, pictures = save_tiny_pipeline(task.folder / "tiny"), task.folder / "pictures"
    pictures.mkdir()
    for number, colour in enumerate(("red", "teal", "gold")):
        Image.new("RGB", (24, 24), colour).save(pictures / f"{number}.png")
    before, own = dict(os.environ), runner.WORKER
    os.environ.update(task.environment())
    runner.WORKER = "tests.faults.load_worker"
    workspace = Workspace.open(task.folder / "workspace")
    served = runner.Runner(workspace, base=str(base), warm=False)
    limit = LIMIT if task.whole else LOOSE
    try:
        served.start()
        context = Context(workspace, served, str(base))
        yield Queue(context, random.Random(task.seed), pictures, limit)
    finally:
        served.close()
        workspace.close()
        runner.WORKER = own
        os.environ.clear()
        os.environ.update(before)


def family(job: Job) -> list[psutil.Process]:
    """The processes of a job: its own, and those of the session that it was started in."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == job.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def stopped(queue: Queue, job: Job, after: Job) -> str | None:
    """Stop a running job; None, or what wasn't as it should be. after: waits behind it."""
    begun, jobs = time.monotonic(), queue.context.jobs
    jobs.stop(job.id)
    while jobs.get(job.id).active:
        if time.monotonic() - begun > queue.limit:
            return f"is {jobs.get(job.id).state} {queue.limit:.0f} s after it was stopped"
        time.sleep(0.02)
    while job.kind == "train" and (left := family(job)):
        if time.monotonic() - begun > queue.limit:
            return f"{len(left)} of its processes live {queue.limit:.0f} s after it was stopped"
        time.sleep(0.02)
    gone = time.monotonic()
    queue.longest("seconds_until_gone", gone - begun)
    found = jobs.get(job.id)
    if found.state != "cancelled" or found.error != "stopped by you":
        return f"became {found.state}: {found.error}"
    while jobs.get(after.id).state == "queued":
        if time.monotonic() - gone > queue.limit:
            return f"the next job hasn't begun {queue.limit:.0f} s after it"
        time.sleep(0.02)
    queue.longest("seconds_until_the_next", time.monotonic() - gone)
    return None


def run(task: Task, tally: Tally) -> None:
    """Stop `task.count` jobs at moments between the start of their process and a while into their steps."""
    with queue_of(task) as queue:
        upcoming, number = queue.teach(), 0
        while tally.tried < task.count and tally.missed < 2 * task.count + 5 and len(tally.failures) < 3:
            number += 1
            job, upcoming = queue.running(upcoming), queue.draw() if number % DRAWN == 0 else queue.teach()
            if number % DRAWN == 0:  # a drawing would go first
                queue.context.jobs.move(upcoming.id, "first")
            queue.context.runner.wake()
            moment = _waited(queue, job, number)
            if queue.context.jobs.get(job.id).state != "running":
                tally.didnt_happen()
                continue
            tally.happened(f"{job.kind} stopped {moment}", stopped(queue, job, upcoming))
        queue.context.jobs.stop(upcoming.id)
        for name, seconds in queue.waits.items():
            tally.measured(name, round(seconds, 2), most=LIMIT, held=task.whole)


def _waited(queue: Queue, job: Job, number: int) -> str:
    """Wait for a moment of a job; returns it in words. The first training says how long they all take."""
    begun = time.monotonic()
    if number == 1:
        while queue.context.run_log(job).step < 1 and time.monotonic() - begun < BEGINS:
            time.sleep(0.02)
        queue.ready = time.monotonic() - begun
        return "at its first step"
    seconds = queue.chance.uniform(0, 1.3 * queue.ready if job.kind == "train" else 3.0)
    time.sleep(seconds)
    return f"after {seconds:.2f} s of {queue.ready:.1f} that it needs to begin"


# ── Safeguards


def _wish_unheard(patch: MonkeyPatch) -> None:
    """Nobody tells the process that it is to stop, by a signal or by the index, or soon ends it without."""
    from studio import processes, runner
    from studio.jobs import Jobs

    beat: Callable[..., bool] = Jobs.beat
    patch.setattr(processes, "ask_to_stop", lambda process: None)
    patch.setattr(runner, "BARREN", runner.PATIENCE["cancelled"])
    patch.setattr(Jobs, "beat", lambda self, job_id, **more: bool(beat(self, job_id, **more)) and False)


def _left_behind(patch: MonkeyPatch) -> None:
    """What a process has started isn't ended with it."""
    from studio import processes

    patch.setattr(processes, "kill_left_behind", lambda pid: None)


def _not_woken(patch: MonkeyPatch) -> None:
    """After a job was stopped the queue doesn't look for the next."""
    from studio.runner import Runner

    settle = Runner._settle

    def settled(self: Runner, *asked: Any) -> None:
        settle(self, *asked)
        self._closing.wait(3 * LOOSE)

    patch.setattr(Runner, "_settle", settled)


CANCELS_CHECK = Check(
    title="jobs stopped at any moment", run=run, unit="stops", full=100, short=0, planted=2,
    plants={
        "a wish to stop is passed on": _wish_unheard,
        "what a process left behind is ended": _left_behind,
        "the next job begins at once": _not_woken,
    },
)  # fmt: skip
