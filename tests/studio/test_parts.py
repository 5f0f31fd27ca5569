"""Parts: the long poll of the page, and how it ends with the server."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from studio import server
from studio.api import Api
from studio.context import Context
from studio.parts import Watch
from studio.routes import parts


def test_who_waits_is_answered_when_the_server_ends(context: Context) -> None:
    async def waited() -> tuple[list[Any], float]:
        watch = Watch(context)
        seen = (await watch.changed([("hint", "", "")], 0))[0]["seen"]
        asyncio.get_running_loop().call_later(0.1, context.closing.set)
        begin = time.monotonic()
        return await watch.changed([("hint", "", seen)], 20), time.monotonic() - begin

    answers, took = asyncio.run(waited())
    assert answers[0]["pieces"] is None
    assert took < 1.0


def test_a_server_ends_without_cutting_anybody_off(
    context: Context, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = FastAPI()
    parts.add(app, context)
    app.state.gradio = SimpleNamespace(stop_event=threading.Event())
    ended = threading.Event()
    monkeypatch.setattr(context.runner, "begin_closing", ended.set)
    config = uvicorn.Config(app, log_level="warning", log_config=None, timeout_graceful_shutdown=1)
    statuses = []
    with socket.create_server(("127.0.0.1", 0)) as listener, caplog.at_level(logging.WARNING):
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/parts?wait="
        running = server.server(config, context, app)
        serving = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
        serving.start()

        def ask(seen: str, wait: int) -> Any:
            body = json.dumps([{"part": "hint", "seen": seen}]).encode()
            wanted = urllib.request.Request(
                f"{address}{wait}", body, headers={"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(wanted, timeout=30) as answer:
                statuses.append(answer.status)
                return json.load(answer)

        seen = ask("", 0)[0]["seen"]
        waiting = [threading.Thread(target=ask, args=(seen, 20)) for _ in range(5)]
        for one in waiting:
            one.start()
        time.sleep(0.2)
        running.should_exit = True
        for thread in (*waiting, serving):
            thread.join(5)
    assert not serving.is_alive()
    assert statuses == [200] * 6
    assert ended.is_set() and app.state.gradio.stop_event.is_set()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")] == []


@pytest.mark.parametrize("wait", ["nan", "-nan", "inf"])
def test_a_wait_of_no_length_is_refused(context: Context, wait: str) -> None:
    """With NaN seconds left nobody would ever be answered, and the loop never rest."""
    app = FastAPI()
    parts.add(app, context)
    answer = TestClient(app).post(f"/parts?wait={wait}", json=[{"part": "hint"}])
    assert answer.status_code == 422


def test_programs_that_wait_for_the_drawing_process_hold_no_page_up(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(Api, "_mix", lambda *asked: let_go.wait(20))

    async def shown() -> float:
        asking = [asyncio.create_task(Api(context).mix({})) for _ in range(33)]  # threads of a large pool
        await asyncio.sleep(0.05)
        begin = time.monotonic()
        try:
            async with asyncio.timeout(5):
                await Watch(context).changed([("hint", "", "")], 0)
            return time.monotonic() - begin
        finally:
            let_go.set()
            await asyncio.gather(*asking)

    assert asyncio.run(shown()) < 5
