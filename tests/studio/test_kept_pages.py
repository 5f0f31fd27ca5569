"""The page from memory: the same for all who ask alike, made anew for the others."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from studio import kept_pages
from studio.kept_pages import KeptPages


@pytest.fixture
def asked() -> list[str]:
    """What reached the application."""
    return []


@pytest.fixture
def client(asked: list[str]) -> TestClient:
    async def page(request: Request) -> Response:
        asked.append(str(request.url))
        answer = PlainTextResponse(f"made {len(asked)} for {request.url.netloc}")
        if request.headers.get("x-cookie"):
            answer.set_cookie("own", "one")
        if request.headers.get("x-broken"):
            answer.status_code = 500
        return answer

    app: Any = Starlette(
        routes=[Route(path, page, methods=["GET", "POST"]) for path in ("/", "/config", "/other")]
    )
    return TestClient(KeptPages(app), base_url="http://127.0.0.1:7860")


def test_a_page_is_made_once_for_all_who_ask_alike(client: TestClient, asked: list[str]) -> None:
    first = client.get("/")
    assert (client.get("/").text, client.get("/").headers) == (first.text, first.headers)
    assert len(asked) == 1
    assert client.get("/config").text != first.text


def test_another_name_of_the_studio_has_its_own(client: TestClient) -> None:
    assert client.get("/").text.endswith("127.0.0.1:7860")
    assert client.get("/", headers={"host": "studio.example.org"}).text.endswith("studio.example.org")
    for name in ("x-forwarded-proto", "x-forwarded-host", "accept-encoding", "origin"):
        assert client.get("/", headers={name: "x"}).text != client.get("/").text


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/", {}), ("GET", "/other", {}), ("GET", "/?deep_link=1", {}),
        ("GET", "/", {"x-cookie": "1"}), ("GET", "/", {"x-broken": "1"}),
    ],
)  # fmt: skip
def test_whatever_is_somebodys_own_is_made_anew(
    method: str, path: str, headers: dict[str, str], client: TestClient, asked: list[str]
) -> None:
    for _ in range(2):
        client.request(method, path, headers=headers)
    assert len(asked) == 2


def test_only_so_many_are_kept(client: TestClient, asked: list[str]) -> None:
    names = [f"{number}.example.org" for number in range(kept_pages.KEPT + 1)]
    for name in (*names, names[-1], names[0]):
        client.get("/", headers={"host": name})
    assert len(asked) == len(names) + 1
