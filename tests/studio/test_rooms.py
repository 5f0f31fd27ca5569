"""Rooms: accounts have workspaces of their own, and none reaches another's by any door."""

from __future__ import annotations

import io
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.bases.source import open_source
from pipelines.errors import BaseError, Busy, ConfigError
from studio import mixing, places, processes, runner, server, turns
from studio.accounts import Accounts
from studio.apart import uploads_in
from studio.bases import BaseEntry, Bases
from studio.guard import Guard, Hosts
from studio.locks import FileLock
from studio.login import Login
from studio.making.held import Device
from studio.rooms import OWNER, Rooms, open_room, owner_of, room_id
from studio.tabs.bases import pieces
from studio.turns import ELSEWHERE, holder
from studio.work import KINDS
from studio.workspace import Workspace
from tests.studio.pretend_worker import PRETEND

ANA, BEN = ("ana", "correct horse"), ("ben", "battery staple")
CANARY = b"canary-51c0"


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
    assert rooms.room("ben").app is not None, "pages are built before any answers"
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


def test_how_far_an_upload_is_stays_with_its_account(page: TestClient, rooms: Rooms) -> None:
    from gradio import routes

    sent = {"files": ("secret name.png", CANARY * 100)}
    assert page.post("/gradio_api/upload?upload_id=7", files=sent, auth=ANA).status_code == 200
    for name in ("ana", "ben"):
        with uploads_in(rooms.room(name).context.workspace.uploads):
            tracked = "7" in routes.file_upload_statuses._statuses
        assert tracked == (name == "ana")
    told = page.get("/gradio_api/upload_progress?upload_id=7", auth=ANA).text
    assert "done" in told


def test_an_account_without_a_room_and_one_whose_room_fails_get_a_line(
    page: TestClient, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(rooms._of, "ben")
    answer = page.get("/api/status", auth=BEN)
    assert (answer.status_code, "no room" in answer.text) == (403, True)
    full = rooms._room(rooms.machine.context.workspace)
    monkeypatch.setitem(rooms._of, "ben", full)
    monkeypatch.setattr(full, "make", partial(server.bind, host="no:address"))
    answer = page.get("/", auth=BEN)
    assert answer.status_code == 503
    assert "can't be opened now" in answer.text
    monkeypatch.setattr(full, "make", rooms.machine.make)
    assert page.get("/api/status", auth=BEN).status_code == 200, "it is tried again"
    assert page.portal is not None
    page.portal.call(full.leave)


def test_who_had_the_workspace_keeps_it_and_who_has_a_room_keeps_that(tmp_path: Path) -> None:
    with_all = Workspace.open(tmp_path / "w", own=False)
    assert owner_of(with_all, ["ana", "ben"]) == "ana"
    open_room(with_all, "ben").close()
    assert owner_of(with_all, ["ben", "ana"]) == "ana", "also where she isn't named first"
    assert owner_of(with_all, ["ben", "cleo"]) == "", "Ben has a room, and Cleo isn't named first"
    assert owner_of(with_all, ["ben"]) == ""
    assert with_all.setting(OWNER) == "ana"
    assert owner_of(with_all, ["cleo", "ben"]) == owner_of(with_all, ["ben", "cleo"]) == "cleo"


def test_a_room_is_one_process_s(tmp_path: Path) -> None:
    machine = Workspace.open(tmp_path / "w")
    other = open_room(machine, "ben")
    with pytest.raises(Busy, match="in use by process"):
        Rooms(machine, lambda context: None, names=("ana", "ben"))
    other.close()
    Rooms(machine, lambda context: None, names=("ana", "ben")).close()
    open_room(machine, "ben").close()
    machine.close()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Rooms]:
    """Two accounts without pages."""
    machine = Workspace.open(tmp_path / "workspace")
    made = Rooms(machine, lambda context: None, names=("ana", "ben"))
    yield made
    made.close()
    machine.close()


def test_nobody_names_what_lies_in_anothers_room(two: Rooms) -> None:
    ana, ben = (two.room(name).context for name in ("ana", "ben"))
    inside = {context.workspace.root: context for context in (ana, ben)}
    for root, context in inside.items():
        assert places.named(context, str(root / "pictures" / "x"), "it")
    theirs = ben.workspace.root / "pictures"
    (ana.workspace.root / "link").symlink_to(ben.workspace.root)
    for said in (theirs, ana.workspace.root, *(ana.workspace.root / name for name in ("link", "ACCOUNTS/x"))):
        with pytest.raises(ConfigError, match="isn't in the workspace"):
            places.named(ana, str(said), "it")
    for said in (ana.workspace.root, ana.workspace.root / "pictures", theirs / ".." / ".." / "x"):
        with pytest.raises(ConfigError, match="isn't in the workspace"):
            places.named(ben, str(said), "it")


def test_bases_of_the_machine_are_seen_by_all_and_others_by_their_own_alone(
    two: Rooms, tiny_file: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ana, ben = (Bases(two.room(name).context.workspace) for name in ("ana", "ben"))
    ana.add(open_source(tiny_file, config=str(tiny_folder)), name="for all")
    ben.add(open_source(tiny_folder), name="Ben’s")
    assert [entry.name for entry in ana.entries()] == ["for all"]
    assert [(entry.name, entry.listed_for_all) for entry in ben.entries()] == [
        ("Ben’s", False),
        ("for all", True),
    ]
    assert ben.chosen("for all") == ana.chosen("for all")
    assert ben.use("for all") == ana.get("for all").ref
    assert ben.in_use()[0] == "for all"
    assert ana.in_use()[0] == "pocket"
    with pytest.raises(BaseError, match="listed for all accounts"):
        ben.remove("for all")
    with pytest.raises(BaseError, match="another base is called"):
        ben.add(open_source(tiny_folder), name="for all")
    shown = pieces(two.room("ben").context, "")["bases"]
    assert str(tiny_file) not in shown
    assert shown.count("remove-base") == 1
    monkeypatch.setattr(BaseEntry, "missing", True)
    for ask in (ben.chosen, ben.use):
        with pytest.raises(BaseError, match="was a file of whoever runs Pigment, which is gone"):
            ask("for all")


def test_the_device_is_one_for_all_rooms_and_what_others_do_with_it_is_not_told(two: Rooms) -> None:
    ana, ben = (two.room(name).context for name in ("ana", "ben"))
    assert ana.workspace.device_lock == ben.workspace.device_lock
    job = ana.jobs.submit("train", "Secret", {})
    with FileLock(ana.workspace.device_lock) as lock:
        assert lock.acquire(note=f"job {job.id}")
        assert holder(lock, ana.workspace) == f"job {job.id}"
        device = Device(ben.workspace.device_lock, ben.workspace)
        with pytest.raises(Busy, match="in use by another account’s job"), device.taken("the live preview"):
            pass
    assert ana.jobs.claim(job.id, os.getpid(), psutil.Process().create_time())
    assert "Secret" in mixing.occupied(ana)
    assert mixing.occupied(ben) == ELSEWHERE
    with pytest.raises(Busy, match="another account’s job has the device; try again after it"):
        ben.runner.maker.submit("live")
    waits = ben.jobs.submit("generate", "x", {})
    assert ELSEWHERE in mixing.waiting_for(ben, waits)
    ana.jobs.finish(job.id, "done")
    assert mixing.occupied(ben) == ""


def test_a_moment_of_anothers_preview_is_waited_for(two: Rooms) -> None:
    ana, ben = (two.room(name).context.workspace for name in ("ana", "ben"))
    lock = FileLock(ana.device_lock)
    assert lock.acquire(note="the live preview")
    threading.Timer(0.3, lock.release).start()
    begin = time.monotonic()
    with Device(ben.device_lock, ben).taken("the live preview"):
        assert 0.2 < time.monotonic() - begin < 5


@pytest.fixture
def working(two: Rooms, monkeypatch: pytest.MonkeyPatch) -> Rooms:
    """Two accounts whose queues work, with processes that only pretend."""
    monkeypatch.setattr(runner, "WORKER", "tests.studio.pretend_worker")
    monkeypatch.setattr(runner, "LOOK", 0.1)
    monkeypatch.setattr(turns, "LOOK", 0.05)
    monkeypatch.setattr(processes, "POLL", 0.05)
    monkeypatch.setattr(runner.Runner, "_warm", lambda self: None)
    for name, kind in PRETEND.items():
        monkeypatch.setitem(KINDS, name, kind)
    return two


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_jobs_of_two_rooms_take_turns(working: Rooms) -> None:
    ana, ben = (working.room(name).context.jobs for name in ("ana", "ben"))
    first = [ana.submit("pretend", f"ana {number}", {"steps": 20}) for number in range(2)]
    kept = ben.submit("pretend", "ben", {"steps": 20})
    gone = ben.submit("pretend", "ben, not wanted", {"steps": 2})
    working.begin()
    for room in working.others:
        room.begin()
    until(lambda: ana.get(first[0].id).state == "running" or ben.get(kept.id).state == "running")
    ben.stop(gone.id)
    until(lambda: not any(jobs.counts()["queued"] + jobs.counts()["running"] for jobs in (ana, ben)))
    done = sorted([*(ana.get(job.id) for job in first), ben.get(kept.id)], key=lambda job: job.started or 0.0)
    assert [job.state for job in done] == ["done"] * 3
    assert ben.get(gone.id).state == "cancelled"
    for one, after in itertools.pairwise(done):
        assert (one.finished or 0.0) <= (after.started or 0.0), "one at a time"
    assert done[2].title != "ben", "Ben doesn't wait for all that Ana has queued"
