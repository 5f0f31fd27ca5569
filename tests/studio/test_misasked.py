"""Requests that Gradio's routes stumble over get a line, and streams that have failed end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from studio.misasked import Ended, forgive, say_plainly


def test_what_is_not_understood_is_the_mistake_of_who_asked() -> None:
    app = FastAPI()

    @app.get("/{what}")
    def stumble(what: str) -> None:
        found = {"key": KeyError(0), "type": TypeError(), "disk": OSError("full")}
        raise found[what]

    forgive(app)
    client = TestClient(app, raise_server_exceptions=False)
    for path in ("/key", "/type"):
        answer = client.get(path)
        assert answer.status_code == 400
        assert "isn't understood" in answer.json()["detail"]
    assert client.get("/disk").status_code == 500, "what isn't theirs stays ours"


def test_a_stream_that_fails_before_anything_was_sent_is_answered() -> None:
    async def held(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("Caught handled exception, but response already started.")

    assert TestClient(Ended(held)).get("/").status_code == 404


@pytest.mark.parametrize("body", [b"NaN", b"1e400", b'"\\ud800"', b'{"number": "\\ud800"}', b"["])
def test_what_is_wrong_with_a_body_is_said_without_repeating_it(body: bytes) -> None:
    app = FastAPI()

    class Asked(BaseModel):
        number: int

    @app.post("/")
    def take(asked: Asked) -> None: ...

    say_plainly(app)
    answer = TestClient(app).post("/", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize(("said", "ends"), [("response already started", True), ("something else", False)])
def test_a_stream_that_has_failed_ends(said: str, ends: bool) -> None:
    sent: list[Any] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"no such session", "more_body": True})
        raise RuntimeError(said)

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    asked = Ended(stream)({"type": "http"}, receive, send)
    if not ends:
        with pytest.raises(RuntimeError):
            asyncio.run(asked)
        return
    asyncio.run(asked)
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
