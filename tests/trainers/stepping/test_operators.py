"""A recording of operators does what the function did, on other inputs too, and without Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers import loop
from trainers.config import TrainConfig
from trainers.stepping import Stepper
from trainers.stepping.operators import Operators
from trainers.stepping.replay import TRIALS, Replay, Tensors

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")


class Soon(Operators):
    """Recorded at the second call."""

    calls_before = 1


def recorded(function: Callable[[Tensors], Tensors], changed: list[torch.Tensor]) -> Replay:
    """A function that is recorded, and has been called so often that the recording is trusted."""
    replay = Replay(lambda kind, inputs: function(inputs), lambda: changed, CPU, Soon())
    for seed in range(1 + TRIALS):
        replay(0, {"x": torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))})
    return replay


def test_gradients_are_added_without_python_and_without_autograd() -> None:
    weight = torch.nn.Parameter(torch.randn(6, 3))
    weight.grad = torch.zeros_like(weight)
    called = [0]

    def function(inputs: Tensors) -> Tensors:
        called[0] += 1
        hidden = (inputs["x"] @ weight).softmax(-1)
        parts = hidden.split([1, 2], dim=1)
        loss = (parts[1].transpose(0, 1).reshape(-1) * 2).sum() + (hidden + 1).relu_().square().mean()
        loss.backward()
        return {"loss": loss.detach(), "hidden": hidden.detach()[1:]}

    replay = recorded(function, [weight.grad])
    assert replay.recordings == 1 and not replay.notes
    x, python = torch.randn(4, 6), called[0]
    weight.grad.zero_()
    with torch.no_grad():
        weight.mul_(1.5)  # a parameter is read where it lies
    found = {name: value.clone() for name, value in replay(0, {"x": x}).items()}
    gradient = weight.grad.clone()
    assert called[0] == python
    weight.grad.zero_()
    exact = function({"x": x})
    assert torch.equal(gradient, weight.grad)
    assert all(torch.equal(found[name], exact[name]) for name in exact)


def test_random_numbers_are_drawn_anew() -> None:
    replay = recorded(lambda inputs: {"y": inputs["x"] + torch.rand(6)}, [])
    assert replay.recordings == 1
    x = torch.zeros(4, 6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first = replay(0, {"x": x})["y"].clone()
        second = replay(0, {"x": x})["y"].clone()
        torch.manual_seed(3)
        assert torch.equal(first[0], torch.rand(6)) and torch.equal(second[0], torch.rand(6))


def test_what_python_puts_in_is_noticed_at_the_second_trial() -> None:
    """A number of the host's would stay what it was when the recording was made."""
    count = [0.0]

    def function(inputs: Tensors) -> Tensors:
        count[0] = float(inputs["x"].detach().numpy().sum())
        return {"y": inputs["x"] * torch.tensor([count[0]])}

    replay = recorded(function, [])
    assert replay.recordings == 0 and "the recording's y differs" in replay.notes[0]


def test_nothing_is_done_while_it_is_watched() -> None:
    total, x = torch.zeros(6), torch.ones(4, 6)

    def call() -> Tensors:
        total.add_(x.sum(0))
        return {"y": total.view(2, 3).sum()}

    found, again = Operators().record(call)
    assert not total.any()
    again()
    assert total.tolist() == [4.0] * 6 and found["y"] == 24


@pytest.mark.parametrize("fields", [{}, {"dropout": 0.2, "text_targets": "none"}], ids=["plain", "dropout"])
def test_a_run_is_the_same_bit_for_bit_recorded_or_not_and_resumed(
    fields: dict[str, Any], make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Stepper] = []

    def run(name: str, recorder: Operators, stop: int = 0) -> list[float]:
        def make(*given: Any) -> Stepper:
            made.append(Stepper(*given, recorder=recorder))
            return made[-1]

        monkeypatch.setattr(loop, "Stepper", make)
        config = make_config(output=tmp_path / name, prior_weight=0.0, steps=12, checkpoint_every=100,
                             evaluate_every=0, **fields)  # fmt: skip
        events, found = loop.train(config), []
        for event in events:
            if event.kind == "step":
                found.append(event.data["loss"])
            if stop and event.step == stop:
                events.close()
        return found

    class Never(Operators):
        calls_before = 10**9

    plain = run("plain", Never())
    assert run("recorded", Soon()) == plain
    learn = made[-1]._learn
    assert learn is not None and learn.recordings == 1
    begun = run("resumed", Soon(), stop=7)
    assert begun + run("resumed", Soon()) == plain
