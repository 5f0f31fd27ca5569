"""The event log: whole lines, whatever happened before."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from trainers import events
from trainers.events import TrainEvent

FIRST = TrainEvent(kind="step", step=1, total=9, message="loss 0.5", data={"loss": 0.5})
SECOND = TrainEvent(kind="preview", step=2, total=9, message="“ü”", data={"files": ["previews/a.png"]})


def test_what_is_appended_is_read_back_in_order(tmp_path: Path) -> None:
    for event in (FIRST, SECOND):
        events.append(tmp_path, event)
    assert list(events.read(tmp_path)) == [FIRST, SECOND]
    lines = (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["time"] > 1e9


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    events.append(tmp_path, FIRST)
    with open(tmp_path / "events.jsonl", "ab") as log:
        log.write(b'{"kind": "st')
    events.append(tmp_path, SECOND)
    assert list(events.read(tmp_path)) == [FIRST, SECOND]


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert list(events.read(tmp_path)) == []


def test_what_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        events.append(tmp_path, TrainEvent(kind="step", data={"loss": math.nan}))


def test_a_name_that_is_no_utf8_is_written_and_read(tmp_path: Path) -> None:
    event = TrainEvent(kind="warning", message="no caption for a\udcff.png")
    events.append(tmp_path, event)
    assert list(events.read(tmp_path)) == [event]
    (tmp_path / "events.jsonl").read_text(encoding="utf-8")
