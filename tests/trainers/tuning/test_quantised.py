"""Tuning over layers of fewer bits: a stand-in, and every library that is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.base import Base
from pipelines.errors import ConfigError
from pipelines.methods import TUNINGS
from pipelines.quantised import QUANTISED, check_quantiser, quantise
from tests.trainers.tuning.trying import config_of, seen, train
from trainers.config import TrainConfig
from trainers.events import TrainEvent
from trainers.loop import train as train_loop
from trainers.tuning import injected
from trainers.tuning.targets import kind_of

_METHODS = ("lora", "rslora", "dora", "ia3", "oft", "qalora")


# PEFT looks for scales that a layer has moved away at its first pass.
_REFUSED = {("bnb-int8", "dora")}


class Bytes(nn.Linear):
    """A linear layer of whole numbers of 8 bits with a scale per output."""

    scale: torch.Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.bias = layer.bias
        scale = layer.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        del self.weight
        self.register_buffer("scale", scale)
        numbers = (layer.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(numbers, requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(input, self.weight.to(input.dtype) * self.scale, self.bias)


@pytest.fixture
def rounded(tiny_base: Base) -> Iterator[Base]:
    """The tiny base with a UNet whose attention layers hold whole numbers."""
    changed = []
    for path, module in list(tiny_base.unet.named_modules()):
        if kind_of(path, module) == "linear" and ".attentions." in path:
            parent, _, leaf = path.rpartition(".")
            setattr(tiny_base.unet.get_submodule(parent), leaf, Bytes(module))
            changed.append((parent, leaf, module))
    yield tiny_base
    for parent, leaf, module in changed:
        setattr(tiny_base.unet.get_submodule(parent), leaf, module)


def test_lora_trains_over_whole_numbers(rounded: Base) -> None:
    before = seen(rounded)
    with injected(rounded, config_of("lora", unet_targets="attention")) as injection:
        assert torch.equal(seen(rounded), before)
        train(injection, 2)
        trained = seen(rounded)
        with injection.disabled():
            assert torch.equal(seen(rounded), before)
    assert not torch.equal(trained, before) and torch.equal(seen(rounded), before)


def test_a_start_that_rewrites_is_refused_over_whole_numbers(rounded: Base) -> None:
    with (
        pytest.raises(ConfigError, match=r"pissa rewrites the base, unet.* is quantised"),
        injected(rounded, config_of("lora", unet_targets="attention", initialisation="pissa")),
    ):
        pass


def _fields(method: str) -> dict[str, str]:
    return {"unet_targets": "attention"} if "unet" in TUNINGS[method].components else {}


@pytest.mark.parametrize("method", ["dora", "ia3", "oft", "hira", "miss", "full", "mora", "delta_lora"])
def test_what_does_not_train_over_whole_numbers_is_refused_before_the_first_step(
    rounded: Base, method: str
) -> None:
    """No library knows this kind of layer: what gets by without its weight trains, the rest says so."""
    before = seen(rounded)
    try:
        with injected(rounded, config_of(method, **_fields(method)), word="zuv") as injection:
            train(injection, 1)
            assert not torch.equal(seen(rounded), before)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
    assert torch.equal(seen(rounded), before)


def test_a_layer_that_drops_its_adapter_is_refused(rounded: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.tuners.lora.layer import Linear

    monkeypatch.setattr(Linear, "forward", lambda self, x, *_, **__: self.base_layer(x) + 0 * sum(
        p.sum() for p in self.parameters() if p.requires_grad
    ))  # fmt: skip
    with (
        pytest.raises(
            ConfigError, match=r"LoRA doesn't train on layers quantised as Bytes.*dropped silently"
        ),
        injected(rounded, config_of("lora", unet_targets="attention"), quick=False),
    ):
        pass


class _OneWay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, *grads: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("derivative for the packed product is not implemented")


@pytest.mark.parametrize("stop", [torch.Tensor.detach, _OneWay.apply])
def test_a_base_that_passes_no_gradients_is_refused(
    rounded: Base, monkeypatch: pytest.MonkeyPatch, stop: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """As libraries' layers do that round what they are given, or have no derivative."""
    whole = Bytes.forward
    monkeypatch.setattr(Bytes, "forward", lambda self, input: whole(self, stop(input)))
    before = seen(rounded)
    config = config_of("lora", unet_targets="none")
    with (
        pytest.raises(ConfigError, match=r"quantised as Bytes .*passes no gradients on"),
        injected(rounded, config),
    ):
        pass
    assert torch.equal(seen(rounded), before)


@pytest.mark.parametrize("name", list(QUANTISED))
def test_every_library_that_is_installed(tiny_base: Base, name: str) -> None:
    device = torch.device("cpu")
    try:
        check_quantiser(name, device, torch.float32)
    except ConfigError as error:
        pytest.skip(str(error))
    quantise(tiny_base.unet, name, device)
    assert QUANTISED[name].bits < 16
    before = seen(tiny_base)
    for method in _METHODS:
        if (name, method) in _REFUSED:
            with pytest.raises(ConfigError, match="DoRA doesn't train on layers quantised as Linear8bitLt"):
                injected(tiny_base, config_of(method, unet_targets="attention")).__enter__()
            continue
        with injected(tiny_base, config_of(method, unet_targets="attention"), 1) as injection:
            train(injection, 1)
            assert (seen(tiny_base) - before).abs().max() > 1e-4, method
        assert torch.equal(seen(tiny_base), before), method


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_training_over_8_bits_learns_and_resumes(
    make_config: Callable[..., TrainConfig], tmp_path: Path, method: str
) -> None:
    """Without a package: near the losses over the whole base, other numbers, and bit for bit when resumed."""
    fields = {"method": method, "learning_rate": 3e-3, "evaluate_every": 0, "prior_weight": 0.0}
    exact = list(train_loop(make_config(output=tmp_path / "exact", **fields)))
    fields["quantise"] = "int8-w8a8"
    whole = list(train_loop(make_config(output=tmp_path / "whole", gradient_checkpointing="all", **fields)))
    for one, other in zip(_losses(whole), _losses(exact), strict=True):
        assert one != other and abs(one - other) < 0.01 * other
    stopped = train_loop(make_config(gradient_checkpointing="all", **fields))
    while next(stopped).step < 2:
        pass
    stopped.close()
    resumed = list(train_loop(make_config(gradient_checkpointing="all", **fields)))
    assert _losses(resumed) == _losses(whole)[-len(_losses(resumed)) :] and len(_losses(resumed)) < 4
    assert resumed[-1].data["sha256"] == whole[-1].data["sha256"] != exact[-1].data["sha256"]


def _losses(events: Iterable[TrainEvent]) -> list[float]:
    return [event.data["loss"] for event in events if event.kind == "step"]
