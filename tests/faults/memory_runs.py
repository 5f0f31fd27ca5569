"""Jobs done in this process as their own would do them, with a memory that is full at some call."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.ground import ground
from tests.faults.memory_places import ERRORS, JOBS, LOST, TRAINING, Place, put, wrong_words
from tests.faults.not_finite_runs import config_in
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from studio.jobs import Job, Jobs
    from studio.workspace import Workspace

EVERY = 2
"""Steps between checkpoints, measurements and previews."""


@dataclass(eq=False)
class Bench:
    """A workspace whose jobs are done here."""

    workspace: Workspace

    @property
    def jobs(self) -> Jobs:
        """The queue."""
        from studio.jobs import Jobs

        return Jobs(self.workspace)

    def training(self, **fields: Any) -> Job:
        """Queue a small training that looks at everything; fields of its config by name."""
        from studio.workspace import new_id

        job_id = new_id()
        usual: dict[str, Any] = {
            "output": self.workspace.folder("runs", job_id), "evaluate_every": EVERY, "preview_every": EVERY,
            "preview_steps": 1, "preview_prompts": ("a zuv disc",), "measured_on": ("held_out",),
            "take": "last",
        }  # fmt: skip
        config = config_in(self.workspace.root, **{**usual, **fields})
        return self.jobs.submit("train", "zuv", config.model_dump(mode="json"), id=job_id)

    def do(self, job: Job) -> Job:
        """Do a queued job to its end."""
        import psutil  # type: ignore[import-untyped]

        from studio import worker

        assert self.jobs.claim(job.id, os.getpid(), psutil.Process().create_time())
        worker.run(self.workspace, job.id, threading.Event())
        return self.jobs.get(job.id)

    def held(self) -> str | None:
        """What is held that should be free; None: the device can be taken."""
        from studio.locks import FileLock

        with FileLock(self.workspace.device_lock) as lock:
            return None if lock.acquire(note="test") else "the device is still held"

    def litter(self, job: Job) -> str | None:
        """What lies in a run's folder that isn't whole."""
        found = [*self.jobs.folder(job).rglob(".writing-*"), *self.jobs.folder(job).rglob("*.tmp")]
        return f"{found[0].name} is left behind" if found else None

    def warnings(self, job: Job) -> list[str]:
        """What a run has warned of."""
        from trainers.events import read

        return [event.message for event in read(self.jobs.folder(job)) if event.kind == "warning"]


@contextmanager
def bench_in(folder: Path) -> Iterator[Bench]:
    """A workspace in a folder."""
    from studio.workspace import Workspace

    workspace = Workspace.open(folder)
    try:
        yield Bench(workspace)
    finally:
        workspace.close()


def run_trainings(task: Task, tally: Tally) -> None:
    """Every place of a training in turn, with every kind of error."""
    with bench_in(task.folder / "workspace") as bench:
        whole = bench.do(bench.training())
        assert whole.state == "done", whole.error
        cases = zip(cycle(TRAINING), _errors(len(TRAINING)), strict=False)
        for (name, error), _ in zip(cases, range(3 * task.count), strict=False):
            if tally.tried >= task.count:
                return
            job, place = bench.training(), TRAINING[name]
            with put(place, error) as failing:
                job = bench.do(job)
            if not failing.happened:
                tally.didnt_happen()
                continue
            problem = _left(bench, job, place, error) or _again(bench, job, whole)
            tally.happened(f"{error} in {name}", problem)


def _errors(places: int) -> Iterator[str]:
    """Names of errors, for places in turn: another one each time that a place comes again."""
    kinds, number = list(ERRORS), 0
    while True:
        yield kinds[(number + number // places) % len(kinds)]
        number += 1


def _left(bench: Bench, job: Job, place: Place, error: str) -> str | None:
    """What is wrong with a training after the error; None: it went on, or ended with the right words."""
    if place.goes_on and not (error == LOST and place.name in ("measure_sets", "write_smallest")):
        if job.state != "done":
            return f"it is {job.state}: {job.error}"
        said = bench.warnings(job)
        if any("\n" in line for line in said):
            return "a warning of more than a line"
        if not any(words in line for line in said for words in place.says):
            return f"no warning says so: {said}"
    elif job.state != "failed":
        return f"it is {job.state}"
    elif odd := wrong_words(job.error, place, error):
        return odd
    return bench.held() or bench.litter(job)


def _again(bench: Bench, job: Job, whole: Job) -> str | None:
    """What is wrong with going on; None: it ends with the same adapter as undisturbed."""
    if job.state == "failed":
        if "resume" not in job.acts:
            return "it can't be resumed"
        job = bench.do(bench.jobs.resume(job.id))
    if job.state != "done":
        return f"gone on with it is {job.state}: {job.error}"
    same = job.result.get("adapter") == whole.result["adapter"]  # by what is in it: the library keeps one
    return None if same else "another adapter came of it"


# ── Other kinds of jobs


def run_others(task: Task, tally: Tally) -> None:
    """A full memory in jobs that do something else."""
    from pipelines.base import load_base
    from pipelines.formats import write_adapter
    from studio.library import Library
    from tests.tiny import random_adapter

    with bench_in(task.folder / "workspace") as bench:
        base, ids = load_base(ground() / "base", device="cpu"), []
        for seed in (1, 2):
            path = task.folder / f"{seed}.safetensors"
            write_adapter(random_adapter(base, seed=seed), path)
            ids.append(Library(bench.workspace).add(path, name=f"Disc {seed}")[0].id)
        cases = zip(cycle(JOBS), _errors(len(JOBS)), strict=False)
        for (kind, error), _ in zip(cases, range(3 * task.count), strict=False):
            if tally.tried >= task.count:
                return
            job = bench.jobs.submit(kind, kind, _asked(bench, kind, ids))
            with put(JOBS[kind], error, always=True) as failing:  # class pictures are tried one by one
                job = bench.do(job)
            if not failing.happened:
                tally.didnt_happen()
                continue
            problem = f"it is {job.state}" if job.state != "failed" else None
            problem = (
                problem or wrong_words(job.error, JOBS[kind], error) or bench.held() or bench.litter(job)
            )
            if problem is None:
                again = bench.do(bench.jobs.submit(kind, kind, job.config))
                problem = None if again.state == "done" else f"the next one is {again.state}: {again.error}"
            tally.happened(f"{error} in a job of kind {kind}", problem)


def _asked(bench: Bench, kind: str, ids: list[str]) -> dict[str, Any]:
    """The config of a job."""
    root = bench.workspace.root
    own = {"base": str(ground() / "base"), "options": {}, "dtype": "fp16"}
    asked: dict[str, dict[str, Any]] = {
        "class_pictures": config_in(
            root, cache=root / "cache", prior_weight=1.0, num_class_images=2, output=root / "runs" / "none"
        ).model_dump(mode="json"),
        "merge": {"parts": [{"id": one, "weight": 0.5} for one in ids], "method": "cat", **own},
        "resize": {"adapter": ids[0], "rank": 2, **own},
        "export": {"adapter": ids[0], "picture": False, "base": own["base"]},
    }  # fmt: skip
    return asked[kind]
