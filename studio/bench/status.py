"""What many pages that look at a running training cost: the answers' times, and the training's speed."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.errors import StudioError
from studio.bench.served import poll, served
from studio.examples import example_sets
from studio.jobs import Job, Jobs
from studio.runlog import RunLog
from studio.workspace import Workspace, new_id
from trainers.config import preset_config
from trainers.wording import prompts

PATH = "/api/status"
STEPS = 100_000  # more than can be taken meanwhile
BEGINNING = 240.0  # seconds until the first step


def training(root: Path, steps: int = STEPS) -> tuple[Jobs, Job]:
    """Queue a training on the first example in a workspace that nobody has opened yet."""
    workspace = Workspace.open(root, own=False)
    example, job_id = example_sets()[0], new_id()
    instance, class_prompt = prompts(example.kind, example.trigger, example.class_name)
    config = preset_config(
        "sketch", example.kind, instance_images=example.pictures[0].parent, trigger=example.trigger,
        instance_prompt=instance, class_prompt=class_prompt, num_class_images=2,
        output=workspace.folder("runs", job_id), cache=workspace.folder("cache"), steps=steps,
        preview_every=0,
    )  # fmt: skip
    jobs = Jobs(workspace)
    return jobs, jobs.submit("train", "measured", config.model_dump(mode="json"), id=job_id)


def measure(clients: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Poll while a training runs, in turns with leaving it alone.

    Returns: seconds of an answer (`status_ms_p50`, `status_ms_p95_50_clients`), `training_slowdown` = 1 −
    (steps a second with polling) / (without), the median of `rounds` pairs, and its spread.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        jobs, job = training(root)
        log = RunLog(jobs.folder(job) / "events.jsonl")
        with served(root) as studio:
            _wait_for_steps(jobs, job, log)
            taken: list[float] = []
            slowdowns = []
            for _ in range(rounds):
                alone = _rate(log, seconds)
                before = _mark(log)
                taken += asyncio.run(poll(studio.address, PATH, clients, seconds))
                polled = _since(log, before)
                slowdowns.append(1 - polled / alone)
            jobs.stop(job.id)
    return {
        "clients": clients,
        "answers": len(taken),
        "status_ms_p50": 1000 * statistics.median(taken),
        "status_ms_p95_50_clients": 1000 * statistics.quantiles(taken, n=20)[-1],
        "training_slowdown": statistics.median(slowdowns),
        "training_slowdown_spread": [min(slowdowns), max(slowdowns)],
    }


def _wait_for_steps(jobs: Jobs, job: Job, log: RunLog) -> None:
    end = time.monotonic() + BEGINNING
    while log.refresh().step < 20:
        now = jobs.get(job.id)
        if time.monotonic() > end or now.state not in ("queued", "running"):
            raise StudioError(f"the training didn't begin: {now.state}, {now.error or now.message}")
        time.sleep(0.2)


def _mark(log: RunLog) -> tuple[int, float]:
    """(steps taken by now, the time)."""
    return log.refresh().step, time.perf_counter()


def _since(log: RunLog, mark: tuple[int, float]) -> float:
    """Steps per second since a mark."""
    step, now = _mark(log)
    return max(1, step - mark[0]) / (now - mark[1])


def _rate(log: RunLog, seconds: float) -> float:
    """Steps per second over the next `seconds`."""
    mark = _mark(log)
    time.sleep(seconds)
    return _since(log, mark)
