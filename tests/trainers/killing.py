"""Run one training many times, each time killed somewhere else; a program for the tests of faults.

Reads one job as JSON per line from standard input, and answers each with one line. Everything is imported
once and each job runs in a fork: a dead child is dead as after `kill -9`.

A job: {"config": values}, and any of "kill_at", "kill_after", "kill_step", "plant". SIGKILL comes just before
the n-th (from 1) call that makes something last (fsync, rename, replace); or so many seconds after the fork,
wherever the training is then; or after a step. A plant is one of PLANTS.
The answer: {"killed", "calls", "sha256", "seconds"}.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CALLS = ("fsync", "rename", "replace")


def _forget_of_streams(part: str) -> None:
    from trainers.batches import Stream

    whole = Stream.load

    def load(self: Stream, state: Mapping[str, Any]) -> None:
        whole(self, {**state, part: self.state()[part]})

    Stream.load = load  # type: ignore[method-assign]


def _forget_optimizer() -> None:
    from trainers import state

    state.restore_optimizer_state = lambda *_: None


PLANTS: dict[str, Callable[[], None]] = {
    "chance": lambda: _forget_of_streams("generator"),
    "optimizer": _forget_optimizer,
    "order": lambda: _forget_of_streams("position"),
}
"""Faults of a resume that a test must notice, by name."""


def arm(kill_at: int | None) -> dict[str, int]:
    """Count the calls, and kill this process at the one asked for; return the live count."""
    count = {"calls": 0}
    for name in CALLS:
        real = getattr(os, name)

        def counted(*arguments: Any, _real: Any = real, **more: Any) -> Any:
            count["calls"] += 1
            if count["calls"] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return _real(*arguments, **more)

        setattr(os, name, counted)
    return count


def child(job: dict[str, Any], answer: int) -> None:
    """Run the training of a job, and write down what came of it."""
    from trainers import events
    from trainers.config import validate
    from trainers.loop import train

    config = validate(job["config"])
    if job.get("plant"):
        PLANTS[job["plant"]]()
    count = arm(job.get("kill_at"))
    last = None
    for last in train(config):
        events.append(config.run.output, last)
        if last.kind == "step" and last.step == job.get("kill_step"):
            os.kill(os.getpid(), signal.SIGKILL)
    assert last is not None
    os.write(answer, json.dumps({"calls": count["calls"], "sha256": last.data["sha256"]}).encode())


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Fork for a job and wait for its end."""
    readable, writable = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(readable)
            child(job, writable)
            code = 0
        finally:
            os._exit(code)
    os.close(writable)
    with open(readable, "rb") as pipe:
        limit = job.get("kill_after")
        if limit is not None and not select.select([pipe], [], [], limit)[0]:
            os.kill(pid, signal.SIGKILL)
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and status != 0:
        raise SystemExit(f"job failed with status {status}: {job}")
    seconds = time.monotonic() - began
    told = json.loads(text) if text and not killed else {}
    return {"killed": killed, "calls": None, "sha256": None, "seconds": seconds, **told}


def main() -> None:
    """Import everything once, then run jobs as they come."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import diffusers  # noqa: F401
    import peft  # noqa: F401
    import torch

    import trainers.loop  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
