"""Ways to train in turns, each time in a process of its own, and what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from trainers.bench.measuring import median, percentile
from trainers.bench.train_ways import Case, Launch, Way

OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}
"""No way may wait for a network."""

ALIKE = ("trained", "trained_dtype", "optimizer", "threads", "device")
"""What a clock notes that ought to be the same on both sides, such as how many numbers learn."""

_LAST_LINES = 5
_BURST = 0.25
_LONG = 40
"""Steps among which a way that tells several at once has told some: two of our readings."""


@dataclass(frozen=True)
class Turn:
    """One training by one way.

    first_step_s: from the start of the process to the end of the first optimizer step; first_step_cpu_s: all
    threads' seconds until then. step_s: of each step after the warm-up (of each stretch of steps where a way
    reports several at once). cpu_s: all threads' seconds per step. found: what the clock wrote beside times.
    failed: its last words where it failed, and then there is nothing else.
    """

    first_step_s: float = 0.0
    first_step_cpu_s: float = 0.0
    step_s: tuple[float, ...] = ()
    cpu_s: float = 0.0
    found: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""

    @property
    def peak_bytes(self) -> int:
        """The most memory that was held: of the card, else of the process."""
        return int(self.found["peak_bytes"])


@contextmanager
def byte_code(folder: Path) -> Iterator[None]:
    """Let every process that is started meanwhile keep Python's byte code, in a folder."""
    names = ("PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
    try:
        yield
    finally:
        del os.environ["PYTHONPYCACHEPREFIX"]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def take_turn(way: Way, case: Case, warm_up: int, timeout: float) -> Turn:
    """Train once by a way, in a process and a folder of its own. timeout: seconds that it may last."""
    with tempfile.TemporaryDirectory(prefix="pigment-bench-") as name:
        folder = Path(name)
        figures = folder / "figures.json"
        launch = way(case, folder, figures)
        began = time.monotonic()
        said, code = _run(launch, case, folder, timeout)
        if not figures.is_file():
            return Turn(failed=_last_words(said, code))
        found = json.loads(figures.read_text(encoding="utf-8"))
    times, cpu = found.pop("times"), found.pop("cpu")
    stretches = per_step(times, warm_up)
    cpu_s = (cpu[-1] - cpu[warm_up - 1]) / (len(cpu) - warm_up)
    return Turn(times[0] - began, cpu[0], tuple(stretches), cpu_s, found)


def _run(launch: Launch, case: Case, folder: Path, timeout: float) -> tuple[str, int]:
    """Run a process to its end; return what it said and its exit code."""
    threads = {name: str(case.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if case.device == "cpu" else {}
    environment = {**os.environ, **OFFLINE, **threads, **hidden, **launch.environment}
    with open(folder / "said.txt", "w+b") as said:
        process = subprocess.Popen(
            launch.command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment, cwd=folder
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = 124
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        said.seek(0)
        return said.read().decode("utf-8", "replace"), code


def _last_words(said: str, code: int) -> str:
    """Why a process failed, as far as it said so."""
    lines = [line.strip() for line in said.replace("\r", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or line.startswith("error:")]
    told = (errors or lines[-_LAST_LINES:] or ["it said nothing"])[-1]
    return f"ended with {code}: {told[:300]}"


def per_step(times: Sequence[float], warm_up: int) -> list[float]:
    """Return seconds per step after the warm-up.

    times: of each step's end, in seconds. A way that reads its losses now and then reports the steps since
    the last reading at once; only the last of such a burst tells when its steps had ended, so the time
    between two bursts is divided by the steps between them. Where a single burst ends after the warm-up, the
    time since the one before it counts.
    """
    last = len(times) - 1
    first = warm_up - 1 if last - warm_up >= _LONG else 0  # a slow step of the warm-up isn't the measure
    mean = (times[-1] - times[first]) / max(1, last - first)
    ends = [index for index in range(last) if times[index + 1] - times[index] > _BURST * mean] + [last]
    warm = [index for index in ends if index >= warm_up - 1]
    kept = warm if len(warm) > 1 else ends[-2:]
    return [(times[b] - times[a]) / (b - a) for a, b in pairwise(kept)]


def turns(
    ways: Mapping[str, Way], case: Case, *, rounds: int, warm_up: int, deadline: float | None, timeout: float
) -> Iterator[tuple[str, Turn]]:
    """Yield turns of all ways, A B A B …, every other round the other way round.

    deadline: `time.monotonic` after which no round begins that wouldn't end before it, by the longest so far;
    one is always made. A way that failed isn't tried again.
    """
    longest, failed = 0.0, set[str]()
    for index in range(rounds):
        began = time.monotonic()
        if index and deadline is not None and began + longest > deadline:
            return
        for name in ways if index % 2 == 0 else reversed(list(ways)):
            if name in failed:
                continue
            turn = take_turn(ways[name], case, warm_up, timeout)
            if turn.failed:
                failed.add(name)
            yield name, turn
        longest = max(longest, time.monotonic() - began)


def figures_of(taken: Sequence[Turn]) -> dict[str, Any]:
    """Figures of one way: medians over its turns."""
    if taken[-1].failed:
        return {"failed": taken[-1].failed}
    steps = [second for turn in taken for second in turn.step_s]
    every = [turn.found for turn in taken]
    peaks = {name: max(one[name] for one in every) for name in every[-1] if name.endswith("_bytes")}
    return {
        "steps_per_s": 1 / median([median(turn.step_s) for turn in taken]),
        "step_ms_p95": 1e3 * percentile(steps, 95),
        "cpu_ms_per_step": 1e3 * median([turn.cpu_s for turn in taken]),
        "first_step_s": median([turn.first_step_s for turn in taken]),
        "first_step_cpu_s": median([turn.first_step_cpu_s for turn in taken]),
        "rounds": len(taken),
        **every[-1],
        **peaks,
    }


def compared(ours: Sequence[Turn], theirs: Sequence[Turn]) -> dict[str, Any]:
    """Figures of a baseline beside ours, turn by turn.

    ratio: our steps/s over theirs (more is better), by wall time; cpu_ratio: by the threads' time.
    peak_ratio, reserved_ratio (of a card), first_step_ratio, first_step_cpu_ratio: ours over theirs (less is
    better). Each is the median of the rounds; spreads are the smallest and the largest. Where one of them
    failed there are no ratios. unlike: of ALIKE, what isn't, as [ours, theirs]; none is kept where all is.
    """
    figures = figures_of(theirs)
    if ours[-1].failed or theirs[-1].failed:
        return figures
    pairs = list(zip(ours, theirs, strict=False))
    ratios = {
        "ratio": [median(b.step_s) / median(a.step_s) for a, b in pairs],
        "cpu_ratio": [b.cpu_s / a.cpu_s for a, b in pairs],
        "peak_ratio": [a.peak_bytes / b.peak_bytes for a, b in pairs],
        "first_step_ratio": [a.first_step_s / b.first_step_s for a, b in pairs],
        "first_step_cpu_ratio": [a.first_step_cpu_s / b.first_step_cpu_s for a, b in pairs],
    }
    if all("reserved_bytes" in turn.found for pair in pairs for turn in pair):
        ratios["reserved_ratio"] = [a.found["reserved_bytes"] / b.found["reserved_bytes"] for a, b in pairs]
    for name, values in ratios.items():
        figures[name] = median(values)
        figures[f"{name}_spread"] = [min(values), max(values)]
    said = {name: [way[-1].found.get(name) for way in (ours, theirs)] for name in ALIKE}
    if unlike := {name: both for name, both in said.items() if both[0] != both[1]}:
        figures["unlike"] = unlike
    return figures
