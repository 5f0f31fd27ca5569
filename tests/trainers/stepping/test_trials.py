"""What a recording is judged by, and what is left where it isn't taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainers.stepping.replay import CudaGraphs, Replay, Tensors

CPU = torch.device("cpu")
ONES = {"x": torch.ones(2)}


class Calls:
    """A `Recorder` whose recordings call the function again."""

    name, calls_before, exact = "calls", 1, True

    def aside(self, call: Callable[[], Tensors]) -> Tensors:
        return call()

    def record(self, call: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], None]]:
        found: dict[str, torch.Tensor] = {}
        return found, lambda: found.update(call())

    def random_state(self) -> Any:
        return torch.get_rng_state()

    def set_random_state(self, state: Any) -> None:
        torch.set_rng_state(state)

    def give_up(self) -> None:
        pass


def test_what_is_not_finite_is_judged_by_the_next_call() -> None:
    """As fp16's gradients aren't until their scaling is found."""
    calls, total = [0], torch.zeros(())

    def function(kind: Hashable, inputs: Tensors) -> Tensors:
        calls[0] += 1
        total.add_(math.inf if calls[0] == 2 else 1.0)
        return {"y": inputs["x"] * 2}

    replay = Replay(function, lambda: [total], CPU, Calls())
    for call in range(5):
        assert torch.equal(replay(0, ONES)["y"], torch.full((2,), 2.0))
        assert float(total) == (math.inf if call == 1 else 1.0)
        total.zero_()
    assert replay.recordings == 1 and not replay.notes


def test_without_memory_for_a_trial_it_goes_on_without() -> None:
    total = torch.zeros(())

    class Full(torch.Tensor):
        def clone(self) -> torch.Tensor:  # type: ignore[override]
            raise torch.OutOfMemoryError("full")

    def function(kind: Hashable, inputs: Tensors) -> Tensors:
        total.add_(inputs["x"].sum())
        return {"y": inputs["x"] + 1}

    replay = Replay(function, lambda: [total.as_subclass(Full)], CPU, Calls())
    for _ in range(3):
        assert torch.equal(replay(0, ONES)["y"], torch.full((2,), 2.0))
    assert total == 6 and replay.recordings == 0 and "memory" in replay.notes[0]


@pytest.mark.parametrize("full_at", [3, 5])
def test_recordings_are_given_up_where_they_leave_a_call_no_memory(full_at: int) -> None:
    """At the second trial of the first kind, or at the first call of the second one."""
    calls, total = [0], torch.zeros(())

    def function(kind: Hashable, inputs: Tensors) -> Tensors:
        calls[0] += 1
        total.add_(1.0)
        if calls[0] == full_at + 1:
            raise torch.OutOfMemoryError("full")
        return {"y": inputs["x"] + total}

    replay = Replay(function, lambda: [total], CPU, Calls())
    for call, kind in enumerate("aaab", start=1):
        assert torch.equal(replay(kind, ONES)["y"], torch.full((2,), 1.0 + call))
    assert total == 4 and replay.recordings == 0 and "memory" in replay.notes[0]


def test_a_call_for_which_there_is_no_memory_without_recordings_says_so() -> None:
    def function(kind: Hashable, inputs: Tensors) -> Tensors:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        Replay(function, list, CPU, Calls())(0, ONES)


def test_random_numbers_go_on_where_the_plain_function_left_them() -> None:
    calls = [0]

    def function(kind: Hashable, inputs: Tensors) -> Tensors:
        calls[0] += 1
        if calls[0] == 3:
            raise RuntimeError("no recording")
        return {"y": inputs["x"] + torch.rand(2)}

    replay, seen = Replay(function, list, CPU, Calls()), set()
    with torch.random.fork_rng(devices=[]):
        for _ in range(3):
            seen.add(float(replay(0, ONES)["y"][0]))
    assert len(replay.notes) == 1 and len(seen) == 3


def test_a_card_that_gave_up_draws_from_a_state_that_was_in_no_recording(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[object] = []
    generator = SimpleNamespace(graphsafe_set_state=given.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "default_generators", (None, generator))
    monkeypatch.setattr(
        torch, "Generator", lambda device: SimpleNamespace(graphsafe_get_state=lambda: device)
    )
    graphs = CudaGraphs.__new__(CudaGraphs)
    graphs._device = torch.device("cuda", 1)
    graphs.give_up()
    assert given == [torch.device("cuda", 1)]
