"""The studio on a disk that is full: its jobs pause and say so, the page goes on answering."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.disk_full_run import filled_when_open, prepare, tell
from tests.faults.disk_full_space import Space, forked
from tests.faults.ground import ground
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest import MonkeyPatch

    from studio.jobs import Job
    from studio.workspace import Workspace
    from tests.faults.load_client import Client

PATIENCE = 180.0  # seconds
SAID = "paused: disk full"


def queue(workspace: Workspace, steps: int) -> Job:
    """Queue a small training, its pictures in the workspace."""
    from studio.jobs import Jobs
    from studio.workspace import new_id

    job_id = new_id()
    folder = workspace.folder("pictures", job_id)
    shutil.copytree(ground() / "pictures", folder)
    config = {
        "data": {
            "instance_images": str(folder), "trigger": "zuv", "instance_prompt": "a photo of a zuv disc",
            "prior_weight": 0,
        },
        "adapter": {"rank": 2},
        "run": {
            "output": str(workspace.folder("runs", job_id)), "base": str(ground() / "base"),
            "cache": str(workspace.folder("cache")), "steps": steps, "batch_size": 1, "threads": 1,
            "checkpoint_every": 2, "preview_every": steps, "preview_prompts": ["a zuv disc"],
            "evaluate_every": 2, "device": "cpu",
        },
    }  # fmt: skip
    return Jobs(workspace).submit("train", "zuv", config, id=job_id)


def work(workspace: Workspace, job: Job) -> Job:
    """Do a queued job to its end as its process does, and its server where that can't write the end."""
    import psutil  # type: ignore[import-untyped]

    from studio import worker
    from studio.jobs import Jobs
    from studio.runner import Runner

    jobs = Jobs(workspace)
    assert jobs.claim(job.id, os.getpid(), psutil.Process().create_time())
    code = worker.run(workspace, job.id, threading.Event())
    runner = Runner(workspace, warm=False)
    runner._settle(job.id, lambda found: runner._ending(found, code))
    return jobs.get(job.id)


def at_level(root: Path, free: int, wanted: str) -> dict[str, Any]:
    """In a fork: a job with so many bytes free once it has begun, then with room."""

    def act() -> dict[str, Any]:
        from studio import worker
        from studio.jobs import Jobs
        from studio.library import Library
        from studio.work import keeping
        from studio.workspace import Workspace

        space, worker.LAST_WORDS = Space.mounted(root), 1.0
        workspace = Workspace.open(root / "workspace")
        keeping.lay_by(workspace)
        job = queue(workspace, 6)
        # As the server has it: a connection that stays.
        with closing(sqlite3.connect(workspace.index_path)) as kept:
            kept.execute("SELECT count(*) FROM jobs").fetchone()
            with filled_when_open(space, free):
                found = work(workspace, job)
        if found.state == "done":
            return {}
        problem = None
        if found.state != "paused" or not found.error.startswith(SAID):
            problem = f"the job is {found.state}: {found.error}"
        space.make_room()
        Jobs(workspace).resume(job.id)
        found = work(workspace, job)
        if found.state != "done":
            problem = problem or f"resumed, the job is {found.state}: {found.error}"
        elif Library(workspace).get(found.result["adapter"]).sha256 != wanted:
            problem = problem or "going on ended in another adapter"
        return {"happened": True, "problem": problem}

    return forked(act)


def whole_sha256(root: Path) -> str:
    """What the adapter is when nothing happens."""

    def act() -> dict[str, Any]:
        from studio.library import Library
        from studio.workspace import Workspace

        workspace = Workspace.open(root)
        found = work(workspace, queue(workspace, 6))
        entry = Library(workspace).get(found.result["adapter"])
        return {"sha256": entry.sha256, "bytes": sum(one.stat().st_size for one in _files(root))}

    answer = forked(act)
    assert "broke" not in answer, answer["broke"]
    return str(answer["sha256"])


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def jobs(task: Task, tally: Tally) -> None:
    """Do a job on a disk that fills up at as many levels as asked for, the index on it too."""
    prepare()
    wanted = whole_sha256(task.folder / "unbroken")
    for number in range(3 * task.count):
        if tally.tried >= task.count:
            break
        root = task.folder / f"disk-{number}"
        root.mkdir()
        free = number * 300_000 // task.count if number < task.count else (number * 7919 % 30) * 10_000
        tell(tally, f"{free:,} bytes free", at_level(root, free, wanted))


# ── The page


def page(task: Task, tally: Tally) -> None:
    """A real studio whose disk fills up while it teaches: `task.count` looks at the page meanwhile."""
    ground()
    root = task.folder / "disk"
    root.mkdir()
    answer = forked(lambda: _page(task, root), 1200)
    if "broke" in answer:
        raise RuntimeError(answer["broke"])
    for what, problem in answer["looks"]:
        tally.happened(what, problem)
    for name, seconds in answer["seconds"].items():
        tally.measured(name, seconds)


def _page(task: Task, root: Path) -> dict[str, Any]:
    from studio.jobs import Jobs
    from studio.workspace import Workspace
    from tests.faults.load_client import Client
    from tests.faults.load_server import studio_of

    space, seconds = Space.mounted(root), {}
    with studio_of(task, root / "workspace", str(ground() / "base")) as studio:
        client, workspace = Client(studio.address), Workspace.open(root / "workspace", own=False)
        job = queue(workspace, 4000)
        _until(lambda: Jobs(workspace).get(job.id).step >= 3, "the third step")
        space.leave(0)
        began = time.monotonic()
        _until(lambda: client.call("status", job=job.id)["state"] != "running", "the pause")
        seconds["seconds to the pause"] = time.monotonic() - began
        space.leave(0)  # what the reserve and removed halves gave back is taken too
        looks = [look for _ in range(task.count) for look in _looks(client, job.id)]
        space.make_room()
        Jobs(workspace).resume(job.id)
        step = Jobs(workspace).get(job.id).step
        _until(lambda: Jobs(workspace).get(job.id).step > step + 3, "that it goes on")
        looks.append(("going on with room", None))
        with suppress(Exception):
            Jobs(workspace).stop(job.id)
        if client.failed:
            looks.append(("every answer", f"these were none: {client.failed[:5]}"))
    return {"looks": looks, "seconds": seconds}


def _looks(client: Client, job_id: str) -> list[tuple[str, str | None]]:
    """What a person does meanwhile: (what, what is wrong with it)."""
    return [
        ("the page", _problem(lambda: client.ask("/")[0] == 200)),
        ("the status", _problem(lambda: client.call("status", job=job_id)["error"].startswith(SAID))),
        ("the library", _problem(lambda: client.call("list", what="adapters") is not None)),
        ("the list of jobs", _problem(lambda: client.call("list", what="jobs") is not None)),
        ("an upload", _refused(client)),
    ]


def _problem(act: Callable[[], bool]) -> str | None:
    try:
        return None if act() else "another answer"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"


def _refused(client: Client) -> str | None:
    """An upload of more than there is room for is refused with a line, and nothing breaks."""
    path = ground() / "large.png"
    if not path.exists():
        path.write_bytes((ground() / "pictures" / "00.png").read_bytes() + os.urandom(4 << 20))
    edge = b"7d1f"
    body = (
        b'--%b\r\nContent-Disposition: form-data; name="files"; filename="large.png"\r\n\r\n%b\r\n--%b--\r\n'
        % (edge, path.read_bytes(), edge)
    )
    status, said = client.ask("/gradio_api/upload", body, "multipart/form-data; boundary=7d1f")
    client.failed[:] = [one for one in client.failed if not one.startswith("507 ")]  # declared
    full = status in (413, 507) and b"full" in said and said.count(b"\n") <= 1
    return None if full else f"answered with {status}: {said[:300]!r}"


def _until(there: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not there():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.2)


def no_pause(patch: MonkeyPatch) -> None:
    """A full disk is an error like others."""
    from studio import worker
    from trainers import room

    patch.setattr(worker, "is_full", lambda *_: False)
    patch.setattr(room, "disk_full", lambda error: None)


def no_answer(patch: MonkeyPatch) -> None:
    """The server has no word for a full disk."""
    from studio import server

    patch.setattr(server, "say_when_full", lambda *_: None)


JOB_PLANTS = {"a full disk is no pause": no_pause}
PAGE_PLANTS = {"no answer for a full disk": no_answer, "a full disk is no pause": no_pause}
