"""However steps are done, the same is learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.errors import StudioError
from pipelines.formats import read_adapter
from trainers import loop
from trainers.config import TrainConfig
from trainers.events import TrainEvent
from trainers.run_folder import LAST_FINITE
from trainers.stepping import Stepper
from trainers.stepping.flat import Flat
from trainers.stepping.operators import Operators

Make = Callable[..., TrainConfig]


def losses(events: list[TrainEvent]) -> list[float]:
    return [event.data["loss"] for event in events if event.kind == "step"]


class Soon(Operators):
    """A CPU's recordings, made as soon as a card's."""

    calls_before = 1


def _made(kept: list[Stepper], *given: Any, **more: Any) -> Stepper:
    """A stepper that goes the way of recordings, kept."""
    kept.append(Stepper(*given, **more, recorder=Soon()))
    return kept[-1]


ALONE: dict[str, Any] = {"prior_weight": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "text, two batches a step": {**ALONE, "text_targets": "attention", "accumulate": 2},
    "dropout": {**ALONE, "dropout": 0.3, "text_targets": "none"},
    "against the base's own answers": {
        "prior_target": "base",
        "text_targets": "attention",
        "num_class_images": 1,
        "prior_batch_size": 1,
    },
    "another optimizer": {**ALONE, "optimizer": "adafactor"},
    "a layer of our own": {**ALONE, "method": "qalora"},
}


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES.keys())
def test_recordings_and_buffers_learn_what_plain_steps_learn(
    fields: dict[str, Any], make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steppers: list[Stepper] = []
    usual = {"steps": 6, "checkpoint_every": 100, "evaluate_every": 0, **fields}
    plain = list(loop.train(make_config(**usual, output=tmp_path / "plain", without=("flat", "graph"))))
    monkeypatch.setattr(loop, "Stepper", partial(_made, steppers))
    fast = list(loop.train(make_config(**usual, output=tmp_path / "fast")))
    (stepper,) = steppers
    assert stepper._learn is not None and stepper._learn.recordings >= 1 and not stepper.notes()
    if "optimizer" not in fields:
        assert isinstance(stepper.gradients, Flat)
        assert stepper._optimize is not None and stepper._optimize.recordings == 1
    assert losses(fast) == pytest.approx(losses(plain), rel=2e-4)
    assert losses(fast)[0] == losses(plain)[0]


@pytest.mark.parametrize(
    "fields",
    [{"method": "adalora"}, {"method": "delta_lora", "text_targets": "none"}, {"without": ("graph",)},
     {"method": "pivotal"}],
    ids=["adalora", "delta_lora", "without", "pivotal"],
)  # fmt: skip
def test_what_changes_with_the_steps_is_not_recorded(
    fields: dict[str, Any], make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    steppers: list[Stepper] = []
    monkeypatch.setattr(loop, "Stepper", partial(_made, steppers))
    list(loop.train(make_config(**fields, steps=2, evaluate_every=0)))
    assert steppers[0]._learn is None and steppers[0]._optimize is None


def test_a_run_with_buffers_goes_on_without_them(make_config: Make, tmp_path: Path) -> None:
    whole = list(loop.train(make_config(output=tmp_path / "whole", evaluate_every=0, steps=6)))
    run = loop.train(make_config(evaluate_every=0, steps=6))
    for event in run:
        if event.kind == "step" and event.step == 3:
            break
    run.close()
    rest = list(loop.train(make_config(evaluate_every=0, steps=6, without=("flat", "layers"))))
    assert losses(rest) == pytest.approx(losses(whole)[3:], rel=1e-4)


def test_no_step_is_taken_from_the_first_bad_one_on(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a card, where losses are read later: what is kept is what was sound."""
    monkeypatch.setattr(loop, "Readings", partial(_Late, loop.Readings))
    calls = [0]
    exact = loop.sample_losses

    def broken(*given: Any) -> torch.Tensor:
        calls[0] += 1
        return exact(*given) * (math.nan if calls[0] == 3 else 1.0)

    monkeypatch.setattr(loop, "sample_losses", broken)
    config = make_config(steps=8, checkpoint_every=100, evaluate_every=0)
    with pytest.raises(StudioError, match=r"isn't finite at step 3 .*the adapter of step 2"):
        list(loop.train(config))
    assert calls[0] == 8 + 1, "and once more to see where it broke"
    kept = read_adapter(config.run.output / LAST_FINITE)

    monkeypatch.undo()
    short = make_config(steps=8, output=tmp_path / "short", checkpoint_every=100, evaluate_every=0)
    run = loop.train(short)
    for event in run:
        if event.kind == "step" and event.step == 2:
            break
    frame = run.gi_frame.f_locals  # type: ignore[attr-defined]
    sound = frame["injection"].collect("sound", ("zuv",))
    run.close()
    for module, factors in sound.factors.items():
        torch.testing.assert_close(_delta(kept.factors[module]), _delta(factors), rtol=0.01, atol=1e-6)


def _delta(factors: Any) -> torch.Tensor:
    return factors.up.float() @ factors.down.float() * (factors.alpha / len(factors.down))


class _Late:
    """Readings of a device that nobody waits for until the end."""

    def __init__(self, make: Any, names: Any, run: Any, *, waits: bool) -> None:
        self._inner, self._last = make(names, run, waits=False), run.steps

    def add(self, *given: Any) -> None:
        self._inner.add(*given)

    def due(self, step: int) -> Any:
        return self._inner._read() if step == self._last else []

    def restart(self) -> None:
        self._inner.restart()
