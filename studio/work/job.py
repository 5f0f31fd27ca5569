"""Job: one row of the queue, its states and what can be done with it in each."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from studio.work import KINDS

STATES: dict[str, str] = {
    "queued": "Waiting",
    "running": "Running",
    "paused": "Paused",
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Stopped",
    "interrupted": "Interrupted",
}
"""States, and what people call them."""
ACTIVE = ("queued", "running")
RESUMABLE = ("paused", "cancelled", "interrupted", "failed")
"""States that a job ended early in: `Jobs.resume` queues it again."""

ASKED = ("", "cancelled", "paused")
"""What a running job can be asked to become, by the number in the column `stop_requested`."""
ENDING = {"cancelled": "Stopping after this step", "paused": "Pausing after this step"}
REASONS = {"cancelled": "stopped by you", "paused": "paused by you"}
"""By what was asked: the message until then, and the line that stays."""
OF_A_PROCESS = ("session", "lower", "worked", "taken", "stuck")
"""Details that belong to what was done, and not to doing it again: {"at", "step"} where the present or last
process began, what to lower if its memory is full, the seconds of those that have ended; and of a training
the adapters that were made of earlier steps, by step, and whether going on would end as it did."""

ACTS: dict[str, tuple[str, ...]] = {
    "queued": ("stop", "pause", "move"),
    "running": ("stop", "pause"),
    "paused": ("resume", "stop", "remove"),
    "done": ("retry", "remove"),
    "failed": ("resume", "retry", "remove"),
    "cancelled": ("resume", "retry", "remove"),
    "interrupted": ("resume", "retry", "remove"),
}
"""By state: the methods of `Jobs` that can be called, before what the kind can't do is taken away."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the queue.

    Attributes:
        config: what to do, as JSON values: a TrainConfig, a `mixing.Request` …, by kind.
        details: what the page wants to remember beside it, and `OF_A_PROCESS`.
        result: what came out of it: `{"adapter": id}`, `{"images": [ids]}` …
        created, started, finished, heartbeat: seconds since 1970; None when it hasn't happened. Started is
            when its first process began.
        pid, pid_started: the child process and its start time in seconds since 1970.
        stop_requested: somebody asked the running job to end. asked: what it is to become: "cancelled",
            "paused", or "" where nobody asked.
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
    asked: str = ""
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

    @property
    def worked(self) -> float:
        """Seconds that its processes have run, without the time between them."""
        now = 0.0
        if self.state == "running" and self.heartbeat:
            now = max(0.0, self.heartbeat - self.details.get("session", {}).get("at", self.heartbeat))
        return float(self.details.get("worked", 0.0)) + now

    @property
    def way_on(self) -> str:
        """What a person can do where it was interrupted."""
        goes_on = self.kind in KINDS and KINDS[self.kind].resumable
        return "Resume goes on where it stopped" if goes_on else "Retry begins anew"

    @property
    def acts(self) -> tuple[str, ...]:
        """What can be done with it now: methods of `Jobs` ("stop", "pause", "resume", "retry", "move",
        "remove"). Of resume and retry only the one that means more is there."""
        goes_on = self.kind in KINDS and KINDS[self.kind].resumable
        without = {"retry"} if goes_on else {"resume"} if self.state != "paused" else set()
        if self.state == "done":
            without = set()
        if self.state == "failed" and self.details.get("stuck"):
            without |= {"resume"}
        if self.asked or (self.state == "running" and not goes_on):
            without |= {"pause"}
        return tuple(act for act in ACTS[self.state] if act not in without)


def job_of(row: sqlite3.Row) -> Job:
    """The job that a row of the index holds."""
    values = dict(row)
    for name in ("config", "details", "result"):
        values[name] = json.loads(values[name])
    values["asked"] = ASKED[values["stop_requested"]]
    values["stop_requested"] = bool(values["stop_requested"])
    return Job(**values)
