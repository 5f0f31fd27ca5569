"""The console: a line that fills up on a terminal, plain lines elsewhere, JSON where it is asked for."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from trainers import progress as module
from trainers.events import TrainEvent
from trainers.evidence.record import Choice, Finding, Measured, Record, write_record
from trainers.progress import Progress, step_line


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


def step(number: int, total: int = 100, seconds: float = 0.5, memory: int | None = 3 * 2**29) -> TrainEvent:
    data = {"loss": 0.1234, "seconds": seconds, "memory_bytes": memory}
    return TrainEvent(kind="step", step=number, total=total, message="loss 0.1234", data=data)


def test_a_step_says_pace_time_left_and_memory() -> None:
    assert step_line(step(40), 0.5) == "[40/100] loss 0.1234, 2.0 steps/s, 0:30 left, 1.50 GiB"
    assert step_line(step(100, memory=None), 0.5) == "[100/100] loss 0.1234, 2.0 steps/s"
    assert "2:46:40 left" in step_line(step(0, total=20_000), 0.5)
    assert "0:01 left" in step_line(step(99), 0.01)


def test_lines_come_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = Clock(monkeypatch), io.StringIO()
    shown = Progress(out, Path("run"))
    for number in range(1, 101):
        shown.show(step(number))
        clock.now += 0.5
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == [f"[{n}/100]" for n in [*range(1, 101, 10), 100]]
    shown.show(TrainEvent(kind="warning", step=100, total=100, message="a picture is small"))
    done = TrainEvent(kind="done", step=100, total=100, message="learned", data={"adapter": "a.safetensors"})
    shown.show(done)
    assert out.getvalue().splitlines()[-2:] == [
        "[100/100] warning: a picture is small", f"[100/100] learned: {Path('run') / 'a.safetensors'}"
    ]  # fmt: skip


def test_the_pace_follows_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    out = io.StringIO()
    shown = Progress(out, Path("run"))
    shown.show(step(1, total=2, seconds=1.0))
    shown.show(step(2, total=2, seconds=2.0))
    assert "1.0 steps/s" in out.getvalue() and f"{1 / 1.1:.1f} steps/s" in out.getvalue()


def test_on_a_terminal_one_line_is_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = Clock(monkeypatch), Terminal()
    monkeypatch.setenv("COLUMNS", "100")
    shown = Progress(out, Path("run"))
    for number in (1, 50, 100):
        shown.show(step(number))
        clock.now += 1
    shown.close()
    shown.close()
    first, middle, last = out.getvalue().rstrip("\n").split("\r")[1:]
    assert out.getvalue().count("\n") == 1
    assert middle.startswith(f"[{'#' * 15}{'.' * 15}] [50/100]") and last.startswith(
        f"[{'#' * 30}] [100/100]"
    )
    assert all(len(line.rstrip()) < 100 for line in (first, middle, last))
    # What was longer before is drawn over.
    assert len(last) >= len(middle.rstrip())


def test_an_event_between_steps_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    monkeypatch.setenv("COLUMNS", "40")  # no room for a bar
    out = Terminal()
    shown = Progress(out, Path("run"))
    shown.show(step(3))
    shown.show(TrainEvent(kind="checkpoint", step=3, total=100, message="checkpoint step-000003"))
    lines = out.getvalue().split("\n")
    assert lines[1] == "[3/100] checkpoint step-000003" and lines[2] == ""
    assert len(lines[0].lstrip("\r")) == 39 and "#" not in lines[0]


def test_json_has_every_event_whole() -> None:
    out = Terminal()
    shown = Progress(out, Path("run"), as_json=True)
    told = [step(1), step(2), TrainEvent(kind="warning", message="ö")]
    for event in told:
        shown.show(event)
    shown.close()
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [event.as_dict() for event in told]


def test_an_encoding_without_a_letter_costs_the_letter_and_not_the_run(tmp_path: Path) -> None:
    raw = io.BytesIO()
    shown = Progress(io.TextIOWrapper(raw, encoding="ascii"), tmp_path)
    shown.show(TrainEvent(kind="stage", total=9, message="“ü” \udcff"))
    assert raw.getvalue() == b"[0/9] \\u201c\\xfc\\u201d \\udcff\n"


def test_at_its_end_a_run_says_what_it_has_come_to(tmp_path: Path) -> None:
    out, told = io.StringIO(), io.StringIO()
    shown, as_json = Progress(out, tmp_path), Progress(told, tmp_path, as_json=True)
    shown.conclude()
    assert out.getvalue() == "", "nothing is known"
    finding = Finding(
        rule="rate_too_high", title="Learning rate too high", words="It jumped.", advice="Lower it.",
        changes={"learning_rate": 5e-4, "text_learning_rate": None},
    )  # fmt: skip
    choice = Choice(step=50, last=100, rule="held_out", reason="Step 50 is it.")
    write_record(tmp_path, Record(choice=choice, verdict=(finding,), measured=(Measured(step=0),)))
    done = TrainEvent(kind="done", step=100, total=100, message="learned", data={"adapter": "a.safetensors"})
    shown.show(done)
    shown.conclude()
    assert out.getvalue().splitlines()[1:] == [
        "recommended: step 50. Step 50 is it.",
        "problem: Learning rate too high. It jumped. Lower it. "
        "(optimizer.learning_rate = 0.0005, optimizer.text_learning_rate = left out)",
        f"evidence: {tmp_path / 'evidence.json'}",
    ]
    as_json.show(done)
    assert [json.loads(line)["kind"] for line in told.getvalue().splitlines()] == ["done"]


def test_what_an_earlier_run_has_left_is_not_said_of_this_one(tmp_path: Path) -> None:
    path = write_record(tmp_path, Record(measured=(Measured(step=0),)))
    assert module.conclusion(tmp_path)[0] == f"verdict: {module.WELL}"
    os.utime(path, (0, 0))
    out = io.StringIO()
    Progress(out, tmp_path).conclude()
    assert out.getvalue() == ""
    path.write_text("{")
    assert module.conclusion(tmp_path)[0].startswith("evidence: evidence.json can't be read")
