"""The server's side of the queue: threads that start and watch child processes.

One of them has the device: it draws, teaches, and whatever else computes there, one job at a time. The others
run what needs no device beside it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

from pipelines.errors import StudioError
from pipelines.files import make_folder
from studio import processes
from studio.bases import BaseOptions
from studio.jobs import Job, Jobs
from studio.turns import Turns
from studio.warm import MakerProcess
from studio.work import KINDS, keeping
from studio.work.job import REASONS
from studio.worker import DISK_FULL, DISK_FULL_SAID
from studio.workspace import Workspace

log = logging.getLogger("pigment")

WORKER = "studio.worker"
BESIDE = 2  # jobs without the device that run at a time
LOOK = 2.0  # seconds between two looks at an empty queue, which other processes may have added to
CLOSING = 30.0  # seconds that the queue has to end its children
PATIENCE = {"cancelled": 60.0, "paused": 600.0, "closing": processes.GRACE}
"""Seconds that a process which was asked to stop has until it is ended: a step on a slow machine may be long,
and only what stops by itself keeps its last step."""
BARREN = 8.0  # seconds, at most, where it has done nothing yet, such as while it loads: nothing is lost then


class Runner:
    """Runs the jobs of a workspace until it is closed."""

    def __init__(
        self,
        workspace: Workspace,
        *,
        base: str = "pocket",
        options: BaseOptions | None = None,
        warm: bool = True,
        turns: Turns | None = None,
    ) -> None:
        """base, options: what pictures are drawn with, and how it is loaded. warm: before it is asked for.
        turns: with which other queues the device is shared; None: with none."""
        self.workspace = workspace
        self.base = base
        self.jobs = Jobs(workspace)
        self.turns = turns or Turns()
        self.turns.join(self)
        self.maker = MakerProcess(workspace, options or BaseOptions(), base, self.turns)
        self._closing = threading.Event()
        self._waking = threading.Condition()
        self._wakes = 0
        self._picking = threading.Lock()
        lanes = [True, *[False] * BESIDE]
        self._threads = [
            threading.Thread(target=self._lane, args=(device,), name=f"runner-{number}", daemon=True)
            for number, device in enumerate(lanes)
        ]
        self._survivors: list[Job] = []
        self._warms = warm
        self._index: sqlite3.Connection | None = None

    def start(self) -> None:
        """Mark what died while no server ran, load the base in the background, begin with the queue."""
        keeping.sweep(self.workspace)
        keeping.lay_by(self.workspace)
        self._index = self._kept_open()
        for job in self.jobs.recover():
            log.warning("job %s (%s) was interrupted", job.id, job.title)
        self._survivors = self.jobs.find(states=("running",))  # outlived the server that started them
        for thread in self._threads:
            thread.start()

    def _kept_open(self) -> sqlite3.Connection:
        """A connection that reads and stays: with it SQLite's own files stay, in which it can go on writing
        where a full disk has no room to make them anew."""
        index = sqlite3.connect(self.workspace.index_path, timeout=10, check_same_thread=False)
        index.execute("SELECT count(*) FROM jobs").fetchone()
        return index

    def wake(self) -> None:
        """Look at the queue now: something was added."""
        with self._waking:
            self._wakes += 1
            self._waking.notify_all()

    def begin_closing(self) -> None:
        """Begin nothing any more, ask what runs to stop, and end the drawing process."""
        self._closing.set()
        self.wake()
        self.maker.close()

    def close(self) -> None:
        """Stop what runs (it becomes "interrupted") and end all child processes."""
        self.begin_closing()
        deadline = time.monotonic() + CLOSING
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        if self._index is not None:
            self._index.close()

    # ── Whose turn it is

    def _lane(self, device: bool) -> None:
        """Run one job after the other: those that need the device, or those that don't."""
        while (job := self._survivor(device)) is not None and not self._closing.is_set():
            process = None if job.pid is None else processes.attach(job.pid)
            if process is not None:
                self._watch(job.id, process)
        if device:
            self._warm()
        while not self._closing.is_set():
            seen = self._wakes
            try:
                if not self._one(device):
                    with self._waking:
                        if self._wakes == seen:
                            self._waking.wait(LOOK)
            except sqlite3.Error as error:
                log.warning("the queue can't be read or written: %s; is the disk full?", error)
                self._closing.wait(10)
            except OSError as error:
                log.warning("a job's process can't be started: %s; make room, and it begins", error)
                self._closing.wait(10)
            except Exception:
                log.exception("the queue stumbled")
                self._closing.wait(1)

    def _survivor(self, device: bool) -> Job | None:
        with self._picking:
            for job in self._survivors:
                if (job.kind in KINDS and KINDS[job.kind].device) == device:
                    self._survivors.remove(job)
                    return job
        return None

    def _one(self, device: bool) -> bool:
        """Run the job whose turn it is to its end; False where none waits."""
        if not device:
            return self._next(device=False)
        if not self._wanted():
            return False
        with self.turns.turn(self, self._wanted) as mine:
            return mine and self._next(device=True)

    def _wanted(self) -> bool:
        """Whether a job waits for the device."""
        return not self._closing.is_set() and self.jobs.next(device=True) is not None

    def _next(self, *, device: bool) -> bool:
        """As `_one`, for a queue that has its turn."""
        with nullcontext() if device else self._picking:  # this one alone has the device
            job = self.jobs.next(device=device)
            if job is None or self._closing.is_set():
                return False
            drawn = not KINDS[job.kind].run
            process = None if drawn else self._begin(job, rests=device)
        if drawn:
            self._draw(job)
        elif process is not None:
            self._watch(job.id, process)
            if device:
                self._warm()
        return True

    def _warm(self) -> None:
        """Load the base for the first picture, unless something is waiting; nobody waits for this."""
        if not self._warms or self._closing.is_set() or self.jobs.next(device=True) is not None:
            return

        def warm() -> None:
            try:
                self.maker.ask("warm", base=self.base)
            except StudioError as error:
                if self.maker.alive:
                    log.warning("%s", error)

        threading.Thread(target=warm, name="warm", daemon=True).start()

    # ── Doing it

    def _begin(self, job: Job, *, rests: bool) -> Any | None:
        """Start the process of a job; None where the job was taken away meanwhile.

        rests: the drawing processes give their memory to this one first.
        """
        if rests:
            self.turns.rest()
        folder = self.jobs.folder(job)
        make_folder(folder)
        process = processes.spawn(
            WORKER,
            "--workspace",
            str(self.workspace.root),
            "--job",
            job.id,
            output=folder / keeping.LOG,
        )
        if not self.jobs.claim(job.id, process.pid, process.create_time()):
            processes.kill_tree(process)
            return None
        return process

    def _watch(self, job_id: str, process: Any) -> None:
        """Wait for a process, pass a wish to stop on, write its end down if it didn't itself."""
        asked, deadline = "", float("inf")
        gone, code = processes.ended(process)
        while not gone:
            wish = "closing" if self._closing.is_set() else self._asked(job_id)
            if wish and wish != asked:
                asked, deadline = wish, min(deadline, time.monotonic() + self._patience(job_id, wish))
                processes.ask_to_stop(process)
            if time.monotonic() > deadline:
                processes.kill_tree(process)
            gone, code = processes.ended(process)
        processes.kill_left_behind(process.pid)
        self._settle(job_id, lambda job: self._ending(job, code))

    def _asked(self, job_id: str) -> str:
        try:
            return self.jobs.get(job_id).asked
        except (sqlite3.Error, StudioError):  # a full disk; the next look may pass
            return ""

    def _patience(self, job_id: str, wish: str) -> float:
        """Seconds that a process has to stop by itself."""
        try:
            job = self.jobs.get(job_id)
        except (sqlite3.Error, StudioError):
            return PATIENCE[wish]
        done = job.step > job.details.get("session", {}).get("step", 0)
        return PATIENCE[wish] if done else min(PATIENCE[wish], BARREN)

    def _settle(self, job_id: str, ending: Callable[[Job], tuple[str, str]]) -> None:
        """End a job that did not do so itself; as long as it takes where the disk is full.

        ending: its state and one line.
        """
        while True:
            try:
                job = self.jobs.get(job_id)
                if job.state == "running":
                    state, error = ending(job)
                    self.jobs.finish(job_id, state, error=error)
                return
            except sqlite3.Error as error:
                if keeping.spend(self.workspace):
                    continue
                log.warning("the end of job %s can't be written yet: %s", job_id, error)
                if self._closing.wait(2):
                    return

    def _ending(self, job: Job, code: int | None) -> tuple[str, str]:
        """(state, one line) of a job whose process ended with `code`; None: nobody knows with which."""
        if job.asked:
            return job.asked, REASONS[job.asked]
        if self._closing.is_set():
            return "interrupted", "stopped with the studio"
        if code == DISK_FULL:
            return "paused", DISK_FULL_SAID
        if code is None:
            return "interrupted", f"its process was ended; {job.way_on}"
        if code < 0:
            return "interrupted", f"its process was ended (signal {-code}{_memory(job)}); {job.way_on}"
        return "failed", f"its process ended with code {code} (details in runs/{job.id}/{keeping.LOG})"

    def _draw(self, job: Job) -> None:
        process = self.maker.start()
        if not self.jobs.claim(job.id, process.pid, process.create_time()):
            return
        try:
            self.maker.ask("generate", job=job.id)
        except StudioError as error:
            said = "interrupted" if self._closing.is_set() else "failed", str(error)
            self._settle(job.id, lambda _: said)
        with suppress(sqlite3.Error):
            self.jobs.beat(job.id, memory=processes.peak_memory(process.pid))


def _memory(job: Job) -> str:
    """What to do where a process was ended by a signal, most likely by a system that ran out of memory."""
    lower = job.details.get("lower")
    used = f" at {job.memory / 2**30:.1f} of {processes.memory_total() / 2**30:.1f} GB" if job.memory else ""
    said = f"; often for lack of memory{used}"
    return f"{said}: {lower}" if lower else said
