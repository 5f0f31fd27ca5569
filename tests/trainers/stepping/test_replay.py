"""Recordings are tried before they are trusted; shown with a CPU's, which behave as a card's do."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
import torch

from trainers.stepping import replay as module
from trainers.stepping.operators import Operators
from trainers.stepping.replay import TRIALS, Replay, Tensors

CPU = torch.device("cpu")
EAGER_CALLS = Operators.calls_before
CALLS = EAGER_CALLS + TRIALS
"""After so many a recording is trusted."""


def adding(total: torch.Tensor, odd: Callable[[], float] = lambda: 0.0) -> Replay:
    """A function that adds its input to `total`, and `odd()` with it; returns twice the input's sum."""

    def function(kind: Hashable, inputs: Tensors) -> Tensors:
        total.add_(inputs["x"].sum() + odd())
        return {"twice": inputs["x"].sum() * 2}

    return Replay(function, lambda: [total], CPU, Operators())


def test_a_recording_gives_what_the_function_gives_for_each_shape() -> None:
    total = torch.zeros(())
    replay = adding(total)
    for call in range(1, CALLS + 3):
        for size in (2, 3):
            found = replay("kind", {"x": torch.full((size,), float(call))})
            assert found["twice"] == 2 * size * call
    assert total == 5 * sum(range(1, CALLS + 3)) and replay.recordings == 2 and not replay.notes


def test_another_kind_is_another_recording() -> None:
    replay = adding(torch.zeros(()))
    for _ in range(CALLS):
        replay("a", {"x": torch.ones(2)})
        replay("b", {"x": torch.ones(2)})
    assert replay.recordings == 2


def test_what_does_something_else_when_recorded_is_refused_and_said() -> None:
    calls = [0.0]

    def odd() -> float:
        calls[0] += 1
        return 10.0 * (calls[0] > EAGER_CALLS + 1)  # the recording's own call

    total = torch.zeros(())
    replay = adding(total, odd)
    for _ in range(EAGER_CALLS + 1):
        replay("kind", {"x": torch.ones(2)})
    assert replay.recordings == 0
    assert total == 2 * (EAGER_CALLS + 1)  # what the plain function made of it stands
    assert len(replay.notes) == 1 and "differs by" in replay.notes[0]
    replay("kind", {"x": torch.ones(2)})
    assert total == 2 * (EAGER_CALLS + 2) + 10  # eagerly from then on


def test_what_can_not_be_recorded_is_said_and_done_without() -> None:
    calls = [0]

    def function(kind: Hashable, inputs: Tensors) -> Tensors:
        calls[0] += 1
        if calls[0] == EAGER_CALLS + 2:
            raise RuntimeError("not permitted when stream is capturing\nmore")
        return {"y": inputs["x"] + 1}

    replay = Replay(function, list, CPU, Operators())
    for _ in range(EAGER_CALLS + 3):
        assert torch.equal(replay(0, {"x": torch.ones(2)})["y"], torch.full((2,), 2.0))
    assert replay.recordings == 0
    says = "steps aren't recorded as operators, which is slower (not permitted when stream is capturing)"
    assert replay.notes == [says]


def test_only_so_many_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_RECORDINGS", 1)
    total = torch.zeros(())
    replay = adding(total)
    for _ in range(CALLS):
        for size in (2, 3):
            replay(0, {"x": torch.ones(size)})
    assert replay.recordings == 1 and total == 5 * CALLS
