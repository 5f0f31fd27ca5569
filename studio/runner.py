"""The server's side of the queue: one thread that starts and watches child processes, one at a time."""

from __future__ import annotations

import logging
import threading
from typing import Any

from pipelines.errors import StudioError
from studio import processes
from studio.bases import BaseOptions
from studio.jobs import Job, Jobs
from studio.warm import MakerProcess
from studio.workspace import Workspace

log = logging.getLogger("pigment")

CLOSING = 30.0  # seconds that the queue has to end its child


class Runner:
    """Runs the jobs of a workspace, one at a time, until it is closed."""

    def __init__(
        self, workspace: Workspace, *, base: str = "pocket", options: BaseOptions | None = None
    ) -> None:
        """base, options: what pictures are drawn with, and how it is loaded."""
        self.workspace = workspace
        self.base = base
        self.jobs = Jobs(workspace)
        self.maker = MakerProcess(workspace, options or BaseOptions())
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="runner", daemon=True)

    def start(self) -> None:
        """Mark what died while no server ran, load the base in the background, begin with the queue."""
        for job in self.jobs.recover():
            log.warning("job %s (%s) was interrupted", job.id, job.title)
        self._thread.start()

    def wake(self) -> None:
        """Look at the queue again: something was added."""
        self._wake.set()

    def close(self) -> None:
        """Stop what runs (it becomes "interrupted") and end all child processes."""
        self._closing.set()
        self._wake.set()
        self.maker.close()
        if self._thread.is_alive():
            self._thread.join(CLOSING)

    def _loop(self) -> None:
        for job in self.jobs.find(states=("running",)):  # outlived the server that started them
            process = None if job.pid is None else processes.attach(job.pid)
            if process is not None:
                self._watch(job.id, process)
        self._warm()
        while not self._closing.is_set():
            try:
                job_next = self.jobs.next()
                if job_next is None:
                    self._wake.wait()
                    self._wake.clear()
                elif job_next.kind == "train":
                    self._train(job_next)
                else:
                    self._draw(job_next)
            except Exception:
                log.exception("the queue stumbled")
                self._closing.wait(1)

    def _warm(self) -> None:
        """Load the base for the first picture, unless something is waiting; nobody waits for this."""
        if self._closing.is_set() or self.jobs.next() is not None:
            return

        def warm() -> None:
            try:
                self.maker.ask("warm", base=self.base)
            except StudioError as error:
                if self.maker.alive:
                    log.warning("%s", error)

        threading.Thread(target=warm, name="warm", daemon=True).start()

    def _train(self, job: Job) -> None:
        self.maker.rest()
        folder = self.jobs.folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        process = processes.spawn(
            "studio.worker",
            "--workspace",
            str(self.workspace.root),
            "--job",
            job.id,
            output=folder / "log.txt",
        )
        if not self.jobs.claim(job.id, process.pid, process.create_time()):
            processes.end_tree(process)
            return
        self._watch(job.id, process)
        self._warm()

    def _watch(self, job_id: str, process: Any) -> None:
        """Wait for a training process, pass a wish to stop on, write its end down if it didn't itself."""
        gone, code = False, None
        while not gone:
            gone, code = processes.ended(process)
            if not gone and (self._closing.is_set() or self.jobs.get(job_id).stop_requested):
                processes.end_tree(process)
        self._settle(job_id, code)

    def _settle(self, job_id: str, code: int | None) -> None:
        """End a job whose process ended without doing so."""
        job = self.jobs.get(job_id)
        if job.state != "running":
            return
        if job.stop_requested:
            self.jobs.finish(job_id, "cancelled", error="stopped by you")
        elif self._closing.is_set():
            self.jobs.finish(job_id, "interrupted", error="stopped with the studio")
        elif code is None or code < 0:
            signal_name = "" if code is None else f" (signal {-code}; often for lack of memory)"
            self.jobs.finish(
                job_id,
                "interrupted",
                error=f"its process was ended{signal_name}; Resume goes on from the last checkpoint",
            )
        else:
            self.jobs.finish(
                job_id,
                "failed",
                error=f"its process ended with code {code} (details in runs/{job_id}/log.txt)",
            )

    def _draw(self, job: Job) -> None:
        process = self.maker.start()
        if not self.jobs.claim(job.id, process.pid, process.create_time()):
            return
        try:
            self.maker.ask("generate", job=job.id)
        except StudioError as error:
            state = "interrupted" if self._closing.is_set() else "failed"
            self.jobs.finish(job.id, state, error=str(error))
