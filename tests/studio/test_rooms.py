"""Rooms: accounts have workspaces of their own, and none reaches another's by any door."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studio import server
from studio.accounts import Accounts
from studio.guard import Guard, Hosts
from studio.login import Login
from studio.rooms import Rooms, room_id
from studio.workspace import Workspace

ANA, BEN = ("ana", "correct horse"), ("ben", "battery staple")
CANARY = b"canary-51c0"


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rooms]:
    """Two accounts; nothing runs in their rooms."""
    workspace = Workspace.open(tmp_path_factory.mktemp("rooms") / "workspace")
    before = os.environ.get("GRADIO_TEMP_DIR")
    made = Rooms(workspace, partial(server.make_app, accounts=True), names=("ana", "ben"))
    yield made
    made.close()
    workspace.close()
    os.environ.pop("GRADIO_TEMP_DIR") if before is None else os.environ.update(GRADIO_TEMP_DIR=before)


@pytest.fixture(scope="module")
def page(rooms: Rooms) -> Iterator[TestClient]:
    """Their server."""
    guard = Guard(rooms, Hosts.of("127.0.0.1"), Login(Accounts.of(dict([ANA, BEN]))))
    with TestClient(guard, base_url="http://127.0.0.1:7860", follow_redirects=False) as client:
        yield client


def dropped(page: TestClient, who: tuple[str, str], content: bytes = CANARY) -> str:
    """The path of an upload of somebody."""
    answer = page.post("/gradio_api/upload", files={"files": ("a.png", content)}, auth=who)
    assert answer.status_code == 200, answer.text
    return str(answer.json()[0])


def called(page: TestClient, who: tuple[str, str], verb: str, **arguments: Any) -> str:
    """What calling a verb as curl does says."""
    begun = page.post(f"/gradio_api/call/v2/{verb}", json=arguments, auth=who)
    assert begun.status_code == 200, begun.text
    return page.get(f"/gradio_api/call/{verb}/{begun.json()['event_id']}", auth=who).text


def test_each_account_has_its_own_things(page: TestClient, rooms: Rooms) -> None:
    mine, theirs = rooms.room("ana").context, rooms.room("ben").context
    assert mine.workspace.root == rooms.machine.context.workspace.root
    assert theirs.workspace.root == mine.workspace.root / "accounts" / room_id("ben")
    assert (theirs.workspace.root.parent / f"{room_id('ben')}.txt").read_text() == "ben\n"
    job = mine.jobs.submit("export", "mine", {})
    mine.workspace.folder("images", "1a-2b.png").write_bytes(CANARY)
    for who, status in ((ANA, 200), (BEN, 404)):
        assert page.get(f"/api/jobs/{job.id}", auth=who).status_code == status
        assert page.get("/files/image/1a-2b", auth=who).status_code == status
    assert page.get("/api/status", auth=ANA).json()["jobs"]["queued"] == 1
    assert page.get("/api/status", auth=BEN).json()["jobs"]["queued"] == 0
    assert "mine" in called(page, ANA, "list", what="jobs")
    assert "mine" not in called(page, BEN, "list", what="jobs")
    mine.jobs.stop(job.id)


def waiting(rooms: Rooms) -> list[int]:
    """How many jobs wait in each room."""
    return [rooms.room(name).context.jobs.counts()["queued"] for name in ("ana", "ben")]


def picture() -> bytes:
    """A PNG that holds the canary."""
    told = PngInfo()
    told.add_text("canary", CANARY.decode())
    made = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(made, "PNG", pnginfo=told)
    return made.getvalue()


@pytest.mark.parametrize(("owner", "other"), [(ANA, BEN), (BEN, ANA)])
def test_an_upload_is_its_accounts_alone(
    page: TestClient, rooms: Rooms, owner: tuple[str, str], other: tuple[str, str]
) -> None:
    path = dropped(page, owner, picture())
    assert Path(path).is_relative_to(rooms.room(owner[0]).context.workspace.uploads)
    assert page.get(f"/gradio_api/file={path}", auth=owner).content == picture()
    answer = page.get(f"/gradio_api/file={path}", auth=other)
    assert answer.status_code == 403
    assert CANARY not in answer.content
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    before = waiting(rooms)
    told = called(page, other, "generate", prompt="x", image=file, wait=0)
    assert "event: error" in told
    assert "not uploaded by a user" in told
    assert waiting(rooms) == before
    assert "event: complete" in called(page, owner, "generate", prompt="x", image=file, wait=0)
