"""What the page shows of a run, read from its event log: the same in any tab, also after a reload."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from studio.work.job import Job

RATE_WINDOW = 200  # steps over which the speed is averaged: pictures and checkpoints between them count
KEPT_LOSSES = 4000  # beyond twice as many every other is dropped
_WARNINGS = 50
_CHUNK = 1 << 20
# Of so many bytes read at once every step is parsed; of more only as many, evenly, and the last of all.
_PARSED = 2 << 20
_STEP = b'{"kind": "step"'


@dataclass
class RunLog:
    """A run's `events.jsonl`, read on from where the last `refresh` ended.

    Attributes:
        losses, held_out: (step, loss) in order of steps. What a resumed run does again replaces what was.
            Of long runs `losses` holds some, evenly.
        measured: by step the fixed losses by set (`trainers.evidence.record.SETS`). chosen: the step that was
            recommended when the last of them was measured, 0 while none is.
        taken: the step that its adapter is of, 0 until there is one.
        previews: picture files by step. prompts: what they show. checkpoints: steps.
        stage: the present stage in words. done, of: how far that is, where it counts something, else 0.
        step, total: progress; total 0 while unknown. memory: bytes at most, as the trainer counts them.
        warnings: lines a person should read, the newest last.
    """

    path: Path
    losses: dict[int, float] = field(default_factory=dict)
    held_out: dict[int, float] = field(default_factory=dict)
    measured: dict[int, dict[str, float]] = field(default_factory=dict)
    chosen: int = 0
    taken: int = 0
    previews: dict[int, list[str]] = field(default_factory=dict)
    checkpoints: list[int] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    stage: str = ""
    done: int = 0
    of: int = 0
    step: int = 0
    total: int = 0
    memory: int = 0
    warnings: list[str] = field(default_factory=list)
    _position: int = 0
    _count: int = 0  # losses so far
    _stride: int = 1  # of so many one is kept
    _times: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))

    def refresh(self) -> RunLog:
        """Read what was appended since the last time; a last line that isn't whole yet waits."""
        try:
            with self.path.open("rb") as log:
                end = log.seek(0, 2)
                if end < self._position:  # begun anew
                    self.__init__(self.path)  # type: ignore[misc]
                log.seek(self._position)
                self._read(log, end)
        except OSError:
            pass
        return self

    def snapshot(self) -> RunLog:
        """What is known now, which stays while another thread reads on."""
        return replace(
            self, losses=dict(self.losses), held_out=dict(self.held_out), measured=dict(self.measured),
            previews=dict(self.previews), checkpoints=[*self.checkpoints], _times=self._times.copy(),
        )  # fmt: skip

    def _read(self, log: Any, end: int) -> None:
        every, seen, rest = max(1, (end - self._position) // _PARSED), 0, b""
        while chunk := log.read(_CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._position += len(line) + 1
                seen += 1
                late = end - self._position < _PARSED // 8
                if late or seen % every == 0 or not line.startswith(_STEP):
                    self._parse(line)

    def _parse(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return
        if isinstance(event, dict):
            self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        kind, data, step = event.get("kind"), event.get("data") or {}, int(event.get("step") or 0)
        moment = float(event.get("time") or time.time())
        self.total = int(event.get("total") or self.total)
        self.memory = max(self.memory, int(data.get("memory_bytes") or 0))
        if kind == "stage":
            done, of = int(data.get("done") or 0), int(data.get("of") or 0)
            if not (of and of == self.of and done > self.done):
                self._times.clear()
            self.stage, self.done, self.of = str(event.get("message") or ""), done, of
            self._times.append((self.done, moment))
        elif kind == "step":
            self._step(step, data, moment)
        elif kind == "held_out" and isinstance(data.get("loss"), int | float):
            self.held_out[step] = float(data["loss"])
        elif kind == "measured":
            self.measured[step] = _means(data.get("losses"))
            self.chosen = int(data.get("chosen") or 0)
        elif kind == "preview":
            self.previews[step] = [str(file) for file in data.get("files") or ()]
            self.prompts = [str(prompt) for prompt in data.get("prompts") or self.prompts]
        elif kind == "checkpoint":
            self.checkpoints.append(step)
        elif kind == "done":
            self.taken = int(data.get("step") or step)
        elif kind == "warning" and (said := str(event.get("message") or "")) not in self.warnings:
            self.warnings = [*self.warnings, said][-_WARNINGS:]

    def _step(self, step: int, data: dict[str, Any], moment: float) -> None:
        if step <= self.step:  # resumed: from here on everything is done again
            self.chosen = self.chosen if self.chosen < step else 0
            for known in (self.losses, self.held_out, self.measured, self.previews):
                for later in [one for one in known if one >= step]:
                    del known[later]
            self.checkpoints = [one for one in self.checkpoints if one < step]
        if self.stage != LEARNING or step <= self.step:
            self._times.clear()
        self.step, self.stage, self.done, self.of = step, LEARNING, 0, 0
        if isinstance(data.get("loss"), int | float):
            self._keep(step, float(data["loss"]))
        self._times.append((step, moment))

    def _keep(self, step: int, loss: float) -> None:
        """Add a loss: each of a short run, every second, fourth … of a long one, and the newest."""
        if self.losses and (self._count - 1) % self._stride:
            self.losses.popitem()  # it was only the newest
        self.losses[step] = loss
        self._count += 1
        if len(self.losses) > 2 * KEPT_LOSSES:
            self.losses = dict(list(self.losses.items())[::2])
            self._stride *= 2

    @property
    def rate(self) -> float | None:
        """Steps, or what a stage counts, per second over the last `RATE_WINDOW`; None while unknown."""
        if len(self._times) < 2:
            return None
        (first, began), (last, ended) = self._times[0], self._times[-1]
        return (last - first) / (ended - began) if ended > began and last > first else None

    @property
    def fraction(self) -> float | None:
        """How far the present stage is, 0 to 1; None while unknown."""
        if self.of:
            return min(1.0, self.done / self.of)
        return min(1.0, self.step / self.total) if self.total and self.stage == LEARNING else None

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end of what is counted now: the steps, or before them a stage's things."""
        rate = self.rate
        done, of = (self.done, self.of) if self.of else (self.step, self.total)
        return max(0.0, (of - done) / rate) if rate and of else None


def _means(losses: Any) -> dict[str, float]:
    """The mean of each set, as far as it is a number."""
    if not isinstance(losses, dict):
        return {}
    found = {name: one.get("mean") for name, one in losses.items() if isinstance(one, dict)}
    return {str(name): float(mean) for name, mean in found.items() if isinstance(mean, int | float)}


LEARNING = "Learning"
"""The stage while steps are taken."""


def seconds_left(job: Job, log: RunLog | None = None) -> float | None:
    """Estimated seconds until a running job ends; None while unknown, or where it doesn't run.

    log: the job's, where it has one.
    """
    if job.state != "running":
        return None
    if log is not None and (log.step or log.of):
        return log.seconds_left
    session = job.details.get("session") or {}
    done, took = job.step - session.get("step", 0), (job.heartbeat or 0) - session.get("at", 0)
    return (job.total - job.step) * took / done if done > 0 and took > 0 and job.total else None
