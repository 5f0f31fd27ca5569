"""A studio in a process of its own to measure: its address, its processor time, requests to it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

from pipelines.errors import StudioError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running studio.

    Attributes:
        started: when its process was started, by `time.perf_counter`.
    """

    address: str
    workspace: Path
    started: float
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Processor time of the server and its children so far; that of children which ended is left out."""
        total = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total


@contextmanager
def served(workspace: Path, base: str = "pocket") -> Iterator[Served]:
    """Start a studio on a free port, and end it afterwards.

    Raises:
        StudioError: it didn't start; its last words.
    """
    command = [sys.executable, "-m", "studio.cli", "studio", "--port", "0", "--workspace", str(workspace)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, "--base", base], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment, cwd=workspace,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said: list[str] = []
        try:
            for line in process.stdout:
                said.append(line.strip())
                if line.startswith("Pigment is at "):
                    break
            else:
                raise StudioError(f"the studio didn't start: {' '.join(said[-3:])[:300]}")
            yield Served(
                address=said[-1].split()[3], workspace=workspace, started=started,
                process=psutil.Process(process.pid),
            )  # fmt: skip
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, path: str) -> int:
    """GET `path` over a connection that stays open; returns the status. (Little else is spent on it.)"""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        ),
        0,
    )
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


async def poll(address: str, path: str, clients: int, seconds: float, every: float = 1.0) -> list[float]:
    """Let `clients` ask for `path` every `every` seconds for a while; returns how long each answer took."""
    host = urlsplit(address).netloc
    name, port = host.rsplit(":", 1)
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        await asyncio.sleep(every * number / clients)
        reader, writer = await asyncio.open_connection(name.strip("[]"), int(port))
        while (begun := time.perf_counter()) < end:
            status = await ask(reader, writer, host, path)
            if status != 200:
                raise StudioError(f"GET {path} was answered with {status}")
            taken.append(time.perf_counter() - begun)
            await asyncio.sleep(max(0.0, every - taken[-1]))
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return taken
