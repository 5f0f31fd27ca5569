"""A worker whose jobs only pretend, for tests of the queue: `python -m tests.studio.pretend_worker`."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from pipelines.errors import NotFinite, StudioError
from studio import worker
from studio.jobs import Jobs
from studio.work import KINDS, Ended, Kind
from studio.work.following import stopped
from studio.work.job import Job
from studio.workspace import Workspace

PRETEND = {
    name: Kind(
        label=name, doing="pretends", priority=2, resumable=True, device=device,
        run="tests.studio.pretend_worker:work",
    )
    for name, device in (("pretend", True), ("aside", False))
}  # fmt: skip


def raising(error: Exception) -> Callable[[], None]:
    def do() -> None:
        raise error

    return do


def in_other_words() -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError:
        raise StudioError("'a.zip' can't be written: No space left on device") from None


def with_a_child() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print("child", child.pid, flush=True)


ENDS: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "disk full": raising(OSError(errno.ENOSPC, "No space left on device")),
    "disk full, in other words": in_other_words,
    "paused": raising(StudioError("paused: disk full at step 3, no checkpoint was written")),
    "memory": raising(MemoryError()),
    "device": raising(RuntimeError("CUDA error: unspecified launch failure\nand more")),
    "broken": raising(NotFinite("loss isn't finite at step 3; lower it", comes_again=True)),
    "bug": raising(ValueError("all wrong\nand more")),
    "no sense": raising(StudioError("a setting makes no sense; change it")),
    "exit": lambda: os._exit(9),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "child": with_a_child,
}


def work(workspace: Workspace, job: Job, stop: threading.Event) -> Ended:
    """Count to `config["steps"]`, going on where it stopped; then end as `config["end"]` says."""
    asked: dict[str, Any] = {"steps": 2, "seconds": 0.01, "end": "", "deaf": False, **job.config}
    jobs = Jobs(workspace)
    ENDS[asked["end"]]()
    for step in range(job.step + 1, asked["steps"] + 1):
        time.sleep(asked["seconds"])
        print(f"\x1b[1mstep {step}\x1b[0m", flush=True)
        jobs.beat(job.id, step=step, total=asked["steps"], message="Pretending")
        if stop.is_set() and not asked["deaf"]:
            return stopped(workspace, job)
    return "done", {"counted": asked["steps"]}


if __name__ == "__main__":
    KINDS.update(PRETEND)
    worker.HEARTBEAT = 0.2
    sys.exit(worker.main())
