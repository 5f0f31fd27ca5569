"""One check done: here, or in a process of its own."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest import MonkeyPatch

from tests.faults.suites import ROOT, Check, Tally, Task, suite, take_away

LIMIT = 3 * 3600.0  # seconds, after which a check hangs


@dataclass(frozen=True)
class Done:
    """What came of a check, as it goes through a file.

    Attributes:
        passed: see `Tally.passed`. skipped: why it can't run here; empty: it ran.
        broke: the last lines of an exception that the check itself ended with; then nothing was shown.
    """

    passed: bool = False
    tried: int = 0
    survived: int = 0
    missed: int = 0
    seconds: float = 0.0
    skipped: str = ""
    broke: str = ""
    failures: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)


def count_of(check: Check, share: float | None) -> int:
    """How many faults: a share of the full number and the short number at least; None: the short one."""
    return check.short if share is None else max(check.short, math.ceil(check.full * share))


def perform(name: str, check: Check, task: Task) -> Done:
    """Do a check in this process. name: "suite/check"."""
    if reason := check.needs():
        return Done(skipped=reason)
    tally, began, broke = Tally(), time.monotonic(), ""
    with MonkeyPatch.context() as patch:
        if task.plant:
            take_away(task.plant, patch)
        try:
            check.run(task, tally)
        except Exception:
            broke = traceback.format_exc()[-3000:]
    return Done(
        passed=not broke and tally.passed(check.least(task.count)), tried=tally.tried,
        survived=tally.survived, missed=tally.missed, seconds=round(time.monotonic() - began, 1),
        broke=broke, failures=tally.failures, figures=tally.figures,
    )  # fmt: skip


def perform_apart(name: str, *, share: float | None, seed: int, plant: str = "") -> Done:
    """Do a check in a process of its own, which ends with all that it started.

    name: "suite/check". share: see `count_of`. plant: one of the check's; it takes the `planted` count.
    """
    with tempfile.TemporaryDirectory(prefix="pigment-faults-") as folder:
        job = {"name": name, "share": share, "seed": seed, "plant": plant, "folder": folder}
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        command = [sys.executable, "-m", "tests.faults.performing", json.dumps(job)]
        # What libraries print of their own accord isn't the suite's word.
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, env=env, stdout=sys.stderr)
        try:
            code: int | str = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            code = f"nothing after {LIMIT:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        answer = Path(folder) / "answer.json"
        if not answer.is_file():
            return Done(broke=f"{name}: its process ended without an answer ({code})")
        return Done(**json.loads(answer.read_text(encoding="utf-8")))


def main(text: str) -> None:
    """Do the job that `perform_apart` gave."""
    job: dict[str, Any] = json.loads(text)
    suite_name, check_name = job["name"].split("/")
    check = suite(suite_name).checks[check_name]
    folder = Path(job["folder"])
    (folder / "work").mkdir()
    count = count_of(check, job["share"])
    if job["plant"]:
        count = check.planted or check.short
    plant = f"{job['name']}/{job['plant']}" if job["plant"] else ""
    whole = not plant and job["share"] == 1
    done = perform(job["name"], check, Task(folder / "work", count, job["seed"], whole, plant))
    (folder / "answer.json").write_text(json.dumps(vars(done)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
