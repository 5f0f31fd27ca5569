"""A card's memory after a training is cancelled, killed or fails: back to what it was."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.memory_places import FAULT
from tests.faults.memory_runs import Bench, bench_in
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

    from studio.jobs import Job

DEVICE = "cuda"
STEPS = 100_000  # more than a training takes until its end comes
LATE = 300.0  # seconds for a process to come to its steps
SOON = 30.0  # seconds for it to be gone
SLACK = 64 << 20  # bytes that a driver may keep


def needs() -> str | None:
    """Why it can't be done here."""
    import torch

    return None if torch.cuda.is_available() else "there is no CUDA card"


def used() -> int:
    """Bytes of the card that are in use, by all processes."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def _cancel(bench: Bench, job: Job, process: Any, fault: str) -> None:
    bench.jobs.stop(job.id)


def _kill(bench: Bench, job: Job, process: Any, fault: str) -> None:
    process.send_signal(signal.SIGKILL)


def _fail(bench: Bench, job: Job, process: Any, fault: str) -> None:
    Path(fault).write_text("a step|device lost", encoding="utf-8")


ENDS: dict[str, Callable[[Bench, Job, Any, str], None]] = {
    "cancelled": _cancel, "killed": _kill, "its device lost": _fail,
}  # fmt: skip


def run(task: Task, tally: Tally) -> None:
    """End a training in a process of its own, and look what of the card's memory is left in use."""
    with bench_in(task.folder / "workspace") as bench:
        before = used()  # with what this process itself holds of the card from now on
        for number, (name, end) in enumerate(cycle(ENDS.items())):
            if number >= task.count:
                return
            fault = task.folder / f"fault-{number}"
            job = bench.training(device=DEVICE, steps=STEPS, checkpoint_every=STEPS, evaluate_every=0)
            process = _started(bench, job, task, str(fault))
            during = used() - before
            end(bench, job, process, str(fault))
            gone = _ended(process)
            left = used() - before
            problem = None if gone else "its process is still there"
            if left > SLACK:
                problem = problem or f"{left >> 20} of {during >> 20} MB are still in use"
            if not gone:
                process.kill()
                process.wait()
            tally.happened(f"a training {name}", problem)


def _started(bench: Bench, job: Job, task: Task, fault: str) -> Any:
    """A job's process, once it learns."""
    from studio import processes

    process = processes.spawn(
        "tests.faults.memory_child", "studio.worker", "--workspace", str(bench.workspace.root), "--job",
        job.id, output=task.folder / "log.txt", env=task.environment(**{FAULT: fault}),
    )  # fmt: skip
    assert bench.jobs.claim(job.id, process.pid, process.create_time())
    deadline = time.monotonic() + LATE
    while bench.jobs.get(job.id).step < 1:
        assert time.monotonic() < deadline and process.poll() is None, bench.jobs.get(job.id).error
        time.sleep(0.1)
    return process


def _ended(process: Any) -> bool:
    """Whether a process ends soon."""
    deadline = time.monotonic() + SOON
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return process.poll() is not None


def _not_heard(patch: MonkeyPatch) -> None:
    """A wish to stop isn't heard."""
    from studio.jobs import Jobs

    real = Jobs.beat

    def beat(self: Jobs, *given: Any, **more: Any) -> bool:
        real(self, *given, **more)
        return False

    patch.setattr(Jobs, "beat", beat)


PLANTS = {"a wish to stop isn't heard": _not_heard}
