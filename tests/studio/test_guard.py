"""The guard: only this page gets through, by the studio's own names, and below its root path."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from pipelines.errors import ConfigError
from studio.guard import Guard, Hosts, is_loopback

LOCAL = Hosts.of("127.0.0.1")
SITE, MODE, DEST = "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"
OPENED = {SITE: "cross-site", MODE: "navigate", DEST: "document"}


def echo() -> FastAPI:
    """Answers with the path it was asked for."""
    app = FastAPI(openapi_url=None)

    @app.post("/read")
    async def read(request: Request) -> int:
        return len(await request.body())

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")

    @app.get("/{path:path}")
    def path(path: str, request: Request) -> dict[str, Any]:
        return {"path": f"/{path}", "server": request.headers.get("x-gradio-server", "")}

    return app


def client(hosts: Hosts = LOCAL, base: str = "http://127.0.0.1:7860", **options: Any) -> TestClient:
    return TestClient(Guard(echo(), hosts, **options), base_url=base, follow_redirects=False)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:1234"}, 200),
        ({"host": "LocalHost.:1234"}, 200),
        ({"origin": "http://127.0.0.1:7860"}, 200),
        ({SITE: "same-origin"}, 200),
        ({SITE: "none"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:7860"}, 403),
        ({"host": "evil.example:7860@127.0.0.1"}, 403),
        ({"host": "192.168.1.5:7860"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "http://localhost:7860"}, 403),
        ({"x-forwarded-host": "evil.example"}, 403),
        ({"x-forwarded-host": "evil.example", "origin": "http://evil.example"}, 403),
        ({SITE: "cross-site"}, 403),
        ({SITE: "same-site"}, 403),
        (OPENED, 403),
    ],
)
def test_only_this_page_and_this_machine_get_through(headers: dict[str, str], status: int) -> None:
    answer = client().get("/files/x", headers=headers)
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    if status != 200:
        assert answer.text.startswith("refused: ")
        assert answer.text.count("\n") == 1


def test_a_link_elsewhere_may_open_the_page_but_neither_frame_nor_post_it() -> None:
    page = client()
    assert page.get("/", headers=OPENED).status_code == 200
    assert page.get("/", headers={**OPENED, DEST: "iframe"}).status_code == 403
    assert page.post("/read", headers=OPENED).status_code == 403


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/x%7f", 400),
        ("/x%00", 400),
        ("/x%0d%0ay", 400),
        ("/" + "x" * 17_000, 414),
        ("/?" + "x" * 17_000, 414),
    ],
)
def test_addresses_that_nothing_has_are_refused(address: str, status: int) -> None:
    """Gradio puts a request's address together again, and broke where it was no address."""
    answer = client().get(address)
    assert (answer.status_code, answer.text.count("\n")) == (status, 1)


def test_a_header_that_comes_twice_is_refused() -> None:
    for name, value in (("host", "127.0.0.1"), ("origin", "http://127.0.0.1:7860")):
        twice = [(name, "http://evil.example"), (name, value)]
        assert client().get("/", headers=twice).status_code == 400


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "http://evil.example"}])
def test_web_sockets_are_guarded_as_well(headers: dict[str, str]) -> None:
    with client().websocket_connect("ws://127.0.0.1:7860/socket") as socket:
        assert socket.receive_text() == "hello"
    with (
        pytest.raises(WebSocketDisconnect),
        client().websocket_connect("ws://127.0.0.1:7860/socket", headers=headers),
    ):
        pass


def test_hosts_of_an_address_and_of_all_addresses() -> None:
    assert is_loopback("::1")
    assert not is_loopback("127.0.0.1.evil.example")
    one = Hosts.of("192.168.1.5")
    assert one.know("192.168.1.5:80")
    assert not one.know("localhost")
    every = Hosts.of("0.0.0.0", ("Studio.example.org",))
    for host in ("10.0.0.7:7860", "[fe80::1]:7860", "[::1]", "localhost", "studio.example.org"):
        assert every.know(host), host
    for host in ("evil.example", "10.0.0.7.evil.example", "10.0.0", "", "studio.example.org.evil.example"):
        assert not every.know(host), host
    for name in ("studio.example.org:80", "a b", "http://x", ""):
        with pytest.raises(ConfigError, match="no host name"):
            Hosts.of("127.0.0.1", (name,))


@pytest.mark.parametrize("kept", [True, False], ids=["path kept by the proxy", "path taken off by the proxy"])
def test_below_a_root_path_behind_a_proxy(kept: bool) -> None:
    proxied = client(Hosts.of("127.0.0.1", ("studio.example.org",)), root_path="/pigment")
    headers = {"x-forwarded-host": "studio.example.org", "origin": "https://studio.example.org"}
    before = "/pigment" if kept else ""
    assert proxied.get(f"{before}/files/a%2Fb", headers=headers).json()["path"] == "/files/a/b"
    assert proxied.get(f"{before}/x", headers={"x-gradio-server": "http://evil"}).json()["server"] == ""
    assert proxied.get("/pigment").headers["location"] == "/pigment/"
    assert proxied.get("/pigments/x").json()["path"] == "/pigments/x"


def test_a_long_body_is_refused_whether_it_says_so_or_not() -> None:
    page = client(max_body=1000)
    assert page.post("/read", content=b"x" * 1000).json() == 1000
    assert page.post("/read", content=b"x" * 1001).status_code == 413
    assert page.post("/read", content=iter([b"x" * 600] * 2)).status_code == 413
    assert page.post("/read", headers={"content-length": "-1"}).status_code == 413


@pytest.mark.parametrize("left", [True, False])
def test_who_leaves_amid_a_request_leaves_no_traceback(left: bool) -> None:
    messages = [{"type": "http.request", "body": b"a", "more_body": True}]
    messages.append({"type": "http.disconnect"} if left else {"type": "http.request", "body": b"b"})

    async def read(scope: Any, receive: Any, send: Any) -> None:
        async for _ in Request(scope, receive).stream():
            pass
        raise ClientDisconnect  # an error of ours, while they are still there

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there")

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"127.0.0.1")]}
    asked = Guard(read, LOCAL)(scope, receive, send)
    if left:
        asyncio.run(asked)
    else:
        with pytest.raises(ClientDisconnect):
            asyncio.run(asked)
