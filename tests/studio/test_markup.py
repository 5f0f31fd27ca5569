"""What is shown: texts from outside stay texts, figures are words, the log is read on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studio import markup
from studio.runlog import RunLog

HOSTILE = "<img src=x onerror=alert(1)>\"'{{constructor}}${alert(1)}`\\"


def test_a_text_from_outside_is_neither_html_nor_a_template() -> None:
    shown = markup.text(HOSTILE)
    assert not set(shown) & set("<>\"'{}$`\\")
    for piece in (
        markup.button(HOSTILE, HOSTILE, HOSTILE, title=HOSTILE),
        markup.download(HOSTILE, "/x", HOSTILE),
        markup.empty(HOSTILE, HOSTILE),
        markup.progress(0.5, HOSTILE),
    ):
        assert "<img" not in piece
        assert "{{" not in piece
        assert "${" not in piece


def test_addresses_are_quoted() -> None:
    assert markup.url("image", "../a b?#") == "files/image/..%2Fa%20b%3F%23"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (59, "59 s"), (120, "2 min"), (4800, "80 min"), (6000, "1 h 40 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert markup.duration(seconds) == words


def event(kind: str, step: int, time: float = 0.0, **data: object) -> str:
    return (
        json.dumps(
            {"kind": kind, "step": step, "total": 10, "message": f"m{step}", "data": data, "time": time}
        )
        + "\n"
    )


def test_the_log_is_read_on_and_a_torn_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = RunLog(path)
    assert log.refresh().step == 0
    line = event("step", 2, 2.0, loss=0.5)
    path.write_text(event("stage", 0) + event("step", 1, 1.0, loss=0.7) + line[:20])
    assert (log.refresh().step, log.losses) == (1, {1: 0.7})
    with path.open("a") as more:
        more.write(line[20:] + "rubbish\n" + event("held_out", 2, loss=0.4))
        more.write(event("preview", 2, files=["previews/a.png"], prompts=["a cat"]) + event("warning", 2))
    log.refresh()
    assert (log.step, log.total, log.losses, log.held_out) == (2, 10, {1: 0.7, 2: 0.5}, {2: 0.4})
    assert (log.previews, log.prompts, log.warnings) == ({2: ["previews/a.png"]}, ["a cat"], ["m2"])
    assert (log.rate, log.seconds_left) == (1.0, 8.0)
    path.write_text(event("step", 1, 1.0, loss=0.9))  # begun anew
    assert log.refresh().losses == {1: 0.9}
