"""The server: files by id and nothing else, and every route of it behind the login."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pipelines.errors import Busy, ConfigError
from studio import server
from studio.context import Context
from studio.routes import files
from studio.runner import Runner
from studio.workspace import Workspace


@pytest.fixture
def client(context: Context) -> TestClient:
    app = FastAPI(openapi_url=None)
    files.add(app, context)
    return TestClient(app, base_url="http://127.0.0.1:7860")


def test_things_are_served_by_id(
    client: TestClient, context: Context, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    entry, _ = context.library.add(make_adapter(tmp_path / "a.safetensors"), name="My disc")
    answer = client.get(f"/files/adapter/{entry.id}")
    assert answer.content == entry.path.read_bytes()
    assert 'filename="My-disc.safetensors"' in answer.headers["content-disposition"]
    context.workspace.folder("images", "1a-2b.png").write_bytes(b"picture")
    assert client.get("/files/image/1a-2b").content == b"picture"


CANARY = "canary-7f3a"
ATTACKS = [
    "../workspace.lock", "..%2fpigment.sqlite3", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/etc/passwd", "..\\x",
    "x%00.png", "....//....//secret", "A" * 300, "%252e%252e%252fsecret", "C:\\secret", "\\\\host\\share",
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    "route", ["image/{}", "preview/{}/x.png", "preview/x/{}", "picture/{}/0", "adapter/{}", "export/{}/kohya",
              "example/{}/0", "run/{}/config.json"]
)  # fmt: skip
def test_no_path_leaves_the_workspace(client: TestClient, context: Context, route: str, attack: str) -> None:
    for folder in (context.workspace.root, context.workspace.root.parent, context.workspace.folder("images")):
        (folder / "secret").write_text(CANARY)
    answer = client.get(f"/files/{route.format(attack)}")
    assert answer.status_code in (404, 422)
    assert CANARY not in answer.text


def test_a_port_that_is_taken_and_an_open_address_are_refused() -> None:
    with server.bind("127.0.0.1", 0) as first, pytest.raises(Busy, match="--port"):
        server.bind("127.0.0.1", first.getsockname()[1])
    for host in ("0.0.0.0", "192.168.1.5", "example.org", "::"):
        with pytest.raises(ConfigError, match="--auth user:password"):
            server.bind(host, 0)
    with server.bind("0.0.0.0", 0, guarded=True) as open_to_all:
        assert open_to_all.getsockname()[1]
    with pytest.raises(ConfigError, match="port"):
        server.bind("127.0.0.1", 70000)


def test_the_page_is_built_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    workspace = Workspace.open(tmp_path / "w")
    context = replace(Context(workspace, Runner(workspace)))
    app = server.make_app(context)
    with TestClient(app) as page:
        answer = page.get("/")
        config = page.get("/config").json()
    assert answer.status_code == 200
    assert "Pigment" in answer.text
    shown = [one for one in config["dependencies"] if one["api_visibility"] == "public"]
    assert shown == [], "listeners of the page are no endpoints"
    workspace.close()
