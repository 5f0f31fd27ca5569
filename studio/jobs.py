"""The queue: jobs live in SQLite, whatever happens to browsers, servers and child processes.

A job moves `queued → running → done | failed | paused | cancelled | interrupted`; the last four can be
queued again and then go on where they stopped. Kinds stand in `studio.work.KINDS`, a job's fields in
`studio.work.job`. Whether a running job is alive is asked of the system (process id and start time).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import WorkspaceError
from studio import processes
from studio.work import KINDS, keeping, kind_of, order
from studio.work.job import ACTIVE as ACTIVE
from studio.work.job import ASKED, ENDING, OF_A_PROCESS, REASONS, RESUMABLE, STATES, Job, job_of
from studio.work.order import QUEUE_LIMIT as QUEUE_LIMIT
from studio.workspace import Workspace, new_id


@dataclass(frozen=True)
class Jobs:
    """The queue of one workspace; any process may hold one."""

    workspace: Workspace

    # ── Looking

    def get(self, job_id: str) -> Job:
        """The job of that id.

        Raises:
            WorkspaceError: there is none.
        """
        with self.workspace.read() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise WorkspaceError(f"no job {job_id[:80]!r} here; it may have been removed")
        return job_of(row)

    def find(
        self, *, kind: str | None = None, states: Sequence[str] = (), limit: int = 100, offset: int = 0
    ) -> list[Job]:
        """Jobs, newest first: `limit` of them after the first `offset`."""
        where, values = ["1"], []
        if kind is not None:
            where.append("kind = ?")
            values.append(kind)
        if states:
            where.append(f"state IN ({_marks(states)})")
            values.extend(states)
        query = f"SELECT * FROM jobs WHERE {' AND '.join(where)} ORDER BY created DESC, rowid DESC"
        with self.workspace.read() as db:
            return [job_of(row) for row in db.execute(f"{query} LIMIT ? OFFSET ?", (*values, limit, offset))]

    def counts(self) -> dict[str, int]:
        """How many jobs are in each of `STATES`."""
        with self.workspace.read() as db:
            found = dict(db.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
        return {state: int(found.get(state, 0)) for state in STATES}

    def waiting(self) -> list[Job]:
        """Queued jobs in the order of their turns."""
        with self.workspace.read() as db:
            return [job_of(row) for row in order.queued(db)]

    def next(self, *, device: bool | None = None) -> Job | None:
        """The job whose turn it is; None when nothing waits.

        device: only among those that do, or don't, need the device; None for all.
        """
        fitting = (job for job in self.waiting() if device is None or KINDS[job.kind].device == device)
        return next(fitting, None)

    def holding(self) -> Job | None:
        """The running job that has the device; None where it is free."""
        running = self.find(states=("running",))
        return next((job for job in running if job.kind in KINDS and KINDS[job.kind].device), None)

    def folder(self, job: Job) -> Path:
        """The run's folder: config, events, checkpoints, previews, log."""
        return self.workspace.folder("runs", job.id)

    def log_tail(self, job: Job, lines: int = 200) -> str:
        """The last lines of what a job's process has printed; empty where it printed nothing."""
        return keeping.log_tail(self.workspace, job, lines)

    # ── What people ask for

    def submit(
        self,
        kind: str,
        title: str,
        config: dict[str, Any],
        *,
        details: dict[str, Any] | None = None,
        id: str = "",
    ) -> Job:
        """Queue a job behind those of its kind's priority and return it.

        id: one made before by `new_id`, whose folder is already there.

        Raises:
            ConfigError: there is no such kind. WorkspaceError: `QUEUE_LIMIT` jobs wait already.
        """
        kind_of(kind)
        job_id, now = id or new_id(), time.time()
        with self.workspace.write() as db:
            order.check_room(db)
            db.execute(
                "INSERT INTO jobs (id, kind, title, state, config, details, created) "
                "VALUES (?, ?, ?, 'queued', ?, ?, ?)",
                (job_id, kind, title, json.dumps(config), json.dumps(details or {}), now),
            )
            order.place(db, job_id, kind)
        return self.get(job_id)

    def stop(self, job_id: str) -> Job:
        """Cancel a job: a waiting or paused one at once, a running one after its present step."""
        return self._end_early(job_id, "cancelled", ("queued", "paused"), "stopped before it began")

    def pause(self, job_id: str) -> Job:
        """Pause a job until it is resumed: a waiting one at once, a running one after its present step.

        Raises:
            WorkspaceError: it has ended, or it runs and is of a kind that would begin anew.
        """
        job = self.get(job_id)
        if job.state == "running" and not KINDS[job.kind].resumable:
            label = KINDS[job.kind].label
            raise WorkspaceError(
                f"{label}: this can't be paused, it would begin anew; stop it, or let it end"
            )
        if not job.active:
            raise WorkspaceError(
                f"job {job.title!r} is {job.state}; only one that waits or runs can be paused"
            )
        return self._end_early(job_id, "paused", ("queued",), "paused by you")

    def _end_early(self, job_id: str, state: str, at_once: Sequence[str], error: str) -> Job:
        with self.workspace.write() as db:
            db.execute(
                f"UPDATE jobs SET state = ?, finished = ?, error = ? WHERE id = ? "
                f"AND state IN ({_marks(at_once)})",
                (state, time.time(), error, job_id, *at_once),
            )
            db.execute(
                "UPDATE jobs SET stop_requested = ?, message = ? WHERE id = ? AND state = 'running'",
                (ASKED.index(state), ENDING[state], job_id),
            )
        return self.get(job_id)

    def resume(self, job_id: str) -> Job:
        """Queue a job that ended early again: it goes on where it stopped, or begins anew where it can't.

        Raises:
            WorkspaceError: it is waiting, running or done; or the queue is full.
        """
        job = self.get(job_id)
        with self.workspace.write() as db:
            order.check_room(db)
            changed = db.execute(
                f"UPDATE jobs SET state = 'queued', stop_requested = 0, error = '', message = '', "
                f"finished = NULL WHERE id = ? AND state IN ({_marks(RESUMABLE)})",
                (job_id, *RESUMABLE),
            ).rowcount
            if changed == 1:
                order.place(db, job_id, job.kind)
        job = self.get(job_id)
        if changed != 1:
            raise WorkspaceError(
                f"job {job.title!r} is {job.state}; only a job that ended early can be resumed"
            )
        return job

    def retry(self, job_id: str) -> Job:
        """Do an ended job again: one that can go on goes on; another is copied into a new job.

        Raises:
            WorkspaceError: it is waiting or running; or the queue is full.
        """
        job = self.get(job_id)
        if job.active:
            raise WorkspaceError(f"job {job.title!r} is {job.state}; wait until it has ended, or stop it")
        kind = kind_of(job.kind)
        if job.resumable and kind.resumable:
            return self.resume(job_id)
        fresh = new_id()
        config = kind.moved(job.config, str(self.workspace.folder("runs", fresh)))
        details = {name: value for name, value in job.details.items() if name not in OF_A_PROCESS}
        return self.submit(job.kind, job.title, config, details=details, id=fresh)

    def move(self, job_id: str, where: str) -> Job:
        """Move a waiting job "up", "down" or "first" among those that wait for the same: the device, or not.

        Raises:
            WorkspaceError: it isn't waiting (any more), or `where` is no place.
        """
        if where not in order.PLACES:
            raise WorkspaceError(f"unknown place {where!r}; choose one of {', '.join(order.PLACES)}")
        with self.workspace.write() as db:
            found = order.move(db, job_id, where)
        job = self.get(job_id)
        if not found:
            raise WorkspaceError(f"job {job.title!r} is {job.state}; only one that waits can be moved")
        return job

    def remove(self, job_id: str) -> Job:
        """Take an ended job off the list; its run's folder lies in the trash for a while. Returns: the job.

        Raises:
            WorkspaceError: it is waiting or running.
        """
        return keeping.remove(self.workspace, job_id)

    def restore(self, job_id: str) -> Job:
        """Bring a removed job back from the trash.

        Raises:
            WorkspaceError: it isn't in the trash.
        """
        keeping.restore(self.workspace, job_id)
        return self.get(job_id)

    # ── What the server and the processes write

    def claim(self, job_id: str, pid: int, pid_started: float) -> bool:
        """Turn a queued job into one that runs in process `pid`; False when it isn't queued any more."""
        now = time.time()
        anew = [name for name, kind in KINDS.items() if not kind.resumable]
        with self.workspace.write() as db:
            db.execute(
                f"UPDATE jobs SET step = 0, total = 0 WHERE id = ? AND kind IN ({_marks(anew)})",
                (job_id, *anew),
            )
            changed = db.execute(
                "UPDATE jobs SET state = 'running', pid = ?, pid_started = ?, "
                "started = coalesce(started, ?), stop_requested = 0, message = 'Starting', "
                "details = json_set(details, '$.session', json_object('at', ?, 'step', step)), "
                "heartbeat = ?, finished = NULL, error = '' WHERE id = ? AND state = 'queued'",
                (pid, pid_started, now, now, now, job_id),
            ).rowcount
        return changed == 1

    def beat(
        self,
        job_id: str,
        *,
        step: int | None = None,
        total: int | None = None,
        message: str | None = None,
        memory: int = 0,
    ) -> bool:
        """Write a sign of life and the progress given; returns True when somebody asked the job to stop.

        message: kept as it is while the job is asked to stop. memory: bytes now; the most is kept.
        """
        with self.workspace.write() as db:
            db.execute(
                "UPDATE jobs SET heartbeat = ?, step = coalesce(?, step), total = coalesce(?, total), "
                "message = CASE WHEN stop_requested THEN message ELSE coalesce(?, message) END, "
                "memory = max(memory, ?) WHERE id = ?",
                (time.time(), step, total, message, memory, job_id),
            )
            row = db.execute("SELECT stop_requested FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return bool(row and row["stop_requested"])

    def note(self, job_id: str, **details: Any) -> None:
        """Remember something beside a job."""
        with self.workspace.write() as db:
            db.execute(
                "UPDATE jobs SET details = json_patch(details, ?) WHERE id = ?", (json.dumps(details), job_id)
            )

    def finish(
        self, job_id: str, state: str, *, error: str = "", result: dict[str, Any] | None = None
    ) -> bool:
        """End a running job; False when it wasn't running (somebody else has already ended it)."""
        assert state in ("done", *RESUMABLE), state
        now, said = time.time(), None if result is None else json.dumps(result)
        with self.workspace.write() as db:
            changed = db.execute(
                "UPDATE jobs SET state = ?, error = ?, result = coalesce(?, result), finished = ?, "
                "message = '', pid = NULL, pid_started = NULL, stop_requested = 0, "
                "details = json_set(details, '$.worked', "
                "coalesce(details ->> '$.worked', 0) + max(0, ? - coalesce(details ->> '$.session.at', ?))) "
                "WHERE id = ? AND state = 'running'",
                (state, error, said, now, now, now, job_id),
            ).rowcount
        return changed == 1

    def recover(self, *, silent: float = 0.0) -> list[Job]:
        """End "running" jobs whose process is gone: as was asked, else as "interrupted"; returns them.

        A worker process outlives a server that was killed; such a job stays running. silent: only jobs
        without a sign of life for so many seconds, where a server may be about to end them itself.
        """
        before = time.time() - silent
        running = [job for job in self.find(states=("running",)) if (job.heartbeat or 0) <= before]
        lost = [job for job in running if not processes.alive(job.pid, job.pid_started)]
        for job in lost:
            reason = REASONS.get(job.asked) or f"its process ended without a word; {job.way_on}"
            self.finish(job.id, job.asked or "interrupted", error=reason)
        return lost


def _marks(values: Sequence[str]) -> str:
    return ",".join("?" * len(values))
