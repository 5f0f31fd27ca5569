"""The queue: states, order, and what becomes of jobs whose process died."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipelines.errors import WorkspaceError
from studio import processes
from studio.jobs import QUEUE_LIMIT, Jobs
from studio.workspace import Workspace


@pytest.fixture
def jobs(workspace: Workspace) -> Jobs:
    return Jobs(workspace)


def dead_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_job_goes_through_the_queue(jobs: Jobs) -> None:
    job = jobs.submit("train", "zib", {"a": 1}, details={"b": 2})
    assert (job.state, job.config, job.details, job.active) == ("queued", {"a": 1}, {"b": 2}, True)
    assert jobs.claim(job.id, os.getpid(), processes.start_time())
    assert not jobs.claim(job.id, os.getpid(), processes.start_time()), "claimed twice"
    assert not jobs.beat(job.id, step=3, total=10, message="Learning")
    running = jobs.get(job.id)
    assert (running.state, running.step, running.total, running.message) == ("running", 3, 10, "Learning")
    assert running.heartbeat is not None
    assert jobs.finish(job.id, "done", result={"adapter": "x"})
    assert not jobs.finish(job.id, "failed", error="late"), "ended twice"
    done = jobs.get(job.id)
    assert (done.state, done.result, done.pid, done.error) == ("done", {"adapter": "x"}, None, "")


def test_pictures_go_before_waiting_trainings_and_otherwise_the_first_comes_first(jobs: Jobs) -> None:
    first, second = jobs.submit("train", "1", {}), jobs.submit("train", "2", {})
    picture = jobs.submit("generate", "3", {})
    order = []
    while (job := jobs.next()) is not None:
        order.append(job.id)
        jobs.claim(job.id, os.getpid(), processes.start_time())
        jobs.finish(job.id, "done")
    assert order == [picture.id, first.id, second.id]


def test_stop_cancels_a_waiting_job_and_asks_a_running_one(jobs: Jobs) -> None:
    waiting, running = jobs.submit("train", "w", {}), jobs.submit("train", "r", {})
    jobs.claim(running.id, os.getpid(), processes.start_time())
    assert jobs.stop(waiting.id).state == "cancelled"
    stopped = jobs.stop(running.id)
    assert (stopped.state, stopped.stop_requested) == ("running", True)
    assert jobs.beat(running.id) is True
    jobs.finish(running.id, "cancelled")
    assert jobs.resume(running.id).stop_requested is False


def test_dead_running_jobs_become_interrupted_and_resumable(jobs: Jobs) -> None:
    dead, alive, reused = (jobs.submit("train", name, {}) for name in ("dead", "alive", "reused"))
    jobs.claim(dead.id, dead_process(), 1.0)
    jobs.claim(alive.id, os.getpid(), processes.start_time())
    jobs.claim(reused.id, os.getpid(), processes.start_time() - 1000)  # another process has that id now
    assert {job.id for job in jobs.recover()} == {dead.id, reused.id}
    assert jobs.get(dead.id).state == jobs.get(reused.id).state == "interrupted"
    assert "Resume" in jobs.get(dead.id).error
    assert jobs.get(alive.id).state == "running"
    assert jobs.resume(dead.id).state == "queued"


def test_only_what_ended_early_can_be_resumed(jobs: Jobs) -> None:
    job = jobs.submit("train", "zib", {})
    with pytest.raises(WorkspaceError, match="queued"):
        jobs.resume(job.id)
    jobs.claim(job.id, os.getpid(), processes.start_time())
    jobs.finish(job.id, "done")
    with pytest.raises(WorkspaceError, match="done"):
        jobs.resume(job.id)


def test_the_queue_is_bounded(jobs: Jobs) -> None:
    with jobs.workspace.write() as db:
        for number in range(QUEUE_LIMIT):
            db.execute(
                "INSERT INTO jobs (id, kind, title, state, config, created) "
                "VALUES (?, 'train', '', 'queued', '{}', 0)",
                (str(number),),
            )
    with pytest.raises(WorkspaceError, match=f"holds {QUEUE_LIMIT}"):
        jobs.submit("train", "one more", {})


def test_an_unknown_job_is_named(jobs: Jobs) -> None:
    with pytest.raises(WorkspaceError, match="nope"):
        jobs.get("nope")
