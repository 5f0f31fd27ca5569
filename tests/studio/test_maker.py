"""The drawing child's way of talking: numbered requests, answers as they get ready, errors of their class."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

import pytest

from pipelines.errors import AdapterError
from studio import maker


class Written(io.StringIO):
    """What was answered, by number; waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()

    def flush(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def answers(self, *numbers: int) -> list[dict[str, Any]]:
        """The answers to these requests, in the order that they came."""

        def found() -> list[dict[str, Any]]:
            lines = [json.loads(line) for line in self.getvalue().splitlines()]
            return [line for line in lines if line.get("id") in numbers]

        with self.changed:
            assert self.changed.wait_for(lambda: len(found()) == len(numbers), 10)
        return found()


ERRORS = {"bad": AdapterError("no adapter"), "odd": ValueError("two\nlines"), "big": MemoryError()}


class Pretender(maker.Maker):
    """Verbs without models. go: what `balance` waits for."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def balance(self, mix: Any, base: str = "pocket", measure: str = "effect") -> dict[str, Any]:
        assert self.go.wait(10)
        return {"weights": [1.0]}

    def blocks(self, adapters: Any) -> dict[str, Any]:
        raise ERRORS[adapters]

    def live(self, answer: Any, client: str, request: Any, base: str = "pocket") -> None:
        answer({"picture": "", "client": client})


def served(pretender: Pretender, *requests: dict[str, Any]) -> Written:
    written = Written()
    lines = (json.dumps({"id": number, **request}) for number, request in enumerate(requests, 1))
    maker.serve(pretender, lines, maker.Answers(written))
    return written


def test_wishes_go_past_what_takes_long() -> None:
    pretender = Pretender()
    written = served(
        pretender, {"verb": "balance", "mix": []}, {"verb": "live", "client": "me", "request": {}}
    )
    [answer] = written.answers(2)
    assert (answer["ok"], answer["client"]) == (True, "me")
    assert '"id": 1' not in written.getvalue()
    pretender.go.set()
    assert written.answers(1) == [{"id": 1, "ok": True, "weights": [1.0]}]


def test_a_failed_device_is_said_and_left(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing works on it any more in this process: its end is the server's way to another one."""
    lost, written = threading.Event(), Written()
    answers = maker.Answers(written, lost)
    answers.to(1)(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert "smaller pictures" in written.answers(1)[0]["error"] and not lost.is_set()
    answers.to(2)(RuntimeError("CUDA error: unspecified launch failure\nmore"))
    assert "the device has failed" in written.answers(2)[0]["error"] and lost.is_set()


def test_errors_are_one_line_of_their_class(capsys: pytest.CaptureFixture[str]) -> None:
    written = served(
        Pretender(),
        *({"verb": "blocks", "adapters": kind} for kind in ("bad", "odd", "big")),
        {"verb": "blosks"},
        {"verb": "balance", "mixes": 1},
    )
    bad, odd, big, verb, argument = sorted(written.answers(1, 2, 3, 4, 5), key=lambda one: one["id"])
    assert (bad["ok"], bad["kind"], bad["error"]) == (False, "AdapterError", "no adapter")
    assert (odd["kind"], odd["error"]) == ("", "two (details in cache/maker.log)")
    assert "ValueError: two" in capsys.readouterr().err, "the log has the whole"
    assert "draw smaller pictures" in big["error"]
    assert verb["error"].startswith("unknown verb 'blosks'; did you mean 'blocks'")
    assert argument["ok"] is False


def test_nobody_listening_is_no_error() -> None:
    answers = maker.Answers(Broken())
    answers.to(1)({"picture": ""})


class Broken(io.StringIO):
    """A pipe whose other end is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError
