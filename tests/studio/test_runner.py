"""The queue with real child processes that only pretend to work: one at a time, paused, killed, taken up."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from pipelines.errors import StudioError
from studio import processes, runner
from studio.jobs import Job, Jobs
from studio.runner import Runner
from studio.work import KINDS
from studio.workspace import Workspace
from tests.studio.pretend_worker import ENDS, PRETEND
from tests.studio.test_worker import SAID as RAISED

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")

WAIT = 60.0  # seconds
SERVER = """
import sys, time
from studio import runner
from studio.work import KINDS
from studio.workspace import Workspace
from tests.studio.pretend_worker import PRETEND
KINDS.update(PRETEND)
runner.WORKER = "tests.studio.pretend_worker"
runner.Runner._warm = lambda self: None
served = runner.Runner(Workspace.open(sys.argv[1]))
served.start()
print("open", flush=True)
time.sleep(60)
"""


def wait(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT:g} s for {what}"
        time.sleep(0.02)


class PretendMaker:
    """Stands where the drawing process does; knows how often it was asked to rest."""

    alive, rests = False, 0

    def rest(self) -> None:
        self.rests += 1

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _pretending(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in PRETEND.items():
        monkeypatch.setitem(KINDS, name, kind)
    monkeypatch.setattr(runner, "WORKER", "tests.studio.pretend_worker")
    monkeypatch.setattr(runner, "LOOK", 0.1)
    monkeypatch.setattr(processes, "POLL", 0.05)
    monkeypatch.setattr(Runner, "_warm", lambda self: None)


@pytest.fixture
def serve(workspace: Workspace) -> Iterator[Callable[[], Runner]]:
    """Start the queue on the workspace; an earlier one is closed first."""
    opened: list[Runner] = []

    def start() -> Runner:
        close()
        opened.append(Runner(workspace))
        opened[-1].maker = PretendMaker()  # type: ignore[assignment]
        opened[-1].start()
        return opened[-1]

    def close() -> None:
        while opened:
            opened.pop().close()

    yield start
    close()


def ended(jobs: Jobs, job: Job) -> Job:
    wait(lambda: not jobs.get(job.id).active, f"the end of {job.title}")
    return jobs.get(job.id)


def at_step(jobs: Jobs, job: Job, step: int) -> Job:
    wait(lambda: jobs.get(job.id).step >= step, f"step {step} of {job.title}")
    found = jobs.get(job.id)
    assert found.state == "running", f"too late to disturb it: {found.state} {found.error}"
    return found


def gone(pid: int | None) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_one_job_has_the_device_and_others_run_beside_it(serve: Callable[[], Runner]) -> None:
    served = serve()
    jobs = served.jobs
    first = jobs.submit("pretend", "first", {"steps": 300})
    second = jobs.submit("pretend", "second", {})
    aside = jobs.submit("aside", "aside", {})  # nobody wakes the queue: it looks by itself
    done = ended(jobs, aside)
    assert (done.state, done.result, done.step, done.total) == ("done", {"counted": 2}, 2, 2)
    assert done.memory > 5e6
    holding = jobs.holding()
    assert holding is not None
    assert holding.id == first.id
    assert jobs.get(second.id).state == "queued"
    jobs.stop(first.id)
    stopped, finished = ended(jobs, first), ended(jobs, second)
    assert (stopped.state, stopped.error, finished.state) == ("cancelled", "stopped by you", "done")
    assert stopped.finished is not None
    assert finished.started is not None
    assert finished.started >= stopped.finished
    assert served.maker.rests == 2  # type: ignore[attr-defined]
    assert jobs.holding() is None


def test_a_paused_job_goes_on_where_it_stopped_also_after_the_studio_was_closed(
    serve: Callable[[], Runner],
) -> None:
    served = serve()
    jobs = served.jobs
    job = jobs.submit("pretend", "long", {"steps": 5000})
    at_step(jobs, job, 3)
    assert jobs.pause(job.id).asked == "paused"
    paused = ended(jobs, job)
    assert (paused.state, paused.error) == ("paused", "paused by you")
    assert "step 3" in jobs.log_tail(job).splitlines()
    jobs.resume(job.id)
    served.wake()
    assert at_step(jobs, job, paused.step + 3).pid is not None
    again = serve()
    closed = jobs.get(job.id)
    assert (closed.state, closed.error) == ("interrupted", "stopped with the studio")
    assert closed.step > paused.step
    jobs.resume(job.id)
    again.wake()
    at_step(jobs, job, closed.step + 1)


SAID = {
    "bug": ("failed", "all wrong (details in runs/"),
    "exit": ("failed", "its process ended with code 9 (details in runs/"),
    "killed": ("interrupted", "(signal 9; often for lack of memory"),
}


def test_every_end_of_a_process_has_its_state_and_its_line(serve: Callable[[], Runner]) -> None:
    assert set(SAID) | set(RAISED) | {"", "child"} == set(ENDS)
    jobs = serve().jobs
    started = {end: jobs.submit("aside", end, {"end": end}) for end in SAID}
    jobs.note(started["killed"].id, lower="lower data.resolution")
    found = {end: ended(jobs, job) for end, job in started.items()}
    for end, (state, words) in SAID.items():
        assert (found[end].state, "\n" in found[end].error) == (state, False), found[end].error
        assert words in found[end].error
    assert "lower data.resolution; Resume goes on" in found["killed"].error.replace(")", "")
    log = jobs.log_tail(found["bug"])
    assert "Traceback" in log
    assert log.endswith("and more")


def test_what_a_killed_worker_leaves_is_ended(serve: Callable[[], Runner]) -> None:
    jobs = serve().jobs
    job = jobs.submit("pretend", "with a child", {"end": "child", "steps": 5000})
    pid = at_step(jobs, job, 1).pid
    child = int(jobs.log_tail(job).split()[1])
    assert pid is not None
    assert not gone(child)
    os.kill(pid, signal.SIGKILL)
    assert ended(jobs, job).state == "interrupted"
    wait(lambda: gone(child), "the child's end")


def test_a_worker_that_hears_nothing_is_ended(
    serve: Callable[[], Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(runner.PATIENCE, "paused", 30.0)
    monkeypatch.setitem(runner.PATIENCE, "cancelled", 0.1)
    jobs = serve().jobs
    job = jobs.submit("pretend", "deaf", {"deaf": True, "steps": 5000})
    pid = at_step(jobs, job, 1).pid
    jobs.pause(job.id)
    time.sleep(0.3)
    assert jobs.get(job.id).message == "Pausing after this step"
    assert not gone(pid), "it has its time to end by itself"
    jobs.stop(job.id)
    assert ended(jobs, job).state == "cancelled"
    assert gone(pid)


def test_a_worker_that_has_done_nothing_yet_is_not_waited_for(
    serve: Callable[[], Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BARREN", 0.1)
    jobs = serve().jobs
    job = jobs.submit("pretend", "loads for long", {"seconds": 300})
    wait(lambda: jobs.get(job.id).state == "running", "its process")
    pid, begun = jobs.get(job.id).pid, time.monotonic()
    jobs.stop(job.id)
    assert ended(jobs, job).state == "cancelled"
    assert time.monotonic() - begun < 30 and gone(pid)


def killed_server(root: Path, submit: Callable[[], Job]) -> Job:
    """A job that was running when its server was killed."""
    with subprocess.Popen([sys.executable, "-c", SERVER, str(root)], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"open\n"
        try:
            job = submit()
            return at_step(Jobs(Workspace.open(root, own=False)), job, job.step + 1)
        finally:
            server.kill()


def test_a_job_outlives_its_killed_server_and_is_taken_up(tmp_path: Path) -> None:
    root = tmp_path / "workspace"
    workspace = Workspace.open(root, own=False)
    jobs = Jobs(workspace)
    job = killed_server(root, lambda: jobs.submit("pretend", "long", {"steps": 5000}))
    assert not gone(job.pid)
    again = Runner(Workspace.open(root))
    again.maker = PretendMaker()  # type: ignore[assignment]
    again.start()
    try:
        taken = at_step(jobs, job, jobs.get(job.id).step + 1)
        assert taken.pid == job.pid
        jobs.stop(job.id)
        assert ended(jobs, job).state == "cancelled"
    finally:
        again.close()
        assert again.workspace.lock is not None
        again.workspace.close()

    # Without any server the worker itself hears a wish; and what dies with all of them is found at the start.
    job = killed_server(root, lambda: jobs.submit("pretend", "longer", {"steps": 5000}))
    jobs.pause(job.id)
    assert ended(jobs, job).state == "paused"
    jobs.resume(job.id)
    job = killed_server(root, lambda: jobs.get(job.id))
    assert job.pid is not None
    os.kill(job.pid, signal.SIGKILL)
    wait(lambda: gone(job.pid), "the worker's end")
    assert jobs.get(job.id).state == "running", "nobody is there to see it"
    [lost] = jobs.recover()
    assert (lost.id, jobs.get(job.id).state) == (job.id, "interrupted")
    assert "Resume" in jobs.get(job.id).error


def test_the_end_of_a_drawing_is_written_when_the_disk_has_room_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Runner(workspace, warm=False)
    job = served.jobs.submit("generate", "a", {})
    refused: list[str] = []
    finish = Jobs.finish

    def full(self: Jobs, job_id: str, state: str, **said: Any) -> bool:
        if len(refused) < 2:
            refused.append(state)
            raise sqlite3.OperationalError("database or disk is full")
        return finish(self, job_id, state, **said)

    class Maker:
        def start(self) -> Any:
            return psutil.Process()

        def ask(self, verb: str, **request: Any) -> Any:
            raise StudioError("the drawing process ended")

    monkeypatch.setattr(Jobs, "finish", full)
    monkeypatch.setattr(served, "maker", Maker())
    monkeypatch.setattr(served._closing, "wait", lambda seconds: False)
    served._draw(job)
    ended = served.jobs.get(job.id)
    assert refused == ["failed", "failed"]
    assert (ended.state, ended.error) == ("failed", "the drawing process ended")
