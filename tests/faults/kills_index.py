"""The index killed while it is written: what was told is in it, what was being written is there whole or not.

SQLite's own calls can't be counted from here: kills come before each of its statements, and by chance while
one is being carried out, commits above all.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.killing import Ended, Kill, Tell, each_call, forked, moments
from tests.faults.kills_ways import studio_opened
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

    from studio.jobs import Jobs
    from studio.workspace import Workspace

Op = tuple[str, Callable[["Jobs"], Any]]
PASSING = ("created", "started", "finished", "pid", "pid_started", "heartbeat", "details")


def _folder(jobs: Jobs, name: str) -> None:
    folder = jobs.folder(jobs.get(name))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kept.txt").write_text(name)


def _submit(jobs: Jobs, name: str, kind: str) -> None:
    jobs.submit(kind, name, {"a": name}, id=name)


def _begin(jobs: Jobs, name: str) -> None:
    assert jobs.claim(name, os.getpid(), None)  # type: ignore[arg-type]


def operations() -> list[Op]:
    """What happens to a queue in an evening, one at a time."""
    kinds = {"one": "train", "two": "export", "three": "train", "four": "import"}
    found: list[Op] = [
        (f"submit {name}", partial(_submit, name=name, kind=kind)) for name, kind in kinds.items()
    ]
    found += [
        ("move", lambda jobs: jobs.move("three", "first")),
        ("folder", lambda jobs: _folder(jobs, "one")),
        ("claim", lambda jobs: _begin(jobs, "three")),
        ("beat", lambda jobs: jobs.beat("three", step=3, total=9, message="Learning", memory=1 << 20)),
        ("note", lambda jobs: jobs.note("three", lower="batch size")),
        ("pause", lambda jobs: jobs.pause("three")),
        ("finish", lambda jobs: jobs.finish("three", "paused", error="paused by you")),
        ("resume", lambda jobs: jobs.resume("three")),
        ("stop", lambda jobs: jobs.stop("one")),
        ("remove", lambda jobs: jobs.remove("one")),
        ("claim two", lambda jobs: _begin(jobs, "two")),
        ("finish two", lambda jobs: jobs.finish("two", "done", result={"file": "a.safetensors"})),
        ("restore", lambda jobs: jobs.restore("one")),
        ("remember", lambda jobs: jobs.workspace.remember("theme", {"dark": True})),
        ("remove again", lambda jobs: jobs.remove("one")),
    ]
    return found


def live(root: Path, copies: Path | None, tell: Tell) -> None:
    """Do all operations, telling of each; copies: keep the workspace as it is after each."""
    from studio.jobs import Jobs

    workspace = studio_opened(root)
    for number, (_, do) in enumerate(operations(), 1):
        do(Jobs(workspace))
        tell(number)
        if copies is not None:
            shutil.copytree(root, copies / f"{number:03d}")


def seen(root: Path) -> str:
    """All that an index says but times and processes, with where each run lies; opened as the server does."""
    workspace = studio_opened(root)
    try:
        with workspace.read() as db:
            problem = db.execute("PRAGMA integrity_check").fetchone()[0]
            assert problem == "ok", problem
            rows = [dict(row) for row in db.execute("SELECT * FROM jobs ORDER BY id")]
            query = "SELECT * FROM settings WHERE key <> 'unlisted_since' ORDER BY key"
            settings = [tuple(row) for row in db.execute(query)]
        for row in rows:
            for name in PASSING:
                row.pop(name)
        places = sorted(
            path.parent.relative_to(root).as_posix()
            for name in ("runs", "trash")
            for path in (root / name).glob("*/kept.txt")
        )
        return json.dumps([rows, settings, places])
    finally:
        workspace.close()


def goes_on(root: Path) -> None:
    """Queue a job and do it: the queue works."""
    from studio.jobs import Jobs

    workspace = studio_opened(root)
    jobs = Jobs(workspace)
    job = jobs.submit("train", "new", {})
    _begin(jobs, job.id)
    assert jobs.finish(job.id, "done"), "a new job can't be ended"
    assert jobs.get(job.id).state == "done", "a new job isn't done"
    workspace.close()


def states(copies: Path, tell: Tell) -> list[str]:
    """What is seen in each of these workspaces, once the process that made them is gone."""
    return [seen(path) for path in sorted(copies.iterdir())]


def after_kill(root: Path, expected: list[str], number: int, tell: Tell) -> str | None:
    """What is wrong with a workspace whose process was killed when it had told of `number` operations."""
    found = seen(root)
    if found not in expected[number : number + 2]:
        names = ["nothing", *(name for name, _ in operations()), "nothing"]
        return f"it isn't as after {names[number]!r}, nor as after {names[number + 1]!r}: {found[:300]}"
    goes_on(root)
    return None


def queue(task: Task, tally: Tally) -> None:
    """Kill what writes the queue before every statement, and while it is written."""
    import studio.runner  # noqa: F401 (before any fork)

    made, copies = task.folder / "made", task.folder / "states"
    copies.mkdir()
    forked(lambda tell: studio_opened(made).close())
    forked(partial(live, Path(shutil.copytree(made, task.folder / "one")), copies))
    shutil.copytree(made, copies / "000")
    whole = forked(partial(live, Path(shutil.copytree(made, task.folder / "two")), None))
    expected = forked(partial(states, copies))
    assert whole.calls and expected.answer, whole.failed or expected.failed
    for number, kill in enumerate(_kills(whole, task)):
        if tally.tried >= task.count:
            break
        root = Path(shutil.copytree(made, task.folder / f"run-{number}"))
        ended = forked(partial(live, root, None), kill)
        if not ended.killed:
            tally.didnt_happen()
            continue
        told = ended.told[-1] if ended.told else 0
        looked = forked(partial(after_kill, root, expected.answer, told))
        name = whole.calls[kill.at - 1].name if kill.at else "at random"
        tally.happened(f"{kill} ({name}), {told} operations told", looked.failed or looked.answer)
        shutil.rmtree(root)
    tally.measured("calls of the queue", len(whole.calls))


def _kills(whole: Ended, task: Task) -> Iterator[Kill]:
    """Before each call, then at each commit and a little later, then whenever."""
    chance = random.Random(task.seed)
    part = max(1, task.count // 2)
    for number, kill in enumerate(each_call(whole, min(part, len(whole.calls)), chance)):
        if number == min(part, len(whole.calls)):
            break
        yield kill
    commits = [number for number, call in enumerate(whole.calls, 1) if call.name == "sqlite COMMIT"] or [1]
    for _ in range(task.count // 4):
        yield Kill(at=chance.choice(commits), late=chance.uniform(1e-5, 4e-3))
    yield from moments(whole, task.count, chance)


# ── An index of an older Pigment


def older(root: Path, version: int) -> None:
    """Write an index as Pigment had it at that version, with a row in each table."""
    from studio import workspace

    root.mkdir()
    db = sqlite3.connect(root / workspace.INDEX_NAME, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    for step in range(1, version + 1):
        for statement in workspace._STEPS[step].split(";"):
            db.execute(statement)
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        columns = [row[1:4] for row in db.execute(f"PRAGMA table_info({table})")]
        for number in range(3):
            row = {name: number if kind != "TEXT" else _text(name, number) for name, kind, _ in columns}
            names, places = ", ".join(row), ", ".join("?" * len(row))
            db.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", tuple(row.values()))
    db.execute(f"PRAGMA user_version = {version}")
    db.close()


def _text(column: str, number: int) -> str:
    values = {"state": "done", "kind": "train", "file": f"images/{number}.png", "origin": "imported"}
    if column in ("config", "details", "result", "info", "settings", "value"):
        return json.dumps({"generation": {"prompt": f"a {number}", "width": 8}})
    return {"tags": "[]", "notes": "[]"}.get(column, values.get(column, f"{column} {number}"))


def brought_up(root: Path, tell: Tell) -> str:
    """Open an index, which brings it up to date; returns all that is in it."""
    from studio.workspace import SCHEMA_VERSION, Workspace

    workspace = Workspace.open(root)
    with workspace.read() as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
        schema = sorted(str(row[0]) for row in db.execute("SELECT sql FROM sqlite_master"))
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [[table, *map(tuple, db.execute(f"SELECT * FROM {table}"))] for table in sorted(tables)]
    workspace.close()
    return json.dumps([schema, rows])


def schema(task: Task, tally: Tally) -> None:
    """Kill the bringing up of an older index before every statement, for each version there was."""
    from studio.workspace import SCHEMA_VERSION

    chance, versions = random.Random(task.seed), range(1, SCHEMA_VERSION)
    share = -(-task.count // len(versions))
    for version in versions:
        made = task.folder / f"version-{version}"
        older(made, version)
        whole = forked(partial(brought_up, Path(shutil.copytree(made, task.folder / f"whole-{version}"))))
        assert whole.answer, whole.failed
        goal = min(tally.tried + share, task.count)
        for kill in each_call(whole, min(share, len(whole.calls)), chance):
            if tally.tried >= goal:
                break
            root = Path(shutil.copytree(made, task.folder / "run"))
            if forked(partial(brought_up, root), kill).killed:
                again = forked(partial(brought_up, root))
                same = None if again.answer == whole.answer else "other rows or tables than without the kill"
                tally.happened(f"version {version}, {kill}", again.failed[-300:] or same)
            else:
                tally.didnt_happen()
            shutil.rmtree(root)
        tally.measured(f"calls from version {version}", len(whole.calls))


# ── Safeguards


def outside_a_transaction(patch: MonkeyPatch) -> None:
    """Each statement is kept by itself."""
    from studio.workspace import Workspace

    @contextmanager
    def write(self: Workspace) -> Iterator[sqlite3.Connection]:
        with self.read() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            yield db

    patch.setattr(Workspace, "write", write)


def nobody_settles(patch: MonkeyPatch) -> None:
    """A run lies where a killed process has left it, wherever the index has its job."""
    from studio.work import keeping

    patch.setattr(keeping, "_settle", lambda *_, **__: None)


QUEUE_PLANTS: dict[str, Callable[[MonkeyPatch], None]] = {
    "outside a transaction": outside_a_transaction, "nobody settles": nobody_settles,
}  # fmt: skip
SCHEMA_PLANTS: dict[str, Callable[[MonkeyPatch], None]] = {"outside a transaction": outside_a_transaction}
