"""Fifty browsers beside a training: how soon they are answered, what they cost, what the server keeps."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.faults.load_server import Studio, studio_of
from tests.faults.long_run_trend import growth
from tests.faults.suites import Check, Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

    from studio.jobs import Job, Jobs

CLIENTS = 50
TURN = 30.0  # seconds with clients, and as many without
BEGINNING = 240.0  # seconds until the training takes steps
WARM = 20  # steps
PAGES = ("/", "/theme.css", "/config", "/gradio_api/startup-events")
PAGE_EVERY = 30.0  # seconds between two page loads of a client
PARTS = ({"part": "run"}, {"part": "jobs"}, {"part": "hint"})
SLOWEST = 500.0  # milliseconds, of the status, 95 of 100
SLOWER = 0.10  # share of the training's speed
KEPT = 12.0  # MB that the server's memory may grow by while clients come and go, after the first third


@dataclass
class Answers:
    """What clients were answered.

    Attributes:
        statuses: how often each status came. status_seconds: of each answer of /api/status.
        wrong: the first answers that weren't expected, as "status path".
    """

    statuses: Counter[int] = field(default_factory=Counter)
    status_seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def note(self, path: str, status: int) -> None:
        """One answer."""
        self.statuses[status] += 1
        if status != 200 and len(self.wrong) < 10:
            self.wrong.append(f"{status} {path}")


@dataclass
class Wire:
    """A connection that stays open, spending little: the clients share two cores with what they measure."""

    host: str
    _reader: Any = None
    _writer: Any = None

    async def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """(status, body) of a GET, or of a POST of JSON; status 0: no answer came.

        As browsers do it asks again where an open connection turns out to be closed.
        """
        for fresh in (self._writer is None, True):
            try:
                return await self._ask(path, body)
            except (asyncio.IncompleteReadError, ConnectionError):
                self.close()
                if fresh:
                    break
        return 0, b""

    async def _ask(self, path: str, body: bytes | None) -> tuple[int, bytes]:
        if self._writer is None:
            name, port = self.host.rsplit(":", 1)
            self._reader, self._writer = await asyncio.open_connection(name.strip("[]"), int(port))
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: {self.host}\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + (body or b""))
        await self._writer.drain()
        said = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status, length = int(said.split(b" ", 2)[1]), 0
        for line in said.split(b"\r\n")[1:]:
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            if line == b"transfer-encoding: chunked":
                return status, await self._chunks()
        return status, await self._reader.readexactly(length)

    async def _chunks(self) -> bytes:
        found = b""
        while size := int(await self._reader.readline(), 16):
            found += await self._reader.readexactly(size)
            await self._reader.readline()
        await self._reader.readline()
        return found

    def close(self) -> None:
        """Leave, as a closed window does."""
        if self._writer is not None:
            self._writer.close()
            self._reader = self._writer = None


async def _often(end: float, every: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do something again and again until a moment."""
    while (begun := time.perf_counter()) < end:
        await work()
        await asyncio.sleep(max(0.0, min(every - (time.perf_counter() - begun), end - time.perf_counter())))


async def _client(host: str, number: int, end: float, answers: Answers) -> None:
    """One browser: its window shows the running training, a program beside it asks for the status."""
    await asyncio.sleep(number / CLIENTS)
    wires = [Wire(host), Wire(host)]
    seen = ["" for _ in PARTS]

    async def status() -> None:
        begun = time.perf_counter()
        answers.note("/api/status", (await wires[0].ask("/api/status"))[0])
        answers.status_seconds.append(time.perf_counter() - begun)

    async def parts() -> None:
        asks = [{**part, "seen": hash} for part, hash in zip(PARTS, seen, strict=True)]
        status, body = await wires[1].ask("/parts?wait=20", json.dumps(asks).encode())
        answers.note("/parts", status)
        if status == 200:
            seen[:] = [one["seen"] for one in json.loads(body)]

    async def page() -> None:
        fresh = Wire(host)
        for path in PAGES:
            answers.note(path, (await fresh.ask(path))[0])
        fresh.close()
        seen[:] = ["" for _ in PARTS]

    async def loads() -> None:
        await asyncio.sleep(PAGE_EVERY * number / CLIENTS)
        await _often(end, PAGE_EVERY, page)

    works = (_often(end, 1.0, status), _often(end, 0.0, parts), loads())
    tasks = [asyncio.create_task(one) for one in works]
    done, _ = await asyncio.wait(tasks, timeout=max(0.0, end - time.perf_counter()) + 1)
    for task in tasks:
        task.cancel()
    for wire in wires:
        wire.close()
    for task in done:
        task.result()


def come(address: str, seconds: float, answers: Answers) -> None:
    """Let the clients come for a while."""
    host, end = urlsplit(address).netloc, time.perf_counter() + seconds

    async def all_of_them() -> None:
        await asyncio.gather(*(_client(host, number, end, answers) for number in range(CLIENTS)))

    asyncio.run(all_of_them())


@dataclass
class Training:
    """A training that lasts longer than the clients stay."""

    jobs: Jobs
    job: Job

    def step(self) -> int:
        """Steps taken by now."""
        from studio.runlog import RunLog

        return RunLog(self.jobs.folder(self.job) / "events.jsonl").refresh().step

    def begun(self) -> None:
        """Wait until it takes steps. Raises: RuntimeError: it doesn't."""
        end = time.monotonic() + BEGINNING
        while self.step() < WARM:
            now = self.jobs.get(self.job.id)
            if time.monotonic() > end or not now.active:
                raise RuntimeError(f"the training didn't begin: {now.state}, {now.error or now.message}")
            time.sleep(0.2)

    def rate(self, work: Callable[[], object]) -> float:
        """Steps per second while something is done."""
        step, begun = self.step(), time.perf_counter()
        work()
        return (self.step() - step) / (time.perf_counter() - begun)


@contextmanager
def weighed(studio: Studio, row: list[float]) -> Iterator[None]:
    """Add the server's memory (MB) to a row every second meanwhile."""
    ended = threading.Event()

    def weigh() -> None:
        while not ended.wait(1):
            row.append(studio.process.memory_info().rss / 2**20)

    weighing = threading.Thread(target=weigh, daemon=True)
    weighing.start()
    try:
        yield
    finally:
        ended.set()
        weighing.join()


def run(task: Task, tally: Tally) -> None:
    """Let clients come beside a training for `task.count` seconds, in turns with leaving it alone."""
    from studio.bench.status import training

    root = task.folder / "workspace"
    jobs, job = training(root)
    answers, slower = Answers(), []
    memory: list[float] = []
    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count())  # a training computes with all there is
    with studio_of(task, root) as studio:
        taught = Training(jobs, job)
        taught.begun()
        come(studio.address, 10.0, answers)  # whatever is made at the first visits
        turn = min(TURN, task.count)
        for number in range(max(1, round(task.count / turn))):
            alone = taught.rate(lambda: time.sleep(turn))
            with weighed(studio, memory):
                beside = taught.rate(lambda: come(studio.address, turn, answers))
            slower.append(1 - beside / alone if alone else 1.0)
            memory.append(studio.process.memory_info().rss / 2**20)
            print(f"turn {number}: {alone:.2f} → {beside:.2f} steps/s, {memory[-1]:.0f} MB", file=sys.stderr)
        state = jobs.get(job.id).state
        _judge(task, tally, studio, answers)
        tally.measured("training_slower", statistics.median(slower), most=SLOWER, held=task.whole)
        tally.measured("memory_mb", memory[-1])
        tally.measured("memory_growth_mb", growth(memory[len(memory) // 3 :]), most=KEPT)
        if state != "running":
            tally.failures.append(f"the training is {state}: {jobs.get(job.id).error}")
        jobs.stop(job.id)


def _judge(task: Task, tally: Tally, studio: Studio, answers: Answers) -> None:
    """Count the answers as faults survived, and hold their times."""
    tally.tried = sum(answers.statuses.values())
    tally.survived = answers.statuses[200]
    tally.failures += [f"answered {line}" for line in answers.wrong]
    times = sorted(1000 * seconds for seconds in answers.status_seconds)
    tally.measured("answers", tally.tried)
    tally.measured("status_ms_p50", statistics.median(times))
    tally.measured("status_ms_p95", times[int(0.95 * len(times))], most=SLOWEST, held=task.whole)
    if "Traceback" in studio.words():
        tally.failures.append(f"the server says {studio.words()[-300:]!r}")


# ── Safeguards


def _everything_kept(patch: MonkeyPatch) -> None:
    """What was computed for parts of the page is kept for good, as large as it would be in years."""
    from studio import parts

    changed, kept = parts.Watch.changed, []

    async def keeping(self: parts.Watch, *asked: Any, **named: Any) -> Any:
        kept.append(os.urandom(1 << 16))
        return await changed(self, *asked, **named)

    patch.setattr(parts.Watch, "changed", keeping)


def _busy_is_an_error(patch: MonkeyPatch) -> None:
    """An index that is being written is an error for who reads it meanwhile."""
    import sqlite3

    from studio.routes import api

    made, calls = api._made, []

    def failing(make: Callable[[], Any]) -> tuple[int, bytes]:
        calls.append(0)
        if len(calls) % 10 == 0:
            raise sqlite3.OperationalError("database is locked")
        return made(make)

    patch.setattr(api, "_made", failing)


CLIENTS_CHECK = Check(
    title=f"{CLIENTS} clients beside a training", run=run, unit="seconds", full=600, short=0, planted=40,
    plants={"what was shown is let go": _everything_kept, "a busy index is waited for": _busy_is_an_error},
)  # fmt: skip
