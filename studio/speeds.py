"""How fast this machine learns and draws: by earlier runs of the workspace, else by a quick measure."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipelines.files import write_atomic
from studio import processes
from studio.workspace import Workspace

LATEST = 5
"""Runs that are looked at."""
_REFERENCE = 62e9
"""FLOP/s of one thread where a step of the embedded base took OVERHEAD beside its FLOPs."""
_OVERHEAD = 0.026
_CARD_SHARE = 0.3
"""Of a card's fastest products, what a step gets out of it."""
_measuring = threading.Lock()


@dataclass(frozen=True)
class Device:
    """What computes, measured. flops: of products, per second; one: the same by one thread.

    memory: bytes in all; 0: not known. name: for people.
    """

    kind: str
    name: str
    flops: float
    one: float
    memory: int


@dataclass(frozen=True)
class Timeline:
    """What a run's log says: medians in seconds; None where nothing says it.

    step: of learning. picture: of drawing a preview's picture; class_picture: of a class picture. start:
    from the process's start to the first step, drawing left out. memory: bytes at most on a card, and on a
    CPU beside what was taken before.
    """

    step: float | None
    picture: float | None
    class_picture: float | None
    start: float | None
    memory: int


def timeline(log: Path, started: float | None) -> Timeline | None:
    """Read a finished run's log; None where there is none, or where it went on from a checkpoint.

    started: when its process began, in seconds since 1970.
    """
    try:
        return _timeline(log, log.stat().st_mtime, started)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _timeline(log: Path, changed: float, started: float | None) -> Timeline | None:
    steps: list[float] = []
    pictures: list[float] = []
    made: list[float] = []
    first, before, drawn, done = started, started, 0.0, 0
    begin, memory = None, 0
    for kind, data, now in _events(log):
        if data.get("stage") == "resume":
            return None
        first, before = (now if first is None else first), (now if before is None else before)
        if kind == "preview" and data.get("files"):
            pictures.append((now - before) / len(data["files"]))
            drawn += now - before if begin is None else 0.0
        elif data.get("stage") == "class_pictures" and int(data.get("done") or 0) > done:
            made.append((now - before) / (int(data["done"]) - done))
            done = int(data["done"])
            drawn += now - before
        elif kind == "step":
            begin = now if begin is None else begin
            steps.append(float(data.get("seconds") or 0.0))
            memory = max(memory, int(data.get("memory_bytes") or 0))
        before = now
    return Timeline(
        # The first of each wait for what is loaded and recorded with them.
        step=statistics.median(steps[len(steps) // 5 :]) if len(steps) >= 5 else None,
        picture=statistics.median(pictures[1:] or pictures) if pictures else None,
        class_picture=statistics.median(made[1:] or made) if made else None,
        start=begin - first - drawn if begin is not None and first is not None else None,
        memory=memory,
    )


def _events(log: Path) -> Iterator[tuple[str, dict[str, Any], float]]:
    """(kind, data, time) of a log's lines; those that aren't whole are left out."""
    for line in log.read_bytes().splitlines():
        try:
            event = json.loads(line)
            yield str(event["kind"]), event.get("data") or {}, float(event["time"])
        except (ValueError, KeyError, TypeError):
            continue


def since(workspace: Workspace) -> float:
    """When this machine began to work on the workspace, in seconds since 1970: earlier runs tell of another.

    0 for the first machine it is opened on.
    """
    says = [platform.node(), platform.machine(), os.cpu_count()]
    own = hashlib.sha256(json.dumps(says).encode()).hexdigest()[:16]
    known = workspace.setting("machine")
    if not isinstance(known, dict) or known.get("id") != own:
        known = {"id": own, "since": time.time() if known else 0.0}
        workspace.remember("machine", known)
    return float(known["since"])


def card_possible(asked: str | None) -> bool:
    """Whether another device than the CPU may be used, as far as the system tells without loading torch."""
    if asked is not None:
        return asked != "cpu"
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def device(workspace: Workspace, asked: str | None = None) -> Device | None:
    """What computes here, by a measure that is kept in the cache; None while a card is being measured.

    A CPU is measured at once; a card by a process of its own, once.
    asked: as a config names it; None: the fastest there is.
    """
    card = card_possible(asked)
    name = f"{asked or 'any'}-{platform.machine()}-{os.cpu_count()}"
    place = workspace.folder("cache", f"speed-{hashlib.sha256(name.encode()).hexdigest()[:12]}.json")
    found = _read(place)
    if found is None and not card:
        found = measure_cpu()
        _write(place, found)
    elif found is None and _measuring.acquire(blocking=False):
        threading.Thread(target=_measured_apart, args=(workspace, asked, place), daemon=True).start()
    return found


def _read(place: Path) -> Device | None:
    try:
        return Device(**json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write(place: Path, found: Device) -> None:
    try:
        write_atomic(place, [json.dumps(asdict(found)).encode()])
    except OSError:
        return  # measured again next time


def measure_cpu() -> Device:
    """Measure small products of single precision on one thread, in some 5 ms."""
    import numpy as np
    import psutil  # type: ignore[import-untyped]

    side, count = 64, 50  # so small that libraries take one thread for it
    factor = np.random.default_rng(0).random((side, side), dtype=np.float32)
    out, quickest = np.empty_like(factor), float("inf")
    for _ in range(8):
        begin = time.perf_counter()
        for _ in range(count):
            np.matmul(factor, factor, out=out)
        quickest = min(quickest, (time.perf_counter() - begin) / count)
    one = 2 * side**3 / quickest
    return Device("cpu", "this CPU", one * _threads(), one, int(psutil.virtual_memory().total))


def _threads() -> int:
    """How many threads a training takes: those asked for, else the cores that this process may use."""
    import psutil

    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def _measured_apart(workspace: Workspace, asked: str | None, place: Path) -> None:
    """Let a process measure a card, and tell the page."""
    try:
        command = [sys.executable, "-m", "trainers.device_speed", asked or ""]
        done = subprocess.run(
            command, cwd=processes.ROOT, capture_output=True, timeout=180, start_new_session=True, check=False
        )
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
        _write(place, Device(**said) if said else measure_cpu())
        workspace.remember("speed_measured", time.time())
    except (OSError, ValueError, TypeError, IndexError, subprocess.SubprocessError):
        _write(place, measure_cpu())
    finally:
        _measuring.release()


def by_flops(found: Device) -> tuple[float, float]:
    """(FLOP/s of a training, seconds that a pass takes beside its FLOPs) on a device that was measured."""
    if found.kind != "cpu":
        return found.flops * _CARD_SHARE, 0.03
    return found.flops, _OVERHEAD * _REFERENCE / max(found.one, 1e9)
