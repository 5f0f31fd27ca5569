"""Gradio's own files come from memory, by their names alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from studio.assets import LARGEST, Assets


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    for name, content in {
        "assets/index-1a.js": "let a;", "static/fonts/A/b.woff2": "font", "index.html": "secret",
        "assets/large.js": "x" * (LARGEST + 1),
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    app = FastAPI()
    app.get("/{path:path}")(lambda path: f"gradio's {path}"[:20])
    return TestClient(Assets(app, tmp_path))


def test_files_are_answered_for_good_and_the_rest_is_handed_on(client: TestClient) -> None:
    answer = client.get("/assets/index-1a.js")
    assert answer.text == "let a;" and answer.headers["content-type"].startswith("text/javascript")
    assert "immutable" in answer.headers["cache-control"]
    assert client.get("/static/fonts/A/b.woff2").headers["content-type"] == "font/woff2"
    for other in ("/assets/large.js", "/assets/none.js", "/index.html", "/"):
        assert client.get(other).json().startswith("gradio's")


@pytest.mark.parametrize("name", ["../index.html", "%2e%2e/index.html", "..%2findex.html", "./../index.html"])
def test_no_other_file_is_reached(client: TestClient, name: str) -> None:
    assert "secret" not in client.get(f"/assets/{name}").text
