"""Steps' numbers are read when something needs them, all of them, in order."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from trainers.config import TrainConfig
from trainers.stepping import STEPS_AT_MOST, Readings, readings

Make = Callable[..., TrainConfig]


def told(found: Readings, upto: int, bad: int = 0) -> list[list[int]]:
    """The steps that come at each step."""
    steps = []
    for step in range(1, upto + 1):
        loss = math.nan if step == bad else float(step)
        found.add(step, torch.tensor([loss, loss], dtype=torch.float64), torch.tensor(2.0), 0.1)
        steps.append([one.step for one in found.due(step)])
    return steps


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass."""
    monkeypatch.setattr(readings.time, "monotonic", lambda: 0.0)


def make(make_config: Make, *, waits: bool = False, **fields: object) -> Readings:
    usual = {"steps": 50, "checkpoint_every": 1000, "evaluate_every": 0}
    return Readings(("loss", "instance_loss"), make_config(**{**usual, **fields}).run, waits=waits)


def test_the_first_step_the_last_and_every_twentieth_are_read_at_once(make_config: Make, still: None) -> None:
    steps = told(make(make_config), 50)
    assert [len(one) for one in steps if one] == [1, STEPS_AT_MOST - 1, STEPS_AT_MOST, 50 - 2 * STEPS_AT_MOST]
    assert [step for one in steps for step in one] == list(range(1, 51))


def test_what_looks_at_a_step_has_it_read(make_config: Make, still: None) -> None:
    steps = told(make(make_config, checkpoint_every=7, evaluate_every=5), 14)
    assert [index for index, one in enumerate(steps, start=1) if one] == [1, 5, 7, 10, 14]


def test_each_step_is_read_where_it_is_waited_for(make_config: Make, still: None) -> None:
    assert told(make(make_config, waits=True), 5) == [[1], [2], [3], [4], [5]]


def test_a_slow_step_is_read_at_once(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(second) for second in range(100))
    monkeypatch.setattr(readings.time, "monotonic", lambda: next(clock))
    assert told(make(make_config), 5) == [[1], [2], [3], [4], [5]]


def test_nothing_is_told_of_what_comes_after_a_step_that_is_no_number(make_config: Make, still: None) -> None:
    steps = told(make(make_config), STEPS_AT_MOST, bad=5)
    assert steps[-1] == [2, 3, 4, 5]


def test_numbers_have_their_names(make_config: Make, still: None) -> None:
    found = make(make_config)
    found.add(1, torch.tensor([1.5, 0.5]), torch.tensor(3.0), 0.25)
    (one,) = found.due(1)
    assert (one.losses, one.loss, one.norm, one.rate, one.finite) == (
        {"loss": 1.5, "instance_loss": 0.5}, 1.5, 3.0, 0.25, True,
    )  # fmt: skip
