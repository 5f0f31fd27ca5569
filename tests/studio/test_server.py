"""The server: files by id and nothing else, and every route of it behind the login."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from pipelines.errors import Busy, ConfigError
from studio import server, teaching
from studio.accounts import Accounts
from studio.api import VERBS
from studio.build import SESSIONS
from studio.context import Context
from studio.guard import Guard, Hosts
from studio.login import Login
from studio.narrowing import OPEN
from studio.routes import api, files
from studio.runner import Runner
from studio.workspace import Workspace
from tests.faults.access_slots import routes as walked


@pytest.fixture
def client(context: Context) -> TestClient:
    app = FastAPI(openapi_url=None)
    files.add(app, context)
    return TestClient(app, base_url="http://127.0.0.1:7860")


def test_things_are_served_by_id(client: TestClient, context: Context) -> None:
    context.library.add_examples()
    entry = context.library.rename("example-mascot", "My disc")
    answer = client.get(f"/files/adapter/{entry.id}")
    assert answer.content == entry.path.read_bytes()
    assert 'filename="My-disc.safetensors"' in answer.headers["content-disposition"]
    context.workspace.folder("images", "1a-2b.png").write_bytes(b"picture")
    assert client.get("/files/image/1a-2b").content == b"picture"


def test_no_folder_of_this_machine_is_told(client: TestClient, context: Context, filled: str) -> None:
    job = teaching.start(context, teaching.Lesson(dataset=filled, trigger="zuv", class_name="disc"))
    api.add(client.app, context)  # type: ignore[arg-type]
    told = client.get(f"/files/run/{job.id}/config.json")
    assert told.json()["data"]["trigger"] == "zuv"
    missing = client.get("/api/jobs/1a-2b")
    assert (missing.status_code, told.status_code) == (404, 200)
    for answer in (told, missing):
        assert str(context.workspace.root.parent) not in answer.text
    other = context.jobs.submit("export", "a", {})
    assert client.get(f"/files/run/{other.id}/config.json").status_code == 404


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


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """The whole studio; nothing runs in it."""
    workspace = Workspace.open(tmp_path_factory.mktemp("studio") / "workspace")
    before = os.environ.get("GRADIO_TEMP_DIR")
    yield server.make_app(Context(workspace, Runner(workspace)), "/pigment")
    workspace.close()
    os.environ.pop("GRADIO_TEMP_DIR") if before is None else os.environ.update(GRADIO_TEMP_DIR=before)


@pytest.fixture(scope="module")
def page(studio: FastAPI) -> Iterator[TestClient]:
    """The studio behind its guard, with a login."""
    login = Login(Accounts.of({"ana": "correct horse"}))
    guard = Guard(studio, Hosts.of("127.0.0.1"), login, "/pigment")
    with TestClient(guard, base_url="http://127.0.0.1:7860", follow_redirects=False) as client:
        yield client


ANA = ("ana", "correct horse")


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of every route but web sockets, with "x" for what is variable in the path."""
    found = {(method, re.sub(r"\{\w+(:path)?\}", "x", path)) for method, path in walked(app.routes)}
    return sorted(one for one in found if one[0] != "SOCKET")


def test_every_route_wants_a_login(page: TestClient, studio: FastAPI) -> None:
    found = routes(studio)
    assert len(found) > 100, "Gradio's own are among them"
    assert {("POST", "/gradio_api/queue/join"), ("GET", "/gradio_api/file=x"), ("POST", "/parts")} <= {*found}
    for method, path in found:
        if path.rstrip("/") == "/login":
            continue
        answer = page.request(method, f"/pigment{path}")
        assert answer.status_code in (401, 405 if path == "/logout" else 401), (method, path)
        assert page.request(method, path, headers={"accept": "text/html"}).status_code in (303, 401, 405)


def test_of_gradios_routes_only_those_answer_that_are_used(page: TestClient, studio: FastAPI) -> None:
    shut = 0
    for method, path in routes(studio):
        if path.startswith("/gradio_api/") and not OPEN.fullmatch(path) and "/call/" not in path:
            shut += 1
            assert page.request(method, path, auth=ANA).status_code == 404, (method, path)
    assert shut > 25
    for path in ("monitoring", "gradio_api/runs", "gradio_api/vibe-code", "gradio_api/proxy=http://x",
                 "gradio_api/file=http://x", "openapi.json", "docs",
                 f"static/{'A' * 300}", "gradio_api/call/keep/x"):  # fmt: skip
        assert page.get(f"/{path}", auth=ANA).status_code == 404, path


def test_the_page_says_where_it_is_and_has_no_public_endpoints_but_the_verbs(page: TestClient) -> None:
    answer = page.get("/pigment/", auth=ANA)
    assert answer.status_code == 200
    assert "Pigment" in answer.text
    config = page.get("/config", auth=ANA).json()
    assert config["root"] == "http://127.0.0.1:7860/pigment"
    public = [one["api_name"] for one in config["dependencies"] if one["api_visibility"] != "private"]
    assert sorted(public) == sorted(VERBS)
    described = page.get("/gradio_api/info", auth=ANA).json()
    assert described["unnamed_endpoints"] == {}
    assert {name.strip("/") for name in described["named_endpoints"]} == set(VERBS)
    for one in described["named_endpoints"].values():
        assert len(one["description"]) > 30
        assert all(part["type"] for part in [*one["parameters"], *one["returns"]])


def called(page: TestClient, verb: str, **arguments: Any) -> str:
    """What calling a verb as curl does says."""
    begun = page.post(f"/gradio_api/call/v2/{verb}", json=arguments, auth=ANA)
    assert begun.status_code == 200, begun.text
    return page.get(f"/gradio_api/call/{verb}/{begun.json()['event_id']}", auth=ANA).text


def test_verbs_answer_and_private_listeners_do_not(page: TestClient) -> None:
    assert "example" in called(page, "list", what="examples")
    assert "event: complete" in called(page, "status")
    assert "no job 'nobody'" in called(page, "status", job="nobody")
    private = [
        one["api_name"]
        for one in page.get("/config", auth=ANA).json()["dependencies"]
        if one["api_visibility"] == "private" and one["api_name"]
    ]
    assert private
    for name in private:
        for way in ("call", "call/v2", "run", "api"):
            answer = page.post(f"/gradio_api/{way}/{name}", json={"data": []}, auth=ANA)
            assert answer.status_code == 404, (way, name)


def test_windows_that_were_left_are_forgotten(studio: FastAPI) -> None:
    sessions = studio.state.gradio.state_holder
    for number in range(SESSIONS + 3):
        sessions[f"window {number}"]
    assert len(sessions.session_data) == len(sessions.time_last_used) == SESSIONS
    assert "window 0" not in sessions and f"window {SESSIONS + 2}" in sessions
    sessions.session_data.clear()
    sessions.time_last_used.clear()


def test_nothing_is_fetched_from_an_address(page: TestClient) -> None:
    asked = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{elsewhere.server_port}/picture.png"
        file = {"path": address, "url": address, "meta": {"_type": "gradio.FileData"}}
        told = called(page, "generate", prompt="x", image=file, wait=0)
        assert "event: error" in told
        assert "not fetched from an address" in told, "by us: Gradio itself fetches from other machines"
        elsewhere.shutdown()
    assert asked == []


def test_gradio_gives_no_file_of_this_machine(page: TestClient, tmp_path: Path) -> None:
    root = Path(os.environ["GRADIO_TEMP_DIR"]).parents[1]
    for wanted in ("/etc/hostname", f"{root}/pigment.sqlite3", f"{root}/workspace.lock"):
        assert page.get(f"/gradio_api/file={wanted}", auth=ANA).status_code in (403, 404)
    picture = tmp_path / "outside.png"
    Image.new("RGB", (64, 64), "teal").save(picture)
    for wanted in ("/etc/hostname", f"{root}/pigment.sqlite3", str(picture)):
        file = {"path": wanted, "meta": {"_type": "gradio.FileData"}}
        told = called(page, "generate", prompt="x", image=file, wait=0)
        assert "event: error" in told
        assert "was not uploaded by a user" in told
    assert not [path for path in (root / "cache" / "uploads").rglob("*") if path.is_file()], "nor copies it"


@pytest.mark.parametrize(
    ("root", "prefix"),
    [("", ""), ("/", ""), ("/a/b/", "/a/b"), ("https://studio.example.org", ""), ("http://x:80/p/", "/p")],
)
def test_a_root_path_is_a_path_or_an_address(root: str, prefix: str) -> None:
    doors = server.Doors(root_path=root)
    assert doors.prefix == prefix
    assert doors.hosts().know("studio.example.org") == ("studio" in root)


@pytest.mark.parametrize("root", ["pigment", "/a b", "//x", "/a/../b?", "ftp://x/y", "https://x/<b>"])
def test_a_root_path_that_is_none_is_refused(root: str) -> None:
    with pytest.raises(ConfigError, match="--root-path /pigment"):
        server.Doors(root_path=root)
