"""A studio that works for an hour: memory, file handles, threads, temporary files and children stay flat."""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.jobs import Jobs
from studio.workspace import Workspace
from tests.faults.load_client import Client
from tests.faults.load_server import Studio, studio_of
from tests.faults.long_run_orders import ORDERS, Desk
from tests.faults.long_run_trend import growth, likely
from tests.faults.suites import Check, Suite, Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

EVERY = 120.0  # seconds between two jobs of the whole run: thirty in an hour
LOOK = 2.0  # seconds between two looks of the window that stays open
CALLS = 5  # of programs, at each look
RELOAD = 10  # of which this many lie between two reloads
PARTS = ("run", "jobs", "adapters", "gallery", "drawn", "hint")
REST = 3.0  # seconds in which the least of each measure counts: a thread or a file may be there for a moment
LIMITS = {"memory": 8.0, "handles": 3.0, "threads": 3.0}
"""Growth from the first measurement to the last that is allowed: MB of the server's memory, open files and
sockets, threads. An hour with 30 jobs that leaks one of them per job is far beyond."""


@dataclass
class Rows:
    """What was measured after each job, by name, and what the studio answered wrongly meanwhile."""

    found: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **now: float) -> None:
        """One measurement of everything."""
        for name, value in now.items():
            self.found.setdefault(name, []).append(value)


def temporary(studio: Studio, scratch: Path) -> list[Path]:
    """What nobody wants to keep: files in the system's folder for such, uploads, imports; work begun.

    The files of an import that failed are wanted: for a day it can be tried again.
    """
    cache = studio.workspace / "cache"
    failed = {job.id for job in Jobs(Workspace(root=studio.workspace, lock=None)).find(states=("failed",))}
    begun = [path for path in studio.workspace.rglob("*") if _begun(path.relative_to(studio.workspace))]
    folders = (scratch, cache / "uploads", cache / "imports")
    inside = [path for folder in folders if folder.is_dir() for path in folder.rglob("*")]
    found = {*(path for path in inside if path.is_file()), *(path for path in begun if path.exists())}
    return [path for path in found if not failed & {*path.parts}]


def _begun(path: Path) -> bool:
    """Whether something is named as what is being worked on, or lies in a folder that is."""
    return any(part.startswith((".", "tmp", "drop-")) for part in path.parts)


def measure(studio: Studio, scratch: Path, seconds: float = REST) -> dict[str, float]:
    """What the studio holds at rest: the least of each within some seconds."""
    found: dict[str, list[float]] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end or not found:
        server = studio.process
        now = {
            "memory": server.memory_info().rss / 2**20, "handles": server.num_fds(),
            "threads": server.num_threads(), "children": len(studio.children()),
            "zombies": studio.zombies(), "temporary": len(temporary(studio, scratch)),
        }  # fmt: skip
        for name, value in now.items():
            found.setdefault(name, []).append(value)
        time.sleep(0.3)
    return {name: min(row) for name, row in found.items()}


def window(client: Client, ended: threading.Event) -> None:
    """Stay on the page: look at the status, wait for parts; let programs call; now and then reload, and leave
    an upload."""
    rounds = 0
    while not ended.wait(LOOK):
        with suppress(OSError, RuntimeError):
            client.json("/api/status")
            asks = [{"part": name} for name in PARTS]
            client.json("/parts?wait=1", asks)
            for _ in range(CALLS):
                client.call("status")
            if rounds % RELOAD == 0:
                client.look(*PARTS)
                client.break_off()
        rounds += 1


def settled(studio: Studio, desk: Desk) -> str | None:
    """Wait until nothing but the drawing process runs below the server; None, or what does."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        lines = [one.cmdline() for one in studio.children() if one.is_running()]
        others = [line for line in lines if "studio.maker" not in line]
        if not others and not studio.zombies():
            return None
        time.sleep(0.3)
    return f"still below the server: {others or 'a process that has ended'}"


def run(task: Task, tally: Tally) -> None:
    """Let a studio do `task.count` jobs, and look what it holds after each."""
    from studio.build import SESSIONS
    from studio.context import Context
    from studio.runner import Runner

    root, ended, rows, begun = task.folder / "workspace", threading.Event(), Rows(), time.monotonic()
    with studio_of(task, root) as studio:
        client = Client(studio.address)
        workspace = Workspace.open(root, own=False)
        desk = Desk(client, Context(workspace, Runner(workspace)), task.folder)
        for _ in range(SESSIONS + 8):  # as many as are kept: more mustn't add to them
            client.call("status")
        looking = threading.Thread(target=window, args=(client, ended), daemon=True)
        looking.start()
        try:
            for number in range(task.count):
                name = list(ORDERS)[(number + task.seed) % len(ORDERS)]
                tally.happened(f"job {number} ({name})", _done(desk, studio, name, number))
                rows.add(**measure(studio, task.folder / "tmp"))
                _tell(number, name, rows, time.monotonic() - begun)
                if task.whole:
                    time.sleep(max(0.0, begun + EVERY * (number + 1) - time.monotonic()))
        finally:
            ended.set()
            looking.join(60)
        _judge(task, tally, rows, client, time.monotonic() - begun)


def _done(desk: Desk, studio: Studio, name: str, number: int) -> str | None:
    """Order a job, wait for its end; None, or what wasn't as it should be."""
    order, expected = ORDERS[name]
    try:
        job = desk.ended(order(desk, number))
    except RuntimeError as error:
        return str(error)
    if job.state != expected:
        return f"is {job.state}, not {expected}: {job.error}"
    return settled(studio, desk)


def _tell(number: int, name: str, rows: Rows, seconds: float) -> None:
    now = ", ".join(f"{name} {row[-1]:.0f}" for name, row in rows.found.items())
    print(f"{seconds:6.0f} s  {number:3} {name}: {now}", file=sys.stderr, flush=True)


def _judge(task: Task, tally: Tally, rows: Rows, client: Client, seconds: float) -> None:
    """Hold what was measured since each kind of job has been done once to the limits."""
    warm = min(len(ORDERS), task.count // 3)
    for name, most in LIMITS.items():
        row = rows.found[name][warm:]
        tally.measured(f"{name}_growth", growth(row), most=most)
        tally.measured(f"{name}_growth_likely", likely(row))
        tally.measured(f"{name}_at_end", statistics.median(row[-3:]))
    tally.measured("temporary_files", max(rows.found["temporary"]), most=0)
    tally.measured("zombies", max(rows.found["zombies"]), most=0)
    tally.measured("server_errors", len(client.failed), most=0)
    tally.measured("minutes", seconds / 60)
    for line in client.failed[:3]:
        tally.failures.append(f"the server answered {line}")


# ── Safeguards


def _handles_kept(patch: MonkeyPatch) -> None:
    """The file that a child process writes its words to stays open in the server."""
    from studio import processes

    spawn, kept = processes.spawn, []

    def keeping(module: str, *arguments: str, output: Path, **pipes: Any) -> Any:
        kept.append(output.open("ab"))
        return spawn(module, *arguments, output=output, **pipes)

    patch.setattr(processes, "spawn", keeping)


def _memory_kept(patch: MonkeyPatch) -> None:
    """What was known of a job that has ended stays in memory."""
    from studio.runner import Runner

    watch, kept = Runner._watch, []

    def keeping(self: Runner, job_id: str, process: Any) -> None:
        watch(self, job_id, process)
        kept.append(os.urandom(8 << 20))

    patch.setattr(Runner, "_watch", keeping)


def _scratch_kept(patch: MonkeyPatch) -> None:
    """Folders that something is worked on in aren't removed."""
    import tempfile

    patch.setattr(tempfile.TemporaryDirectory, "cleanup", lambda self: None)
    patch.setattr(tempfile.TemporaryDirectory, "_cleanup", classmethod(lambda *_, **__: None))


def _uploads_kept(patch: MonkeyPatch) -> None:
    """What was dropped stays where it was put, though it was taken."""
    from studio import uploads

    patch.setattr(uploads, "let_go", lambda workspace, paths: None)


def _halves_kept(patch: MonkeyPatch) -> None:
    """What came of an upload that broke off stays."""
    from studio import uploads

    patch.setattr(uploads, "keep_no_halves", lambda: None)


def _sessions_kept(patch: MonkeyPatch) -> None:
    """Whoever came is remembered for good."""
    from studio import starting

    load = starting.import_gradio

    def loaded() -> Any:
        gradio = load()
        from gradio.state_holder import StateHolder

        patch.setattr(StateHolder, "update", lambda self, session_id: None)
        return gradio

    patch.setattr(starting, "import_gradio", loaded)


def _never_asked_after(patch: MonkeyPatch) -> None:
    """A child process that has ended isn't asked how, and so stays in the system's list."""
    import psutil  # type: ignore[import-untyped]

    from studio import processes

    kept = []

    def ended(process: Any, *, timeout: float = processes.POLL) -> tuple[bool, int | None]:
        kept.append(process)
        time.sleep(timeout)
        gone = psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
        return gone, 0 if gone else None

    patch.setattr(processes, "ended", ended)


PLANTS: dict[str, Callable[[MonkeyPatch], None]] = {
    "log handles are closed": _handles_kept,
    "memory of ended jobs is let go": _memory_kept,
    "scratch folders are removed": _scratch_kept,
    "uploads go once they are taken": _uploads_kept,
    "halves of uploads go": _halves_kept,
    "windows that were left are forgotten": _sessions_kept,
    "processes that ended are asked after": _never_asked_after,
}


def _figure(figures: Mapping[str, Mapping[str, float]]) -> str:
    found = figures.get("queue", {})
    if "minutes" not in found:  # it broke before
        return ""
    return (
        f"in {found['minutes']:.0f} minutes: memory +{found['memory_growth']:.1f} MB, "
        f"handles +{found['handles_growth']:.0f}, temporary files {found['temporary_files']:.0f}"
    )


SUITE = Suite(
    title="an hour's work leaves nothing behind",
    checks={
        "queue": Check(
            title="jobs of every kind, an hour long", run=run, unit="jobs", full=30, short=0,
            plants=PLANTS, planted=8,
        ),
    },
    figure=_figure,
)  # fmt: skip
