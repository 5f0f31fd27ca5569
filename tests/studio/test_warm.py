"""The server's side of the drawing process: many askers, its death, its rest, and who may wake it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.errors import AdapterError, Busy, StudioError
from studio import processes, warm
from studio.bases import BaseOptions
from studio.jobs import Jobs
from studio.turns import Turns
from studio.warm import MakerProcess
from studio.workspace import Workspace


@pytest.fixture
def maker(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakerProcess]:
    """A process that does what is asked at once."""
    spawn = processes.spawn

    def quick(module: str, *arguments: str, **pipes: Any) -> Any:
        assert module == "studio.maker"
        return spawn("tests.studio.pretend_maker", **pipes)

    monkeypatch.setattr(processes, "spawn", quick)
    found = MakerProcess(workspace, BaseOptions(), "the base")
    yield found
    found.close()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_several_requests_are_under_way_and_each_gets_its_answer(maker: MakerProcess) -> None:
    slow = maker.submit("blocks", seconds=0.3)
    with ThreadPoolExecutor(8) as pool:
        pids = {answer["pid"] for answer in pool.map(lambda _: maker.ask("blocks"), range(24))}
    assert not slow.done()
    assert pids == {slow.result()["pid"]} == {maker.start().pid}
    assert maker.loaded is None
    maker.ask("warm")
    assert maker.loaded is not None and maker.loaded.resident > 1e6
    assert (maker.loaded.base, maker.loaded.bytes) == ("the base", 7)


@pytest.mark.parametrize(
    ("kind", "raised"),
    [("AdapterError", AdapterError), ("Busy", Busy), ("", StudioError), ("Path", StudioError)],
)
def test_errors_keep_their_class(maker: MakerProcess, kind: str, raised: type[StudioError]) -> None:
    with pytest.raises(StudioError, match="one line") as refused:
        maker.ask("fail", kind=kind)
    assert type(refused.value) is raised


def test_what_a_dead_process_owes_fails_and_the_next_starts_another(maker: MakerProcess) -> None:
    slow = maker.submit("blocks", seconds=60)
    with pytest.raises(StudioError, match="exit code 3"):
        maker.ask("die")
    with pytest.raises(StudioError, match="the drawing process ended"):
        slow.result()
    assert maker.ask("blocks")["pid"] == maker.start().pid


def test_rest_lets_a_drawing_end_and_cuts_previews_short(maker: MakerProcess) -> None:
    drawing, preview = maker.submit("generate", seconds=0.3), maker.submit("live", seconds=60)
    pid = maker.start().pid
    maker.rest()
    assert drawing.result()["pid"] == pid
    with pytest.raises(Busy, match="needed for something else"):
        preview.result()
    assert not maker.alive
    with pytest.raises(Busy, match="about to begin"):
        maker.submit("live")
    assert not maker.alive, "a wish starts nothing"
    assert maker.ask("warm")["pid"] != pid
    maker.ask("live")


def test_a_running_training_is_the_reason(maker: MakerProcess, workspace: Workspace) -> None:
    jobs = Jobs(workspace)
    job = jobs.submit("train", "Zib", {})
    assert jobs.claim(job.id, 1, 0.0)
    for verb in sorted(warm.ON_DEVICE):
        with pytest.raises(Busy, match="“Zib” is being taught; try again after it"):
            maker.ask(verb)
    assert not maker.alive
    maker.ask("blocks")  # needs no device
    jobs.finish(job.id, "done")
    maker.ask("live")
    drawn = jobs.submit("generate", "a fox", {})
    assert jobs.claim(drawn.id, 1, 0.0)
    maker.ask("live")  # it waits in the process, behind the pictures


def test_an_idle_process_on_a_card_gives_its_memory_back(maker: MakerProcess, workspace: Workspace) -> None:
    workspace.remember(warm.IDLE, 0.2 / 60)
    maker.ask("warm")
    time.sleep(0.4)
    assert maker.alive, "there is no card"
    maker.ask("warm", device="cuda:0")
    slow = maker.submit("blocks", seconds=0.6)
    assert slow.result()["pid"] == maker.start().pid, "it isn't idle while it is asked something"
    until(lambda: not maker.alive)
    assert maker.loaded is None
    maker.ask("live")  # a wish may start it again
    workspace.remember(warm.IDLE, 0)
    maker.ask("warm", device="cuda:0")
    time.sleep(0.4)
    assert maker.alive


def test_where_accounts_share_the_device_an_idle_process_gives_way(
    maker: MakerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, room = Turns(), Workspace.open(tmp_path / "another", own=False)
    maker._turns, other = shared, MakerProcess(room, BaseOptions(), "the base", shared)
    for one in (maker, other):
        queue: Any = SimpleNamespace(workspace=one.workspace, jobs=Jobs(one.workspace), maker=one)
        shared.join(queue)
    first = maker.ask("warm")["pid"]
    other.ask("warm")
    assert maker.ask("blocks")["pid"] == first, "it was asked a moment ago"
    other.rest()
    monkeypatch.setattr(warm, "_KEPT", 0.0)
    slow = maker.submit("blocks", seconds=0.5)
    other.ask("warm")
    assert slow.result()["pid"] == first, "it isn't idle while it is asked something"
    until(lambda: not maker._child.asked)  # type: ignore[union-attr]
    other.ask("warm")
    assert maker.alive, "nothing had to be begun"
    other.rest()
    other.ask("warm")
    assert not maker.alive
    room.remember(warm.IDLE, 0.2 / 60)
    other.ask("warm")
    until(lambda: not other.alive)  # also without a card: there may be one for each account
    other.close()


def test_a_closing_studio_starts_nothing(maker: MakerProcess) -> None:
    slow = maker.submit("blocks", seconds=60)
    maker.close()
    with pytest.raises(StudioError, match="the studio is closing"):
        slow.result()
    with pytest.raises(StudioError, match="the studio is closing"):
        maker.ask("blocks")


def test_nobody_waits_at_a_page_for_long(maker: MakerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "SOON", 0.05)
    slow = maker.submit("blocks", seconds=0.4)
    with pytest.raises(Busy, match="being drawn"):
        maker.ask_soon("blocks", seconds=0.4)
    assert slow.result()["pid"] == maker.start().pid
    until(lambda: not maker._child.asked)  # type: ignore[union-attr]
    monkeypatch.setattr(warm, "SOON", 20.0)
    assert maker.ask_soon("blocks")["pid"] == maker.start().pid, "what came too late harms nothing"
