"""The order of the queue: where a job is put, and how a person moves it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from pipelines.errors import WorkspaceError
from studio.work import KINDS

QUEUE_LIMIT = 100  # waiting jobs
PLACES = ("up", "down", "first")


def queued(db: sqlite3.Connection) -> list[sqlite3.Row]:
    """Waiting jobs in the order of their turns; without kinds that only a newer Pigment knows."""
    query = "SELECT * FROM jobs WHERE state = 'queued' ORDER BY position, created, rowid"
    return [row for row in db.execute(query) if row["kind"] in KINDS]


def check_room(db: sqlite3.Connection) -> None:
    """Raises: WorkspaceError where the queue is full."""
    waiting = db.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
    if waiting >= QUEUE_LIMIT:
        raise WorkspaceError(
            f"{waiting} jobs are waiting, the queue holds {QUEUE_LIMIT}; stop some of them first"
        )


def place(db: sqlite3.Connection, job_id: str, kind: str) -> None:
    """Put a queued job behind the last that is as urgent or more, of those that wait for the same."""
    mates, rest = _lanes(db, KINDS[kind].device, without=job_id)
    urgent = [n for n, row in enumerate(mates, 1) if KINDS[row["kind"]].priority <= KINDS[kind].priority]
    order = [row["id"] for row in mates]
    order.insert(max(urgent, default=0), job_id)
    _number(db, [*order, *(row["id"] for row in rest)])


def move(db: sqlite3.Connection, job_id: str, where: str) -> bool:
    """Move a job among those that wait for the same (the device, or not); False where it doesn't wait.

    where: one of PLACES.
    """
    found = next((row for row in queued(db) if row["id"] == job_id), None)
    if found is None:
        return False
    mates, rest = _lanes(db, KINDS[found["kind"]].device)
    order = [row["id"] for row in mates]
    index = order.index(job_id)
    target = {"up": max(index - 1, 0), "down": index + 1, "first": 0}[where]
    order.insert(target, order.pop(index))
    _number(db, [*order, *(row["id"] for row in rest)])
    return True


def _lanes(
    db: sqlite3.Connection, device: bool, without: str = ""
) -> tuple[list[sqlite3.Row], list[sqlite3.Row]]:
    """Waiting jobs that need the device, or that don't; and the others."""
    rows = [row for row in queued(db) if row["id"] != without]
    mates = [row for row in rows if KINDS[row["kind"]].device == device]
    return mates, [row for row in rows if KINDS[row["kind"]].device != device]


def _number(db: sqlite3.Connection, order: Sequence[str]) -> None:
    db.executemany("UPDATE jobs SET position = ? WHERE id = ?", [(n, one) for n, one in enumerate(order, 1)])
