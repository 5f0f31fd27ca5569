"""What every tab of the page is given."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from studio.bases import BaseOptions, Bases
from studio.jobs import Job, Jobs
from studio.library import Library
from studio.runlog import RunLog
from studio.runner import Runner
from studio.workspace import Workspace

KEPT_LOGS = 8


@dataclass(frozen=True)
class Context:
    """The studio behind the page: one per server, shared by all browsers.

    Attributes:
        given: the base of --base; empty: the one that the workspace remembers.
        given_options: how bases are loaded.
        alone: whether nobody logs in, so that whoever comes sits at this machine (see `studio.places`).
        closing: set when the server begins to end: who waits for something is let go then.
    """

    workspace: Workspace
    runner: Runner
    given: str = ""
    given_options: BaseOptions = field(default_factory=BaseOptions)
    alone: bool = True
    closing: threading.Event = field(default_factory=threading.Event)
    _logs: dict[str, RunLog] = field(default_factory=dict)
    _reading: threading.Lock = field(default_factory=threading.Lock)

    @property
    def base(self) -> str:
        """The base that is taught and drawn with: "pocket", a folder, a file or a hub id."""
        return self.given or Bases(self.workspace).in_use()[1]

    @property
    def options(self) -> BaseOptions:
        """How that base is loaded."""
        return Bases(self.workspace).options(self.base, self.given_options)

    @property
    def jobs(self) -> Jobs:
        """The queue."""
        return self.runner.jobs

    @property
    def library(self) -> Library:
        """The adapters."""
        return Library(self.workspace)

    def run_log(self, job: Job) -> RunLog:
        """What a training job has logged by now; a copy, for every thread that asks its own."""
        with self._reading:
            log = self._logs.pop(job.id, None) or RunLog(self.jobs.folder(job) / "events.jsonl")
            self._logs[job.id] = log  # the last one used
            while len(self._logs) > KEPT_LOGS:
                self._logs.pop(next(iter(self._logs)))
            return log.refresh().snapshot()
