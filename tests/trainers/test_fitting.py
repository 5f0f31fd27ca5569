"""What is chosen to be recomputed: as little as fits, cheapest first, and numbers stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.base import Base
from tests.trainers.counting.following import PLAIN, levels_of, measured
from trainers import fitting, memory
from trainers.config import TrainConfig
from trainers.counting.demand import Demand
from trainers.fitting import Fit, fit, room_on
from trainers.recomputing import modules_of, recomputed
from trainers.settings import AdapterConfig
from trainers.tuning import Injection, injected

ASKED = Demand(samples=2, shape=(16, 16), tokens=16, numbers=1000)


@pytest.fixture
def injection(tiny_base: Base) -> Iterator[Injection]:
    with injected(tiny_base, AdapterConfig(unet_targets="attention", text_targets="none", rank=4)) as found:
        yield found


def chosen(base: Base, room: int, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """What is chosen in so little room; without the rule by which nothing is counted for small bases."""
    monkeypatch.setattr(fitting, "_AMPLE", 10**6)
    return fit(base, ASKED, levels_of(base), PLAIN, room)


def test_no_more_is_recomputed_than_fits(
    tiny_base: Base, injection: Injection, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = chosen(tiny_base, 2**30, monkeypatch)
    assert most.needed is not None and not most.modules and not most.notes
    assert not chosen(tiny_base, most.needed, monkeypatch).modules  # it just fits
    everything = len(modules_of(tiny_base, "all"))
    room = int(0.8 * most.needed)
    found = chosen(tiny_base, room, monkeypatch)
    assert found.needed is not None and found.needed <= room and 0 < len(found.modules) < everything
    with recomputed(found.modules):
        taken = measured(tiny_base, ASKED, injection)
    assert taken <= room < measured(tiny_base, ASKED, injection) + ASKED.held
    (note,) = found.notes
    assert "second time to save memory" in note and "\n" not in note


def test_where_nothing_helps_everything_is_recomputed_and_said(
    tiny_base: Base, injection: Injection, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = chosen(tiny_base, 10_000, monkeypatch)
    assert len(found.modules) == len(modules_of(tiny_base, "all"))
    (note,) = found.notes
    assert "may not fit" in note and "run.batch_size" in note and "\n" not in note


def test_what_saves_the_most_per_flop_goes_first(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_AMPLE", 10**6)
    seen: list[Any] = []
    options = fitting._options

    def noted(*given: Any) -> list[Any]:
        seen.append(options(*given))
        return list(seen[-1])

    monkeypatch.setattr(fitting, "_options", noted)
    with injected(tiny_base, AdapterConfig(unet_targets="attention", text_targets="none", rank=4)):
        most = fit(tiny_base, ASKED, levels_of(tiny_base), PLAIN, 2**30).needed
        assert most is not None
        found = fit(tiny_base, ASKED, levels_of(tiny_base), PLAIN, int(0.7 * most))
    (listed,) = seen
    worths = [one.bytes / one.flops for one in listed]
    assert worths == sorted(worths, reverse=True) and min(one.bytes for one in listed) > 0
    taken, first = {id(module) for module in found.modules}, set[int]()
    prefixes = []
    for one in listed:
        first = (first | {id(one.module)}) - {id(one.instead)}  # never a block and a part of it
        prefixes.append(first)
    assert taken in prefixes


def test_small_bases_and_unknown_devices_are_not_counted(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(fitting, "trial", never)
    assert fit(tiny_base, ASKED, levels_of(tiny_base), PLAIN, 2**30) == Fit()
    monkeypatch.setattr(fitting, "room_on", lambda device: None)
    assert fit(tiny_base, ASKED, levels_of(tiny_base), PLAIN) == Fit()


def test_what_cannot_be_counted_is_said(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    def asks_for_numbers(x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return x * x.sum().item()

    def refuses(*_: object, **__: object) -> torch.Tensor:
        raise ValueError("no number\nat all")

    for forward in (asks_for_numbers, refuses):
        monkeypatch.setattr(tiny_base.unet.mid_block, "forward", forward)
        found = chosen(tiny_base, 1000, monkeypatch)
        assert "can't be counted" in found.notes[0] and "\n" not in found.notes[0]
        # It doesn't fit by far, so it is not left to luck.
        assert list(found.modules) == modules_of(tiny_base, "all")
    assert tiny_base.unet.conv_in.weight.device.type == "cpu"


def test_a_card_s_room_is_what_is_free_within_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"free": 10, "total": 100, "share": 0.5, "held": 20, "reserved": 24}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (told["free"], told["total"]))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: told["share"])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: told["held"])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: told["reserved"])
    card = torch.device("cuda")
    assert room_on(card) == 14  # free, and held without use
    told["share"] = 0.3
    assert room_on(card) == 10  # 30 in all, 20 of them taken
    told["share"] = 0.1
    assert room_on(card) == 0
    assert 2**20 < (room_on(torch.device("cpu")) or 0) < 2**50
    assert room_on(torch.device("mps")) is None


def test_a_run_s_room_is_shared_and_holds_what_parts_in_one_piece_keep(
    tiny_base: Base, make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[int | None] = []
    monkeypatch.setattr(fitting, "demand_of", lambda *_: ASKED)
    monkeypatch.setattr(fitting, "room_on", lambda device: 8 * 2**30)
    monkeypatch.setattr(fitting, "fit", lambda *given: rooms.append(given[-1]))
    prepared: Any = SimpleNamespace(streams=(), captions=())
    told: Any = None
    for without in (("frozen",), ()):
        config = make_config(without=without)
        fitting.fit_run(tiny_base, config, told, prepared, levels_of(tiny_base), 2)
    layers = [m for m in tiny_base.unet.modules() if isinstance(m, torch.nn.Conv2d)]
    assert rooms == [4 * 2**30, 4 * 2**30 - 2**29 - 2 * sum(m.weight.nbytes for m in layers)]


def test_auto_takes_what_is_found_and_says_so(tiny_base: Base) -> None:
    block = tiny_base.unet.mid_block.resnets[0]
    with memory.checkpointing(tiny_base, "auto", fit=lambda: Fit((block,), 5, ("said",))) as notes:
        assert "forward" in vars(block) and notes == ("said",)
        assert [m for m in tiny_base.unet.modules() if "forward" in vars(m)] == [block]
    assert "forward" not in vars(block)
    with memory.checkpointing(tiny_base, "none", fit=lambda: Fit((block,))) as notes:
        assert "forward" not in vars(block) and notes == ()
