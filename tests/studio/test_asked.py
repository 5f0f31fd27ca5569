"""What was asked for by a window that goes at once."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from studio.asked import keep_asked
from studio.starting import import_gradio


def served(kept: bool, asked: list[str]) -> Any:
    """A server of one function whose queue is slow to begin."""
    gr = import_gradio()
    with gr.Blocks(analytics_enabled=False) as blocks:
        word = gr.Textbox()
        gr.Button().click(asked.append, word, None, api_name="do")
    blocks.queue()
    blocks._queue.sleep_when_free = 0.5
    if kept:
        keep_asked(blocks._queue)
    app = gr.mount_gradio_app(FastAPI(), blocks, path="/")
    return uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))


@pytest.mark.parametrize("kept", [True, False])
def test_a_call_whose_caller_leaves_before_it_begins_is_done(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    asked: list[str] = []
    server = served(kept, asked)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            client.post("/gradio_api/call/do", json={"data": ["first"]})  # the queue rests again after it
            while asked != ["first"]:
                time.sleep(0.02)
            event = client.post("/gradio_api/call/do", json={"data": ["second"]}).json()["event_id"]
            with client.stream("GET", f"/gradio_api/call/do/{event}"):
                pass
        end = time.monotonic() + 5
        while len(asked) < 2 and time.monotonic() < end:
            time.sleep(0.02)
    finally:
        server.should_exit = True
        thread.join(10)
    assert asked == (["first", "second"] if kept else ["first"]), "Gradio drops it, where it isn't kept"


def test_who_left_is_told_nothing_more() -> None:
    def event(session: str) -> SimpleNamespace:
        return SimpleNamespace(session_hash=session, _id=f"event of {session}", alive=True)

    gone, here, waiting = event("gone"), event("here"), event("gone")
    queue = SimpleNamespace(
        active_jobs=[None, [gone, here]], pending_messages_per_session={},
        event_queue_per_concurrency_id={"1": SimpleNamespace(queue=[waiting, event("here")])},
    )  # fmt: skip
    keep_asked(queue)
    asyncio.run(queue.clean_events(session_hash="gone"))
    assert (gone.alive, here.alive, waiting.alive) == (False, True, True)
    assert list(queue.pending_messages_per_session) == ["gone"]
