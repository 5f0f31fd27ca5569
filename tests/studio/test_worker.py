"""The process of a job, in this one: how it takes the job over, and writes its end down on a full disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from studio import worker
from studio.jobs import Job, Jobs
from studio.locks import FileLock
from studio.runner import Runner
from studio.work import KINDS, keeping
from studio.workspace import Workspace
from tests.studio.pretend_worker import PRETEND


@pytest.fixture
def begun(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """A pretended job that runs in this process."""
    for name, kind in PRETEND.items():
        monkeypatch.setitem(KINDS, name, kind)

    def begin(**config: Any) -> Job:
        jobs = Jobs(workspace)
        job = jobs.submit("pretend", "pretend", config)
        jobs.claim(job.id, os.getpid(), psutil.Process().create_time())
        return jobs.get(job.id)

    return begin


def full(jobs_finish: Callable[..., bool], until: Callable[[], bool]) -> Callable[..., bool]:
    def finish(*args: Any, **kwargs: Any) -> bool:
        if not until():
            raise sqlite3.OperationalError("database or disk is full")
        return jobs_finish(*args, **kwargs)

    return finish


SAID = {
    "disk full": ("paused", "paused: disk full"),
    "disk full, in other words": ("paused", "paused: disk full"),
    "paused": ("paused", "disk full at step 3"),
    "memory": ("failed", "out of memory; close other programs"),
    "device": ("failed", "the device has failed (CUDA error: unspecified launch failure)"),
    "broken": ("failed", "isn't finite at step 3"),
    "no sense": ("failed", "a setting makes no sense; change it"),
}


@pytest.mark.parametrize("end", SAID)
def test_every_error_has_its_state_and_its_line(
    workspace: Workspace, begun: Callable[..., Job], end: str
) -> None:
    job = begun(end=end)
    assert worker.run(workspace, job.id, threading.Event()) == 2
    found = Jobs(workspace).get(job.id)
    state, words = SAID[end]
    assert (found.state, "\n" in found.error) == (state, False) and words in found.error
    # What would come to the same end isn't offered; by its name it can still be asked for.
    assert bool(found.details.get("stuck")) == (end == "broken")


def test_the_reserve_lets_a_full_disk_be_told(
    workspace: Workspace, begun: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = workspace.folder("cache", "reserve")
    keeping.lay_by(workspace)
    assert reserve.stat().st_size == 1 << 20
    monkeypatch.setattr(Jobs, "finish", full(Jobs.finish, lambda: not reserve.exists()))
    job = begun(end="disk full")
    assert worker.run(workspace, job.id, threading.Event()) == 2
    found = Jobs(workspace).get(job.id)
    assert (found.state, found.error) == ("paused", worker.DISK_FULL_SAID)
    assert not keeping.spend(workspace)


def test_an_end_that_can_not_be_written_is_told_by_the_exit_code(
    workspace: Workspace, begun: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun()
    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "finish", full(Jobs.finish, lambda: False))
        patch.setattr(worker, "LAST_WORDS", 0.0)
        assert worker.run(workspace, job.id, threading.Event()) == worker.DISK_FULL
    assert Jobs(workspace).get(job.id).state == "running"
    tries: list[int] = []

    def room_again() -> bool:
        tries.append(1)
        return len(tries) == 3

    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "finish", full(Jobs.finish, room_again))
        served = Runner(workspace)
        patch.setattr(served._closing, "wait", lambda seconds: False)
        served._settle(job.id, lambda job: served._ending(job, worker.DISK_FULL))
    found = Jobs(workspace).get(job.id)
    assert (found.state, found.error, len(tries)) == ("paused", worker.DISK_FULL_SAID, 3)


@pytest.mark.parametrize("said", ["database or disk is full", "disk I/O error"])
def test_sqlite_on_a_full_disk_is_a_full_disk(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    error = sqlite3.OperationalError(said)
    free = [3 << 20]
    monkeypatch.setattr(shutil, "disk_usage", lambda root: type("Usage", (), {"free": free[0]}))
    assert worker.ended_by(error, workspace, "1")[0] == ("paused" if "full" in said else "failed")
    free[0] = 5000
    assert worker.ended_by(error, workspace, "1")[0] == "paused"


def test_a_job_that_was_taken_away_is_not_begun(workspace: Workspace, begun: Callable[..., Job]) -> None:
    job = begun()
    Jobs(workspace).finish(job.id, "cancelled")
    assert worker.run(workspace, job.id, threading.Event()) == 3
    assert Jobs(workspace).get(job.id).step == 0


def test_the_device_is_waited_for_and_a_stop_ends_the_waiting(
    workspace: Workspace, begun: Callable[..., Job]
) -> None:
    job, stop = begun(), threading.Event()
    with FileLock(workspace.device_lock) as other:
        assert other.acquire()
        working = threading.Thread(target=worker.run, args=(workspace, job.id, stop))
        working.start()
        while "Waiting" not in Jobs(workspace).get(job.id).message:
            assert working.is_alive()
        stop.set()
        working.join(10)
    found = Jobs(workspace).get(job.id)
    assert (found.state, found.step, found.error) == ("interrupted", 0, "stopped with the studio")
