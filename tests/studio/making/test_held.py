"""The base that is held: lent to one thread at a time, with room made among adapters that nobody wants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.errors import Busy
from studio.context import Context
from studio.locks import FileLock
from studio.making.held import KEPT_ADAPTERS, Device, Held, make_room


class Names:
    """A mixer's names alone."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def remove(self, name: str) -> None:
        self.names.remove(name)


def test_room_is_made_among_unused_adapters_only() -> None:
    mixer = Names([f"old{n}" for n in range(KEPT_ADAPTERS - 1)] + ["used"])
    make_room(mixer, {"used"})
    assert len(mixer.names) == KEPT_ADAPTERS
    make_room(mixer, {"used", "new"})
    assert mixer.names == ["used"]
    many = {f"new{n}" for n in range(KEPT_ADAPTERS + 4)}
    mixer.names = sorted(many)
    make_room(mixer, many)
    assert set(mixer.names) == many


def test_the_device_is_given_back_by_the_last_who_took_it(tmp_path: Path) -> None:
    device, other = Device(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert device.take("one") and device.take("two")
    device.give()
    assert not other.acquire(), "somebody still computes"
    device.give()
    assert other.acquire(note="job 1")
    assert not device.take("three")
    with pytest.raises(Busy, match="in use by job 1"), device.taken("four"):
        pass
    other.release()
    with device.taken("five"):
        assert not other.acquire()
    assert other.acquire()
    other.release()


@pytest.fixture
def held(context: Context) -> Iterator[Held]:
    """What is loaded: nothing yet."""
    found = Held(context.workspace)
    yield found
    found.close()


def test_a_base_is_loaded_once_and_lent_to_one_thread_at_a_time(
    held: Held, tiny_folder: Path, tiny_file: Path
) -> None:
    told: list[object] = []
    held._on_load = told.append
    inside, order = threading.Event(), []

    def other() -> None:
        inside.wait(10)
        with held.lent(str(tiny_folder)):
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with held.lent(str(tiny_folder)) as (first, _):
        inside.set()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "other"]
    assert len(told) == 1
    with held.lent(str(tiny_folder)) as (again, _):
        assert again is first
    with held.lent(str(tiny_file)) as (mixer, _):
        assert mixer.base is not first.base
    assert len(told) == 2
    assert first.base.holder is None, "what was held before holds nothing any more"


def test_adapters_are_read_once(
    held: Held, context: Context, tiny_folder: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    entry, _ = context.library.add(make_adapter(tmp_path / "a.safetensors"))
    with held.lent(str(tiny_folder)) as (mixer, _):
        held.attach(mixer, [entry.id])
        adapter = mixer.adapters[entry.id]
        assert held.attach(mixer, [entry.id])[entry.id].name == entry.name
        assert mixer.adapters[entry.id] is adapter
