"""A run's log as the page reads it: whole, resumed, torn and very long."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from studio import runlog
from studio.runlog import KEPT_LOSSES, RunLog, seconds_left
from studio.work.job import Job
from trainers import events
from trainers.events import TrainEvent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / events.LOG_NAME


def write(path: Path, *lines: dict[str, Any]) -> None:
    with path.open("ab") as log:
        log.writelines(json.dumps(line).encode() + b"\n" for line in lines)


def step(number: int, *, at: float, total: int = 100, **data: Any) -> dict[str, Any]:
    given = {"loss": number / 10, **data}
    return {"kind": "step", "step": number, "total": total, "message": "", "data": given, "time": at}


def stage(message: str, *, at: float = 0.0, **data: Any) -> dict[str, Any]:
    return {"kind": "stage", "step": 0, "total": 100, "message": message, "data": data, "time": at}


def test_what_trainers_write_is_read(path: Path) -> None:
    for event in (
        TrainEvent(kind="stage", total=4, message="5 pictures to learn from", data={"stage": "prepare"}),
        TrainEvent(kind="step", step=1, total=4, data={"loss": 0.5, "memory_bytes": 7}),
        TrainEvent(kind="held_out", step=1, total=4, data={"loss": 0.25}),
        TrainEvent(kind="preview", step=1, total=4, data={"files": ["previews/a.png"], "prompts": ["a zib"]}),
        TrainEvent(kind="checkpoint", step=1, total=4, data={"path": "checkpoints/step-000001"}),
        TrainEvent(kind="warning", step=1, total=4, message="careful"),
        TrainEvent(kind="warning", step=1, total=4, message="careful"),
    ):
        events.append(path.parent, event)
    log = RunLog(path).refresh()
    assert (log.losses, log.held_out, log.previews) == ({1: 0.5}, {1: 0.25}, {1: ["previews/a.png"]})
    assert (log.prompts, log.checkpoints, log.warnings) == (["a zib"], [1], ["careful"])
    assert (log.step, log.total, log.memory, log.stage, log.fraction) == (1, 4, 7, "Learning", 0.25)


def test_time_left_is_that_of_what_is_counted_now(path: Path) -> None:
    log = RunLog(path)
    write(path, stage("Loading", at=0), stage("class pictures 1/5", at=50, done=1, of=5))
    assert (log.refresh().rate, log.fraction) == (None, 0.2)
    write(path, stage("class pictures 3/5", at=54, done=3, of=5))
    assert (log.refresh().seconds_left, log.fraction) == (4.0, 0.6)
    write(path, stage("inject", at=60))
    assert (log.refresh().seconds_left, log.fraction, log.of) == (None, None, 0)
    write(path, step(1, at=100), step(2, at=102), step(3, at=104))
    assert (log.refresh().rate, log.seconds_left) == (0.5, 194.0)


def test_what_a_resumed_run_does_again_replaces_what_was(path: Path) -> None:
    write(path, *(step(number, at=number) for number in range(1, 7)))
    write(path, {"kind": "preview", "step": 5, "data": {"files": ["five"]}})
    write(path, {"kind": "preview", "step": 2, "data": {"files": ["two"]}})
    write(path, {"kind": "checkpoint", "step": 3}, {"kind": "checkpoint", "step": 6})
    log = RunLog(path).refresh()
    assert (log.step, sorted(log.losses), log.checkpoints) == (6, [1, 2, 3, 4, 5, 6], [3, 6])
    write(path, stage("going on from step 3", at=900), step(4, at=1000, loss=9.0))
    log.refresh()
    assert (log.step, log.losses[4], sorted(log.losses)) == (4, 9.0, [1, 2, 3, 4])
    assert (list(log.previews), log.checkpoints) == ([2], [3])
    assert log.rate is None, "the time in between isn't the steps'"


def test_a_line_that_is_being_written_waits_and_a_damaged_one_is_left_out(path: Path) -> None:
    log = RunLog(path)
    assert log.refresh().step == 0
    line = json.dumps(step(1, at=1)).encode()
    path.write_bytes(line[:20])
    assert log.refresh().step == 0
    path.write_bytes(line + b"\n\xff{]\n[1]\n" + json.dumps(step(2, at=2)).encode() + b"\n")
    assert (log.refresh().step, sorted(log.losses)) == (2, [1, 2])
    path.write_bytes(json.dumps(step(1, at=1)).encode() + b"\n")
    assert (log.refresh().step, sorted(log.losses)) == (1, [1]), "begun anew"


def test_a_very_long_log_is_read_in_part_without_losing_what_is_rare(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KEPT_LOSSES // 4
    monkeypatch.setattr(runlog, "KEPT_LOSSES", kept)
    monkeypatch.setattr(runlog, "_PARSED", runlog._PARSED // 4)
    steps = [step(number, at=number / 10, total=20_000) for number in range(1, 20_001)]
    rare = {"kind": "held_out", "step": 10_001, "data": {"loss": 0.125}}
    write(path, *steps[:10_001], rare, *steps[10_001:])
    parsed = 0
    loads = json.loads

    def counted(line: bytes) -> Any:
        nonlocal parsed
        parsed += 1
        return loads(line)

    monkeypatch.setattr("studio.runlog.json.loads", counted)
    log = RunLog(path).refresh()
    assert parsed < 7_500
    assert kept < len(log.losses) <= 2 * kept
    assert (log.held_out, log.step, log.losses[20_000]) == ({10_001: 0.125}, 20_000, 2000.0)
    assert max(b - a for a, b in zip(sorted(log.losses)[:-1], sorted(log.losses)[1:], strict=True)) < 100
    assert log.rate == pytest.approx(10)
    write(path, step(20_001, at=2000.1, total=20_002))
    assert log.refresh().seconds_left == pytest.approx(0.1)


def test_a_job_without_a_log_has_its_time_left_too() -> None:
    now = time.time()
    job = Job(
        id="1", kind="export", title="", state="running", config={}, result={}, created=0, started=0,
        details={"session": {"at": now - 30, "step": 4}}, finished=None, pid=1, pid_started=0, heartbeat=now,
        stop_requested=False, step=10, total=12, message="", error="", position=0, memory=0,
    )  # fmt: skip
    assert seconds_left(job) == pytest.approx(10)
    assert seconds_left(replace(job, step=4)) is None
    assert seconds_left(replace(job, total=0)) is None
    assert seconds_left(replace(job, state="paused")) is None
    assert seconds_left(job, RunLog(Path("nowhere"))) == pytest.approx(10), "its log says nothing yet"
