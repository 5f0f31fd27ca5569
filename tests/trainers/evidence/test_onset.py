"""Where a step went wrong is found by doing it once more."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import trainers.loop
from pipelines.errors import StudioError
from trainers.evidence.onset import find_onset, layer_of
from trainers.evidence.record import read_record
from trainers.stepping.readings import Reading


class Net(nn.Module):
    """Two layers; what stands in `poison` is what the second one's answer or gradient is multiplied with."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(self.first(values))
        return found


class Injected:
    """As much of an injection as is looked at."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = Net()
        self.base = SimpleNamespace(unet=self.net, text_encoders=dict)
        self.parameters = {f"unet.{name}": value for name, value in self.net.named_parameters()}

    def learning(self, step: int) -> Any:
        from contextlib import nullcontext

        return nullcontext()


def batch(value: float = 1.0) -> Any:
    return SimpleNamespace(latents=torch.full((2, 3), value), noise=torch.zeros(2, 3), mask=None)


def reading(**losses: float) -> Reading:
    return Reading(step=7, losses=losses or {"loss": math.nan}, norm=1.0, rate=1e-3, seconds=0.1)


def onset(injected: Injected, *batches: Any, after: Callable[..., Any] = lambda loss: loss) -> Any:
    def forward(one: Any) -> torch.Tensor:
        found: torch.Tensor = after(injected.net(one.latents).square().mean())
        return found

    return find_onset(injected, reading(), batches or (batch(),), forward)  # type: ignore[arg-type]


def test_what_was_learned_is_looked_at_first() -> None:
    injected = Injected()
    with torch.no_grad():
        injected.net.second.weight[0, 0] = math.nan
    found = onset(injected)
    assert (found.step, found.where, found.phase) == (7, "unet.second", "update")
    assert "NaN" in found.words and "step 7" in found.words


def test_the_first_layer_whose_answer_is_no_number_is_named() -> None:
    injected = Injected()
    injected.net.first.register_forward_hook(lambda module, given, answer: answer * 1e38 * 1e38)
    found = onset(injected, batch(0.1), batch())
    assert (found.where, found.phase) == ("unet.first", "forward")
    assert "infinity" in found.words or "NaN" in found.words


def test_an_error_that_is_no_number_is_the_loss() -> None:
    found = onset(Injected(), after=lambda loss: loss * math.nan)
    assert (found.where, found.phase) == ("loss", "forward")


def test_a_gradient_that_is_no_number_is_found_on_the_way_back() -> None:
    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
            return values.clone()

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * math.inf

    injected = Injected()
    injected.net.first.register_forward_hook(lambda module, given, answer: Poison.apply(answer))
    found = onset(injected)
    assert (found.where, found.phase) == ("unet.first", "backward")
    assert found.words.startswith(
        "The numbers broke at step 7: on the way back the gradient at unet.first was"
    )


def test_pictures_that_are_no_numbers_are_said() -> None:
    found = onset(Injected(), batch(math.inf))
    assert found.where == "the pictures' latents" and found.phase == "forward"


@pytest.mark.parametrize(("losses", "where"), [({"loss": math.nan}, "loss"), ({"loss": 1.0}, "gradient")])
def test_what_does_not_come_again_is_said_as_it_was_reported(losses: dict[str, float], where: str) -> None:
    injected = Injected()

    def forward(one: Any) -> torch.Tensor:
        found: torch.Tensor = injected.net(one.latents).mean()
        return found

    found = find_onset(injected, reading(**losses), (batch(),), forward)  # type: ignore[arg-type]
    assert found.where == where and "didn't come again" in found.words


def test_no_hook_is_left_behind() -> None:
    injected = Injected()
    onset(injected)
    assert not any(module._forward_hooks for module in injected.net.modules())
    assert not any(one._backward_hooks for one in injected.parameters.values())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("unet.mid.to_q.base_layer", "unet.mid.to_q"),
        ("unet.mid.to_q.lora_A.default", "unet.mid.to_q"),
        ("text_encoder.layers.0", "text_encoder.layers.0"),
    ],
)
def test_a_part_of_an_adapted_layer_is_called_by_its_name(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def test_a_run_that_breaks_leaves_where_it_began_and_the_verdict(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, steps = trainers.loop.sample_losses, iter(range(100))

    def broken(*arguments: Any) -> torch.Tensor:
        found = real(*arguments)
        return found * math.nan if next(steps) >= 1 else found

    monkeypatch.setattr(trainers.loop, "sample_losses", broken)
    config = make_config(steps=3, held_out=0, prior_weight=0.0, evaluate_every=3)
    with pytest.raises(StudioError, match=r"at step 2 .*first in loss \(forward\)"):
        list(trainers.loop.train(config))
    record = read_record(config.run.output)
    assert record is not None and record.onset is not None
    assert (record.onset.step, record.onset.where) == (2, "loss")
    assert [finding.rule for finding in record.verdict] == ["not_finite"]
    assert record.verdict[0].changes["learning_rate"] > 0
