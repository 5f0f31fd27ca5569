"""POST live: a picture, nothing where a newer wish came, or one line that says why not."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pipelines.errors import AdapterError, Busy, StudioError
from studio.context import Context
from studio.routes import live

PNG = b"\x89PNG picture"


@pytest.fixture
def asked(context: Context, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the drawing process is asked; a test puts what it answers to the front."""
    found: list[dict[str, Any]] = []

    def submit(verb: str, **request: Any) -> Future[dict[str, Any]]:
        assert verb == "live"
        answer: Any = found.pop(0) if found else {"picture": base64.b64encode(PNG).decode(), "seconds": 0.25}
        found.append(request)
        done: Future[dict[str, Any]] = Future()
        if isinstance(answer, Exception):
            done.set_exception(answer)
        elif answer:
            done.set_result({"number": 3, **answer})
        return done

    monkeypatch.setattr(context.runner.maker, "submit", submit)
    return found


@pytest.fixture
def client(context: Context) -> Iterator[TestClient]:
    """The route alone."""
    app = FastAPI()
    live.add(app, context)
    with TestClient(app) as found:
        yield found


def wish(**fields: Any) -> dict[str, Any]:
    return {"client": "me", "request": {"generation": {"prompt": "a fox"}, **fields}}


def test_a_wish_is_answered_by_a_picture(
    client: TestClient, context: Context, asked: list[Any],
    make_adapter: Callable[..., Path], tmp_path: Path,
) -> None:  # fmt: skip
    entry, _ = context.library.add(make_adapter(tmp_path / "zib.safetensors"))
    mix = [{"id": entry.id, "weight": 0.5}, {"id": "off", "on": False}]
    answer = client.post("/live", json=wish(mix=mix, compare=True, axes=["seed=1,2"]))
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, PNG, "image/png")
    assert (answer.headers["x-seconds"], answer.headers["x-number"]) == ("0.250", "3")
    assert answer.headers["cache-control"] == "no-store"
    [found] = asked
    assert (found["client"], found["base"]) == ("me", context.base)
    assert [part["id"] for part in found["request"]["mix"]] == [entry.id]
    assert (found["request"]["compare"], found["request"]["axes"]) == (False, [])


@pytest.mark.parametrize(
    ("answer", "status", "said", "again"),
    [
        ({"overtaken": True}, 204, "", None),
        (Busy("the device is in use"), 202, "the device is in use\n", "4"),
        (AdapterError("it doesn't fit"), 202, "it doesn't fit\n", None),
        (StudioError("the drawing process ended"), 202, "the drawing process ended\n", None),
        ({}, 202, "Other pictures are being drawn; the preview comes back after them\n", "4"),
    ],
)
def test_what_comes_back_otherwise(
    client: TestClient, asked: list[Any], monkeypatch: pytest.MonkeyPatch,
    answer: Any, status: int, said: str, again: str | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(live, "PATIENCE", 0.05)
    asked.append(answer)
    found = client.post("/live", json=wish())
    assert (found.status_code, found.text) == (status, said)
    assert found.headers.get("retry-after") == again


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (422, b"{", "isn't understood"),
        (422, b"[" * 10_000, "isn't understood"),
        (422, b'{"client": "<b>", "request": {}}', "isn't understood"),
        (422, b" " * (live.LARGEST + 1), "bytes"),
        (202, b'{"client": "me", "request": {}}', "generation is missing"),
        (202, b'{"client": "me", "request": {"generation": {"prompt": "a", "seed": -1}}}', "Seed is -1"),
        (202, b'{"client": "me", "request": {"generation": {"prompt": " "}}}', "the prompt is empty"),
        (202, b'{"client": "me", "request": {"generation": {"prompt": "a"}, "mix": [{"id": "x"}]}}', "'x'"),
    ],
)  # fmt: skip
def test_a_wrong_wish_is_one_line(
    client: TestClient, asked: list[Any], status: int, body: bytes, said: str
) -> None:
    answer = client.post("/live", content=body)
    assert answer.status_code == status and "retry-after" not in answer.headers
    assert said in answer.text and answer.text.count("\n") == 1
    assert asked == []


def test_a_training_is_the_reason(client: TestClient, context: Context, asked: list[Any]) -> None:
    job = context.jobs.submit("train", "Zib <b>", {})
    assert context.jobs.claim(job.id, 1, 0.0)
    answer = client.post("/live", json=wish())
    assert (answer.status_code, answer.headers["retry-after"]) == (202, "4")
    assert answer.text == "“Zib <b>” is being taught; the preview comes back after it\n"
    assert answer.headers["content-type"].startswith("text/plain")
    assert asked == []
