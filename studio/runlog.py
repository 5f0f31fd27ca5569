"""What the page shows of a run, read from its event log: the same in any tab, also after a reload."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RATE_WINDOW = 30  # steps over which the speed is averaged


@dataclass
class RunLog:
    """A run's `events.jsonl`, read on from where the last `refresh` ended.

    Attributes:
        losses, held_out: (step, loss) in order of steps; steps repeated after a resume replace the old ones.
        previews: picture files by step.
        stage: the present stage in words. step, total: progress; total 0 while unknown.
        warnings: lines a person should read.
    """

    path: Path
    losses: dict[int, float] = field(default_factory=dict)
    held_out: dict[int, float] = field(default_factory=dict)
    previews: dict[int, list[str]] = field(default_factory=dict)
    prompts: list[str] = field(default_factory=list)
    stage: str = ""
    step: int = 0
    total: int = 0
    warnings: list[str] = field(default_factory=list)
    _position: int = 0
    _times: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))

    def refresh(self) -> RunLog:
        """Read what was appended since the last time; a last line that isn't whole yet waits."""
        try:
            with self.path.open("rb") as log:
                log.seek(0, 2)
                if log.tell() < self._position:  # begun anew
                    self.__init__(self.path)  # type: ignore[misc]
                log.seek(self._position)
                text = log.read()
        except OSError:
            return self
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                self._take(event)
        return self

    def _take(self, event: dict[str, Any]) -> None:
        kind, data, step = event.get("kind"), event.get("data") or {}, int(event.get("step") or 0)
        self.total = int(event.get("total") or self.total)
        if kind == "stage":
            self.stage = str(event.get("message") or "")
            self._times.clear()
        elif kind == "step":
            self.step, self.stage = step, "Learning"
            if isinstance(data.get("loss"), int | float):
                self.losses[step] = float(data["loss"])
            self._times.append((step, float(event.get("time") or time.time())))
        elif kind == "held_out" and isinstance(data.get("loss"), int | float):
            self.held_out[step] = float(data["loss"])
        elif kind == "preview":
            self.previews[step] = [str(file) for file in data.get("files") or ()]
            self.prompts = [str(prompt) for prompt in data.get("prompts") or self.prompts]
        elif kind == "warning":
            self.warnings.append(str(event.get("message") or ""))

    @property
    def rate(self) -> float | None:
        """Steps per second over the last `RATE_WINDOW` steps; None while unknown."""
        if len(self._times) < 2:
            return None
        (first, began), (last, ended) = self._times[0], self._times[-1]
        return (last - first) / (ended - began) if ended > began and last > first else None

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end; None while unknown."""
        rate = self.rate
        return (self.total - self.step) / rate if rate and self.total else None
