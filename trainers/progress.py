"""A run on the console: one line that fills up on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TextIO

from pipelines.errors import StudioError
from trainers.config import FIELDS
from trainers.events import TrainEvent
from trainers.evidence.record import RECORD_NAME, REPORT_NAME, read_record
from trainers.evidence.rules import WELL

# Between two plain lines of steps; between two drawings of the line on a terminal.
_PLAIN_SECONDS, _LINE_SECONDS = 5.0, 0.1
# How much of the pace is the newest step's.
_NEWEST = 0.1


class Progress:
    """Shows events on `stream`.

    folder: the run's. as_json: each event as a line of JSON instead. What takes the time between steps
    (pictures, checkpoints) isn't in the pace of the steps, so the time left is that of the steps alone.
    """

    def __init__(self, stream: TextIO, folder: Path, *, as_json: bool = False) -> None:
        self._stream, self._folder, self._json = stream, folder, as_json
        self._terminal = not as_json and stream.isatty()
        self._every = _LINE_SECONDS if self._terminal else _PLAIN_SECONDS
        self._seconds: float | None = None
        self._shown: float | None = None
        self._open = 0
        self._began = time.time()
        self._concluded = False

    def show(self, event: TrainEvent) -> None:
        """Show an event; of the steps those that are due, and the last."""
        if self._json:
            self._write(json.dumps(event.as_dict(), ensure_ascii=False) + "\n")
        elif event.kind != "step":
            self.close()
            self._write(line(event, self._folder) + "\n")
            if event.kind == "done":
                self.conclude()
        else:
            took = float(event.data["seconds"])
            self._seconds = (
                took if self._seconds is None else self._seconds + _NEWEST * (took - self._seconds)
            )
            now = time.monotonic()
            if self._shown is None or now - self._shown >= self._every or event.step == event.total:
                self._shown = now
                self._step(event)

    def close(self) -> None:
        """End the line that steps are shown in, where it is open."""
        if self._open:
            self._write("\n")
            self._open = 0

    def conclude(self) -> None:
        """Say, once, which step is recommended and what is the matter, where this run has found it out."""
        record = self._folder / RECORD_NAME
        if self._json or self._concluded or not record.is_file():
            return
        if record.stat().st_mtime < self._began - 2:  # of an earlier run; clocks of file systems are coarse
            return
        self.close()
        self._concluded = True
        for said in conclusion(self._folder):
            self._write(said + "\n")

    def _step(self, event: TrainEvent) -> None:
        said = step_line(event, self._seconds or 0.0)
        if not self._terminal:
            self._write(said + "\n")
            return
        columns = shutil.get_terminal_size().columns
        room = columns - len(said) - 4
        drawn = f"{_bar(event.step, event.total, room)} {said}" if room >= 8 else said[: columns - 1]
        self._write("\r" + drawn.ljust(self._open))
        self._open = len(drawn)

    def _write(self, text: str) -> None:
        write(text, self._stream)


def write(text: str, stream: TextIO) -> None:
    """Write at once; letters that the stream's encoding lacks become escapes and end nothing."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def step_line(event: TrainEvent, seconds: float) -> str:
    """A step as one line for people. seconds: that a step takes."""
    parts = [event.message, f"{1.0 / max(seconds, 1e-9):.1f} steps/s"]
    if event.step < event.total:
        parts.append(f"{_clock((event.total - event.step) * seconds)} left")
    if (memory := event.data.get("memory_bytes")) is not None:
        parts.append(f"{memory / 2**30:.2f} GiB")
    return f"[{event.step}/{event.total}] {', '.join(parts)}"


def line(event: TrainEvent, folder: Path) -> str:
    """Any other event as one line for people."""
    progress = f"[{event.step}/{event.total}] "
    if event.kind == "warning":
        return f"{progress}warning: {event.message}"
    if event.kind == "done":
        return f"{progress}{event.message}: {folder / event.data['adapter']}"
    return f"{progress}{event.message}"


def conclusion(folder: Path) -> list[str]:
    """What a run's evidence comes to as lines for people; none where there is no evidence."""
    try:
        record = read_record(folder)
    except StudioError as error:
        return [f"evidence: {error}"]
    if record is None:
        return []
    choice = record.choice
    lines = [] if choice is None else [f"recommended: step {choice.step}. {choice.reason}"]
    for one in record.verdict:
        changes = ", ".join(
            f"{FIELDS.get(name, '')}.{name} = {_value(value)}" for name, value in one.changes.items()
        )
        advice = one.advice + (f" ({changes})" if changes else "")
        lines.append(f"{one.severity}: {one.title}. {one.words} {advice}")
    if record.measured and not record.verdict:
        lines.append(f"verdict: {WELL}")
    for name in (REPORT_NAME, RECORD_NAME):
        if (folder / name).is_file():
            return [*lines, f"evidence: {folder / name}"]
    return lines


def _value(value: object) -> str:
    """A setting as a config file has it."""
    return "left out" if value is None else json.dumps(value, ensure_ascii=False)


def _bar(step: int, total: int, width: int) -> str:
    """A bar of at most 30 places between brackets."""
    width = min(width, 30)
    done = width * step // max(total, 1)
    return f"[{'#' * done}{'.' * (width - done)}]"


def _clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss, rounded up."""
    whole = int(-(-seconds // 1))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
