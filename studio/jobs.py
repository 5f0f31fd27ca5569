"""The queue: jobs live in SQLite, whatever happens to browsers, servers and child processes.

A job moves `queued → running → done | failed | cancelled | interrupted`; the last three can be queued again
and then go on from their last checkpoint. Whether a running job is alive is asked of the system (process id
and start time), never of a browser.
"""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import WorkspaceError
from studio import processes
from studio.workspace import Workspace, new_id

Kind = Literal["train", "generate"]
PRIORITY: dict[str, int] = {"generate": 0, "train": 1}  # pictures take seconds: they go before waiting runs
RESUMABLE = ("cancelled", "interrupted", "failed")
ACTIVE = ("queued", "running")
QUEUE_LIMIT = 100  # waiting jobs


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the queue.

    Attributes:
        config: what to do (a TrainConfig or a generation request, as JSON values).
        details: what the page wants to remember beside it.
        result: what came out of it: `{"adapter": id}` or `{"images": [ids]}`.
        created, started, finished, heartbeat: seconds since 1970; None when it hasn't happened.
        pid, pid_started: the child process and its start time in seconds since 1970.
        step, total: progress; total 0 while unknown.
        message: the present stage in words. error: one line, why it failed or stopped.
        position: its place among those that wait, the lowest first.
        memory: bytes of its process at most; 0 while unknown.
    """

    id: str
    kind: str
    title: str
    state: str
    config: dict[str, Any]
    details: dict[str, Any]
    result: dict[str, Any]
    created: float
    started: float | None
    finished: float | None
    pid: int | None
    pid_started: float | None
    heartbeat: float | None
    stop_requested: bool
    step: int
    total: int
    message: str
    error: str
    position: float
    memory: int

    @property
    def active(self) -> bool:
        """Waiting or running."""
        return self.state in ACTIVE

    @property
    def resumable(self) -> bool:
        """Ended early, so that `Jobs.resume` can queue it again."""
        return self.state in RESUMABLE


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    for name in ("config", "details", "result"):
        values[name] = json.loads(values[name])
    values["stop_requested"] = bool(values["stop_requested"])
    return Job(**values)


@dataclass(frozen=True)
class Jobs:
    """The queue of one workspace; any process may hold one."""

    workspace: Workspace

    def submit(
        self,
        kind: Kind,
        title: str,
        config: dict[str, Any],
        *,
        details: dict[str, Any] | None = None,
        id: str = "",
    ) -> Job:
        """Queue a job and return it. `id`: one made before by `new_id`, whose folder is already there.

        Raises:
            WorkspaceError: `QUEUE_LIMIT` jobs wait already.
        """
        job_id, now = id or new_id(), time.time()
        with self.workspace.write() as db:
            waiting = db.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
            if waiting >= QUEUE_LIMIT:
                raise WorkspaceError(
                    f"{waiting} jobs are waiting, the queue holds {QUEUE_LIMIT}; stop some of them first"
                )
            db.execute(
                "INSERT INTO jobs (id, kind, title, state, config, details, created, position) "
                "VALUES (?, ?, ?, 'queued', ?, ?, ?, ?)",
                (job_id, kind, title, json.dumps(config), json.dumps(details or {}), now, now),
            )
        return self.get(job_id)

    def get(self, job_id: str) -> Job:
        """The job of that id.

        Raises:
            WorkspaceError: there is none.
        """
        with self.workspace.read() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise WorkspaceError(f"no job {job_id!r} in {self.workspace.root}; it may have been removed")
        return _job(row)

    def find(self, *, kind: str | None = None, states: tuple[str, ...] = (), limit: int = 100) -> list[Job]:
        """Jobs, newest first."""
        where, values = ["1"], []
        if kind is not None:
            where.append("kind = ?")
            values.append(kind)
        if states:
            where.append(f"state IN ({','.join('?' * len(states))})")
            values.extend(states)
        query = f"SELECT * FROM jobs WHERE {' AND '.join(where)} ORDER BY created DESC, rowid DESC LIMIT ?"
        with self.workspace.read() as db:
            return [_job(row) for row in db.execute(query, (*values, limit))]

    def next(self) -> Job | None:
        """The job whose turn it is; None when nothing waits."""
        waiting = self.find(states=("queued",), limit=QUEUE_LIMIT + 1)
        return min(waiting, key=lambda job: (PRIORITY[job.kind], job.created), default=None)

    def claim(self, job_id: str, pid: int, pid_started: float) -> bool:
        """Turn a queued job into one that runs in process `pid`; False when it isn't queued any more."""
        now = time.time()
        with self.workspace.write() as db:
            changed = db.execute(
                "UPDATE jobs SET state = 'running', pid = ?, pid_started = ?, "
                "started = coalesce(started, ?), "
                "heartbeat = ?, finished = NULL, error = '' WHERE id = ? AND state = 'queued'",
                (pid, pid_started, now, now, job_id),
            ).rowcount
        return changed == 1

    def beat(
        self, job_id: str, *, step: int | None = None, total: int | None = None, message: str | None = None
    ) -> bool:
        """Write a sign of life and the progress given; returns True when somebody asked the job to stop."""
        with self.workspace.write() as db:
            db.execute(
                "UPDATE jobs SET heartbeat = ?, step = coalesce(?, step), total = coalesce(?, total), "
                "message = coalesce(?, message) WHERE id = ?",
                (time.time(), step, total, message, job_id),
            )
            row = db.execute("SELECT stop_requested FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return bool(row and row["stop_requested"])

    def finish(
        self, job_id: str, state: str, *, error: str = "", result: dict[str, Any] | None = None
    ) -> bool:
        """End a running job; False when it wasn't running (somebody else has already ended it)."""
        assert state in ("done", *RESUMABLE), state
        with self.workspace.write() as db:
            changed = db.execute(
                "UPDATE jobs SET state = ?, error = ?, result = coalesce(?, result), finished = ?, "
                "pid = NULL, "
                "pid_started = NULL, stop_requested = 0 WHERE id = ? AND state = 'running'",
                (state, error, None if result is None else json.dumps(result), time.time(), job_id),
            ).rowcount
        return changed == 1

    def stop(self, job_id: str) -> Job:
        """Ask a job to stop: a waiting one is cancelled at once, a running one at its next step."""
        with self.workspace.write() as db:
            db.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ?, error = 'stopped before it began' "
                "WHERE id = ? AND state = 'queued'",
                (time.time(), job_id),
            )
            db.execute("UPDATE jobs SET stop_requested = 1 WHERE id = ? AND state = 'running'", (job_id,))
        return self.get(job_id)

    def resume(self, job_id: str) -> Job:
        """Queue a job that ended early again.

        Raises:
            WorkspaceError: it is waiting, running or done.
        """
        with self.workspace.write() as db:
            changed = db.execute(
                f"UPDATE jobs SET state = 'queued', stop_requested = 0, error = '', finished = NULL "
                f"WHERE id = ? AND state IN ({','.join('?' * len(RESUMABLE))})",
                (job_id, *RESUMABLE),
            ).rowcount
        job = self.get(job_id)
        if changed != 1:
            raise WorkspaceError(
                f"job {job.title!r} is {job.state}; only a job that ended early can be resumed"
            )
        return job

    def recover(self) -> list[Job]:
        """Turn "running" jobs whose process is gone into "interrupted"; returns them.

        A training process outlives a server that was killed; such a job stays running.
        """
        lost = [
            job for job in self.find(states=("running",)) if not processes.alive(job.pid, job.pid_started)
        ]
        ways = {
            "train": "Resume goes on from the last checkpoint",
            "generate": "press Generate again",
        }
        for job in lost:
            error = f"its process ended without a word; {ways[job.kind]}"
            self.finish(job.id, "interrupted", error=error)
        return lost

    def folder(self, job: Job) -> Path:
        """The run's folder: config, events, checkpoints, previews, log."""
        return self.workspace.folder("runs", job.id)
