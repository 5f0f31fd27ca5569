"""Whose turn it is on the one device, where several queues share it: one of each account."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pipelines.errors import WorkspaceError
from studio.jobs import Jobs
from studio.locks import FileLock
from studio.workspace import Workspace

if TYPE_CHECKING:
    from studio.runner import Runner
    from studio.warm import MakerProcess

LOOK = 0.5  # seconds between two looks whether a turn is still wanted
ELSEWHERES = "another account’s job"
ELSEWHERE = f"{ELSEWHERES} has the device"


class Turns:
    """The queues that share the device: who has waited longest goes first, one job at a time.

    Other processes are kept out by the lock of the device, which is taken within a turn.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: list[Runner] = []  # the first has its turn
        self._queues: list[Runner] = []

    def join(self, queue: Runner) -> None:
        """Let a queue take part."""
        self._queues.append(queue)

    @property
    def shared(self) -> bool:
        """Whether there is more than one queue."""
        return len(self._queues) > 1

    @contextmanager
    def turn(self, queue: Runner, wanted: Callable[[], bool]) -> Iterator[bool]:
        """Wait for a queue's turn and have it meanwhile; False where it isn't wanted any more."""
        with self._changed:
            self._line.append(queue)
        try:
            while (mine := self._first(queue)) is False and wanted():
                pass
            yield mine
        finally:
            with self._changed:
                self._line.remove(queue)
                self._changed.notify_all()

    def _first(self, queue: Runner) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._line[0] is queue, LOOK)

    def elsewhere(self, workspace: Workspace) -> str:
        """One line where a job of another queue than a workspace's own has the device; else empty."""
        others = [queue for queue in self._queues if queue.workspace.root != workspace.root]
        with suppress(sqlite3.Error):  # a full disk
            if any(queue.jobs.holding() is not None for queue in others):
                return ELSEWHERE
        return ""

    def rest(self) -> None:
        """End the drawing processes of all queues: a job needs the memory."""
        for queue in self._queues:
            queue.maker.rest()

    def make_room(self, maker: MakerProcess) -> None:
        """End the drawing processes of the other queues that nobody has asked for a while."""
        for queue in self._queues:
            if queue.maker is not maker:
                queue.maker.give_way()


def holder(lock: FileLock, workspace: Workspace | None = None) -> str:
    """Who holds the lock of the device, in words; what accounts but that of `workspace` do isn't told."""
    note = str(lock.owner().get("note") or "another process")
    kind, _, job_id = note.partition(" ")
    if kind == "job" and workspace is not None and workspace.shared:
        try:
            Jobs(workspace).get(job_id)
        except WorkspaceError:
            return ELSEWHERES
    return note
