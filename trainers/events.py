"""What a training says while it runs, and the log that it is written to."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["stage", "step", "held_out", "measured", "preview", "checkpoint", "warning", "done"]

LOG_NAME = "events.jsonl"


@dataclass(frozen=True, kw_only=True)
class TrainEvent:
    """One thing that happened.

    kind: stage (something longer begins or goes on), step, held_out, measured, preview, checkpoint, warning,
    done.
    step, total: optimizer steps taken, and to take. message: one line for people.
    data: plain JSON values, by kind:
        stage: {"stage": name, "done": n, "of": n} where it counts something.
        step: {"loss", "<stream>_loss", "learning_rate", "gradient_norm", "seconds", "memory_bytes"}; the
        last is the peak so far (see `trainers.memory.Peak`).
        held_out: {"loss"}. measured: a `trainers.evidence.record.Measured`, and "chosen": the step that is
        recommended so far. preview: {"files": paths below the run folder, "prompts", "seeds"}.
        checkpoint: {"path": below the run folder}.
        done: {"adapter": file name, "sha256", "rank", "steps", "step": which one it is of, "seconds",
        "memory_bytes"}.
    """

    kind: Kind
    step: int = 0
    total: int = 0
    message: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The event as plain values."""
        return asdict(self)


def append(folder: Path, event: TrainEvent) -> None:
    """Add an event and the time (seconds since 1970) as a line to `folder`/events.jsonl."""
    line = json.dumps({**event.as_dict(), "time": round(time.time(), 3)}, ensure_ascii=False, allow_nan=False)
    path = folder / LOG_NAME
    with open(path, "ab") as log:
        # A killed process may have left half a line: what follows it must not be lost with it.
        torn = log.tell() > 0 and not _ends_with_newline(path)
        # Names of files may hold bytes that are no UTF-8: they are written as JSON's \udcXX.
        log.write(b"\n" * torn + line.encode(errors="backslashreplace") + b"\n")


def read(folder: Path) -> Iterator[TrainEvent]:
    """Read the log of a run folder; lines that aren't whole are left out, a missing log is empty."""
    path = folder / LOG_NAME
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            values = json.loads(line)
            values.pop("time", None)
            yield TrainEvent(**values)
        except (ValueError, TypeError, AttributeError):
            continue


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as log:
        log.seek(-1, 2)
        return log.read(1) == b"\n"
