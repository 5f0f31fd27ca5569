"""The queue: states, order, and what becomes of jobs whose process died."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil  # type: ignore[import-untyped]
import pytest

from pipelines.errors import ConfigError, WorkspaceError
from studio.jobs import QUEUE_LIMIT, Jobs
from studio.work import KINDS, keeping
from studio.work.job import ACTS, STATES, Job
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
    assert jobs.claim(job.id, os.getpid(), psutil.Process().create_time())
    assert not jobs.claim(job.id, os.getpid(), psutil.Process().create_time()), "claimed twice"
    assert not jobs.beat(job.id, step=3, total=10, message="Learning")
    running = jobs.get(job.id)
    assert (running.state, running.step, running.total, running.message) == ("running", 3, 10, "Learning")
    assert running.heartbeat is not None
    assert jobs.finish(job.id, "done", result={"adapter": "x"})
    assert not jobs.finish(job.id, "failed", error="late"), "ended twice"
    done = jobs.get(job.id)
    assert (done.state, done.result, done.pid, done.error) == ("done", {"adapter": "x"}, None, "")
    assert done.message == ""


def run(jobs: Jobs, job: Job) -> Job:
    """The job as one that runs in this process."""
    assert jobs.claim(job.id, os.getpid(), psutil.Process().create_time())
    return jobs.get(job.id)


def titles(jobs: Jobs) -> list[str]:
    return [job.title for job in jobs.waiting()]


def test_pictures_go_before_waiting_trainings_and_otherwise_the_first_comes_first(jobs: Jobs) -> None:
    first, second = jobs.submit("train", "1", {}), jobs.submit("train", "2", {})
    picture = jobs.submit("generate", "3", {})
    order = []
    while (job := jobs.next()) is not None:
        order.append(job.id)
        jobs.claim(job.id, os.getpid(), psutil.Process().create_time())
        jobs.finish(job.id, "done")
    assert order == [picture.id, first.id, second.id]


def test_stop_cancels_a_waiting_job_and_asks_a_running_one(jobs: Jobs) -> None:
    waiting, running = jobs.submit("train", "w", {}), jobs.submit("train", "r", {})
    jobs.claim(running.id, os.getpid(), psutil.Process().create_time())
    assert jobs.stop(waiting.id).state == "cancelled"
    stopped = jobs.stop(running.id)
    assert (stopped.state, stopped.stop_requested) == ("running", True)
    assert jobs.beat(running.id) is True
    jobs.finish(running.id, "cancelled")
    assert jobs.resume(running.id).stop_requested is False


def test_dead_running_jobs_become_interrupted_and_resumable(jobs: Jobs) -> None:
    dead, alive, reused = (jobs.submit("train", name, {}) for name in ("dead", "alive", "reused"))
    jobs.claim(dead.id, dead_process(), 1.0)
    jobs.claim(alive.id, os.getpid(), psutil.Process().create_time())
    jobs.claim(
        reused.id, os.getpid(), psutil.Process().create_time() - 1000
    )  # another process has that id now
    assert {job.id for job in jobs.recover()} == {dead.id, reused.id}
    assert jobs.get(dead.id).state == jobs.get(reused.id).state == "interrupted"
    assert "Resume" in jobs.get(dead.id).error
    assert jobs.get(alive.id).state == "running"
    assert jobs.resume(dead.id).state == "queued"


def test_only_what_ended_early_can_be_resumed(jobs: Jobs) -> None:
    job = jobs.submit("train", "zib", {})
    with pytest.raises(WorkspaceError, match="queued"):
        jobs.resume(job.id)
    jobs.claim(job.id, os.getpid(), psutil.Process().create_time())
    jobs.finish(job.id, "done")
    with pytest.raises(WorkspaceError, match="done"):
        jobs.resume(job.id)


def test_a_pause_lasts_until_it_is_resumed(jobs: Jobs) -> None:
    waiting, running = jobs.submit("train", "w", {}), run(jobs, jobs.submit("train", "r", {}))
    paused = jobs.pause(waiting.id)
    assert (paused.state, paused.error, paused.resumable, jobs.next()) == (
        "paused",
        "paused by you",
        True,
        None,
    )
    asked = jobs.pause(running.id)
    assert (asked.state, asked.asked, asked.message) == ("running", "paused", "Pausing after this step")
    assert jobs.beat(running.id, message="Learning") is True
    assert jobs.get(running.id).message == "Pausing after this step"
    assert jobs.stop(running.id).asked == "cancelled", "who stops it doesn't want it any more"
    jobs.finish(running.id, "paused", error="paused by you")
    assert jobs.stop(running.id).state == "cancelled"
    assert jobs.resume(waiting.id).state == "queued"
    again = run(jobs, waiting)
    assert (again.asked, again.error, again.message) == ("", "", "Starting")


def test_only_what_would_go_on_is_paused(jobs: Jobs) -> None:
    drawn = run(jobs, jobs.submit("generate", "a cat", {}))
    with pytest.raises(WorkspaceError, match="begin anew"):
        jobs.pause(drawn.id)
    jobs.finish(drawn.id, "done")
    with pytest.raises(WorkspaceError, match="done"):
        jobs.pause(drawn.id)


def test_a_person_moves_what_waits_for_the_same(jobs: Jobs) -> None:
    ids = {title: jobs.submit(kind, title, {}).id for kind, title in (
        ("train", "a"), ("train", "b"), ("export", "x"), ("train", "c"), ("export", "y"), ("generate", "g"),
    )}  # fmt: skip
    assert [title for title in titles(jobs) if title in "abcg"] == ["g", "a", "b", "c"]
    for title, where, order in (
        ("c", "up", "gacb"), ("c", "first", "cgab"), ("c", "up", "cgab"), ("c", "down", "gcab"),
        ("b", "down", "gcab"),
    ):  # fmt: skip
        jobs.move(ids[title], where)
        assert "".join(title for title in titles(jobs) if title in "abcg") == order
    jobs.submit("generate", "h", {})
    assert titles(jobs).index("h") == titles(jobs).index("g") + 1, (
        "not before those that were asked for first"
    )
    assert (jobs.next(device=False) or jobs.get("none")).title == "x"
    jobs.move(ids["y"], "up")
    assert (jobs.next(device=False) or jobs.get("none")).title == "y"
    run(jobs, jobs.get(ids["a"]))
    with pytest.raises(WorkspaceError, match="running"):
        jobs.move(ids["a"], "up")
    with pytest.raises(WorkspaceError, match="up, down, first"):
        jobs.move(ids["b"], "last")


def test_retry_goes_on_or_copies_the_job_with_a_folder_of_its_own(jobs: Jobs) -> None:
    config = {"run": {"output": "somewhere", "steps": 3}, "data": {}}
    training = run(jobs, jobs.submit("train", "zib", config, details={"kind": "subject"}))
    with pytest.raises(WorkspaceError, match="running"):
        jobs.retry(training.id)
    jobs.finish(training.id, "failed", error="out of memory")
    assert jobs.retry(training.id).id == training.id
    jobs.finish(run(jobs, training).id, "done", result={"adapter": "x"})
    copy = jobs.retry(training.id)
    assert (copy.id != training.id, copy.state, copy.result) == (True, "queued", {})
    assert copy.config == {"run": {"output": str(jobs.folder(copy)), "steps": 3}, "data": {}}
    assert copy.details == {"kind": "subject"}
    picture = run(jobs, jobs.submit("generate", "a cat", {"a": 1}))
    jobs.beat(picture.id, step=3, total=8)
    jobs.finish(picture.id, "failed")
    copy = jobs.retry(picture.id)
    assert (copy.id != picture.id, copy.config) == (True, {"a": 1})
    jobs.resume(picture.id)
    assert run(jobs, picture).step == 0, "it begins anew"


def test_what_is_removed_lies_in_the_trash_and_comes_back(jobs: Jobs) -> None:
    job = run(jobs, jobs.submit("train", "zib", {"a": 1}, details={"b": 2}))
    folder = jobs.folder(job)
    (folder / "previews").mkdir(parents=True)
    for name in ("first.png", "last.png"):
        (folder / "previews" / name).write_bytes(name.encode())
    with jobs.workspace.write() as db:
        db.execute(
            "INSERT INTO adapters (id, name, file, origin, cover, created) VALUES ('1', 'zib', '', '', ?, 0)",
            (f"preview/{job.id}/last.png",),
        )
    with pytest.raises(WorkspaceError, match="stop it first"):
        jobs.remove(job.id)
    jobs.finish(job.id, "failed", error="why")
    before = jobs.get(job.id)
    assert jobs.remove(job.id) == before
    assert jobs.find() == []
    kept = [path.name for path in folder.rglob("*") if path.is_file()]
    assert kept == ["last.png"], "it is the adapter's cover"
    with pytest.raises(WorkspaceError, match="removed"):
        jobs.get(job.id)
    assert jobs.restore(job.id) == before
    assert sorted(path.name for path in (folder / "previews").iterdir()) == ["first.png", "last.png"]
    assert not list(jobs.workspace.folder("trash").iterdir())
    for gone in (job.id, "../runs", ""):
        with pytest.raises(WorkspaceError, match="trash"):
            jobs.restore(gone)


def test_a_run_lies_where_its_job_is_listed_also_after_a_kill_between_the_two(jobs: Jobs) -> None:
    job = run(jobs, jobs.submit("train", "zib", {"a": 1}))
    jobs.finish(job.id, "failed", error="why")
    folder, trash = jobs.folder(job), jobs.workspace.folder("trash", f"run-{job.id}")
    (folder / "previews").mkdir(parents=True)
    (folder / "previews" / "last.png").write_bytes(b"last")
    before = jobs.get(job.id)
    jobs.remove(job.id)
    row = (trash / "job.json").read_bytes()
    trash.rename(folder)  # as restoring does before the index has the job
    keeping.sweep(jobs.workspace)
    assert not folder.exists() and trash.is_dir()
    trash.rename(folder)
    assert jobs.restore(job.id) == before, "also where nobody has swept in between"

    (folder / "job.json").write_bytes(row)
    folder.rename(trash)  # as removing does while the index has it
    keeping.sweep(jobs.workspace)
    assert (folder / "previews" / "last.png").is_file() and not trash.exists()
    folder.rename(trash)
    jobs.remove(job.id)
    assert (trash / "previews" / "last.png").is_file(), "removed again, it isn't thrown away"


def test_what_can_be_done_with_a_job_can_be_done(jobs: Jobs) -> None:
    calls = {
        "stop": jobs.stop, "pause": jobs.pause, "resume": jobs.resume, "retry": jobs.retry,
        "remove": jobs.remove, "move": lambda job_id: jobs.move(job_id, "first"),
    }  # fmt: skip
    tried = set()
    for kind in ("train", "generate"):
        for state in STATES:
            for act in ACTS[state]:
                job = jobs.submit(kind, "job", {})
                with jobs.workspace.write() as db:
                    db.execute("UPDATE jobs SET state = ? WHERE id = ?", (state, job.id))
                if act in jobs.get(job.id).acts:
                    calls[act](job.id)
                    tried.add((state, act))
    assert tried == {(state, act) for state, acts in ACTS.items() for act in acts}


def test_going_on_is_not_offered_where_it_ends_as_before(jobs: Jobs) -> None:
    job = jobs.submit("train", "broken", {})
    run(jobs, job)
    jobs.note(job.id, stuck=True)
    jobs.finish(job.id, "failed", error="loss isn't finite at step 3")
    assert jobs.get(job.id).acts == ("remove",)
    assert jobs.resume(job.id).state == "queued", "who asks for it by its name gets it"


def test_acts_offer_what_means_something(jobs: Jobs) -> None:
    job = jobs.submit("train", "zib", {})
    assert job.acts == ("stop", "pause", "move")
    assert run(jobs, job).acts == ("stop", "pause")
    assert jobs.pause(job.id).acts == ("stop",)
    jobs.finish(job.id, "interrupted")
    assert jobs.get(job.id).acts == ("resume", "remove")
    picture = run(jobs, jobs.submit("generate", "a cat", {}))
    assert picture.acts == ("stop",)
    jobs.finish(picture.id, "failed")
    assert jobs.get(picture.id).acts == ("retry", "remove")


def test_a_stop_that_its_process_did_not_live_to_see_counts(jobs: Jobs) -> None:
    job = run(jobs, jobs.submit("train", "zib", {}))
    jobs.pause(job.id)
    with jobs.workspace.write() as db:
        db.execute("UPDATE jobs SET pid = ?, pid_started = 1.0", (dead_process(),))
    assert [one.id for one in jobs.recover()] == [job.id]
    assert (jobs.get(job.id).state, jobs.get(job.id).error) == ("paused", "paused by you")


def test_the_list_is_read_in_pages_and_counted(jobs: Jobs) -> None:
    for number in range(5):
        jobs.submit("train" if number % 2 else "generate", str(number), {})
    run(jobs, jobs.find(limit=1)[0])
    assert [job.title for job in jobs.find(limit=2, offset=1)] == ["3", "2"]
    assert [job.title for job in jobs.find(kind="train", limit=5)] == ["3", "1"]
    assert jobs.counts() == {**dict.fromkeys(STATES, 0), "queued": 4, "running": 1}
    assert (jobs.holding() or jobs.get("none")).title == "4"


def test_the_time_between_two_processes_is_not_worked(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("studio.jobs.time.time", lambda: now)
    job = jobs.submit("train", "zib", {})
    assert run(jobs, job).worked == 0
    now += 10
    jobs.beat(job.id)
    assert jobs.get(job.id).worked == 10
    now += 1
    jobs.finish(job.id, "paused")
    now += 5000
    jobs.resume(job.id)
    assert run(jobs, job).worked == 11
    now += 2
    jobs.finish(job.id, "done")
    assert jobs.get(job.id).worked == 13
    assert jobs.get(jobs.retry(job.id).id).worked == 0


def test_an_unknown_kind_is_named(jobs: Jobs) -> None:
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        jobs.submit("trian", "zib", {})


@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_has_its_function(name: str) -> None:
    kind = KINDS[name]
    assert callable(kind.work()) if kind.run else kind.device


def test_the_log_is_what_a_terminal_would_show_at_its_end(jobs: Jobs) -> None:
    job = jobs.submit("train", "zib", {})
    assert jobs.log_tail(job) == ""
    jobs.folder(job).mkdir()
    lines = [f"line {number} " + "x" * 90 for number in range(1000)]
    text = "\n".join(lines) + "\n\n 10%\r 50%\r\x1b[32m100%\x1b[0m\r\nend \xff<b>\n"
    (jobs.folder(job) / "log.txt").write_bytes(text.encode("latin-1"))
    shown = jobs.log_tail(job, 3).splitlines()
    assert shown == [lines[-1], "100%", "end \N{REPLACEMENT CHARACTER}<b>"]
    assert len(jobs.log_tail(job, 10_000)) < 70_000


def test_the_queue_is_bounded(jobs: Jobs) -> None:
    with jobs.workspace.write() as db:
        for number in range(QUEUE_LIMIT):
            db.execute(
                "INSERT INTO jobs (id, kind, title, state, config, created) "
                "VALUES (?, 'train', '', 'queued', '{}', 0)",
                (str(number),),
            )
        db.execute("INSERT INTO jobs (id, kind, title, state, config, created) "
                   "VALUES ('x', 'train', '', 'paused', '{}', 0)")  # fmt: skip
    with pytest.raises(WorkspaceError, match=f"holds {QUEUE_LIMIT}"):
        jobs.resume("x")
    with pytest.raises(WorkspaceError, match=f"holds {QUEUE_LIMIT}"):
        jobs.submit("train", "one more", {})


def test_an_unknown_job_is_named(jobs: Jobs) -> None:
    with pytest.raises(WorkspaceError, match="nope"):
        jobs.get("nope")


def test_what_nobody_needs_any_more_is_cleared_away_at_the_start(jobs: Jobs) -> None:
    workspace, month = jobs.workspace, keeping.TRASH_KEPT
    kept, old = (jobs.submit("train", name, {}) for name in ("kept", "old"))
    for job in (kept, old):
        jobs.stop(job.id)
        jobs.remove(job.id)
    trash, cache = workspace.folder("trash"), workspace.folder("cache")
    dropped, scratch, busy = workspace.uploads / "a" / "b.zip", cache / "tmpold", cache / "tmpnew"
    for folder in (dropped.parent, scratch, busy):
        folder.mkdir(parents=True)
    dropped.write_bytes(b"left by a killed server")
    os.utime(scratch, (1, 1))
    long_ago = time.time() - month - 60
    os.utime(trash / f"run-{old.id}" / "job.json", (long_ago, long_ago))
    os.utime(trash / f"run-{kept.id}", (1, 1))
    with (cache / keeping.MAKER_LOG).open("wb") as log:
        log.truncate(keeping.MAKER_LOG_BYTES + 1)
    keeping.sweep(workspace)
    assert [folder.name for folder in trash.iterdir()] == [f"run-{kept.id}"]
    assert not dropped.exists() and not scratch.exists() and busy.exists()
    assert not (cache / keeping.MAKER_LOG).exists()
    assert jobs.restore(kept.id).title == "kept"
    keeping.sweep(workspace)
