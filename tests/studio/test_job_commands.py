"""`pigment jobs …`: the queue without a page."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from studio import processes, runner
from studio.cli import main
from studio.jobs import Jobs
from studio.work import KINDS
from studio.workspace import Workspace
from tests.studio.pretend_worker import PRETEND

Run = Callable[..., Any]


@pytest.fixture
def jobs(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """A workspace that a page owns, with kinds of jobs that only pretend."""
    monkeypatch.setenv("PIGMENT_WORKSPACE", str(workspace.root))
    for name, kind in PRETEND.items():
        monkeypatch.setitem(KINDS, name, kind)
    return Jobs(workspace)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The JSON that `pigment jobs …` prints."""

    def call(*arguments: str) -> Any:
        capsys.readouterr()
        code = main(["jobs", *arguments, "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    return call


def test_the_list_tells_running_waiting_ended(
    jobs: Jobs, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    old = [jobs.submit("pretend", f"old {number}", {}) for number in range(3)]
    for job in old:
        jobs.stop(job.id)
    waiting, urgent = jobs.submit("pretend", "waits", {}), jobs.submit("generate", "a cat", {})
    running = jobs.submit("pretend", "runs\n<b>", {})
    jobs.claim(running.id, os.getpid(), psutil.Process().create_time())
    jobs.beat(running.id, step=3, total=10, message="Pretending", memory=3 << 30)
    listed = run("list", "--limit", "2")
    assert [job["id"] for job in listed] == [running.id, urgent.id, waiting.id, old[2].id, old[1].id]
    assert (listed[0]["step"], listed[0]["memory_bytes"], listed[0]["acts"]) == (
        3,
        3 << 30,
        ["stop", "pause"],
    )
    assert 0 <= listed[0]["seconds_left"] < 60
    assert [job["id"] for job in run("list", "--state", "cancelled")] == [job.id for job in reversed(old)]
    assert main(["jobs", "list", "--limit", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(word in lines[0] for word in ("Running", "3/10", "Pretending", "left", "3.0 GB", "runs <b>"))
    assert lines[-1] == "and 2 more: --limit shows more of them"
    shown = run("show", running.id)
    assert (shown["config"], shown["folder"]) == ({}, str(jobs.folder(running)))


def test_jobs_are_named_by_id_by_its_beginning_or_by_title(
    jobs: Jobs, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = jobs.submit("pretend", "Zib", {}, id="aaa-1"), jobs.submit("pretend", "zib", {}, id="aab-1")
    assert [job["state"] for job in run("pause", "aab", one.id)] == ["paused", "paused"]
    assert {job["state"] for job in run("resume", one.id, two.id)} == {"queued"}
    assert [job["id"] for job in run("move", "aab", "first")] == [two.id, one.id]
    for ref, said in (
        ("zib", "2 jobs are named"),
        ("aa", "2 jobs are named"),
        ("aab-2", "'aab-1'"),
        ("", "no job"),
    ):
        assert main(["jobs", "stop", ref]) == 2
        assert said in capsys.readouterr().err
    assert [job.state for job in (jobs.get(one.id), jobs.get(two.id))] == ["queued", "queued"]


def test_what_was_stopped_is_removed_restored_and_done_again(
    jobs: Jobs, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    job = jobs.submit("generate", "a cat", {})
    assert run("stop", "a cat")[0]["state"] == "cancelled"
    [again] = run("retry", job.id)
    assert (again["id"] != job.id, again["state"]) == (True, "queued")
    run("remove", job.id)
    assert [one["id"] for one in run("list")] == [again["id"]]
    run("restore", job.id)
    assert {one["id"] for one in run("list")} == {again["id"], job.id}
    jobs.folder(job).mkdir(exist_ok=True)
    (jobs.folder(job) / "log.txt").write_text("one\ntwo\nthree\n")
    assert run("log", job.id, "--lines", "2")["log"] == "two\nthree"
    for verb, said in (("pause", "cancelled"), ("restore", "")):
        assert main(["jobs", verb, job.id]) == 2
        assert said in capsys.readouterr().err


def test_what_died_while_no_page_ran_is_told(jobs: Jobs, run: Run) -> None:
    job = jobs.submit("pretend", "zib", {})
    jobs.claim(job.id, os.getpid(), 1.0)  # another process' start
    assert run("show", "zib")["state"] == "running", "a page may be about to end it"
    with jobs.workspace.write() as db:
        db.execute("UPDATE jobs SET heartbeat = ?", (time.time() - 100,))
    assert run("show", "zib")["state"] == "interrupted"


def test_run_does_what_waits_where_no_page_does(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "WORKER", "tests.studio.pretend_worker")
    monkeypatch.setattr(processes, "POLL", 0.05)
    good, bad = jobs.submit("pretend", "good", {}), jobs.submit("aside", "bad", {"end": "no sense"})
    assert main(["jobs", "run"]) == 2, "the page owns it"
    assert "in use" in capsys.readouterr().err
    jobs.workspace.close()
    jobs.pause(good.id)
    assert main(["jobs", "resume", "good"]) == 0
    assert "pigment jobs run" in capsys.readouterr().err
    assert main(["jobs", "run"]) == 2
    told = capsys.readouterr().out
    assert "a setting makes no sense" in told
    assert [jobs.get(job.id).state for job in (good, bad)] == ["done", "failed"]
    assert main(["jobs", "run"]) == 0, "nothing is left"
