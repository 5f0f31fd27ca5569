"""The unfused route: the same pictures, also over quantised weights, and nothing left behind."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipelines.adapter import Adapter, Factors
from pipelines.base import Base, load_base
from pipelines.errors import AdapterError
from pipelines.generate import GenerationConfig, generate
from pipelines.grids import psnr
from pipelines.methods import METHODS
from pipelines.mixer import Mixer, Weight
from pipelines.mixing import route
from pipelines.mixing.slots import Product, Share, Slot
from pipelines.mixing.unfused import _addition
from tests.pipelines.making import random_adapter_of
from tests.tiny import assert_unchanged, random_adapter, target_modules, weights_of

MIX: dict[str, Weight] = {"a": 0.8, "b": (-0.4, 1.1), "c": 0.3}
CONFIG = GenerationConfig(prompt="a zwx", seed=2, num_inference_steps=4)


def fitting(base: Base, adapter: Adapter) -> Adapter:
    """Without changes of biases that the base's layers lack."""
    layers = base.weighted()
    factors = dict(adapter.factors)
    for name, own in adapter.factors.items():
        if isinstance(own, Factors) and getattr(layers.get(name), "bias", 0) is None:
            parts = {key: part for key, part in own.parts.items() if key != "diff_b"}
            factors[name] = replace(own, parts=parts)
    return replace(adapter, factors=factors)


def three(base: Base) -> dict[str, Adapter]:
    return {
        "a": random_adapter(base, target_modules(base, "all", "attention+mlp"), rank=3, strength=0.1),
        "b": random_adapter_of(base, "loha", rank=8, seed=1, strength=0.1),
        "c": random_adapter(base, rank=2, seed=2, strength=0.1),
    }


def inputs(base: Base) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=made)
    return latents, torch.tensor(300), torch.randn(2, 16, 32, generator=made)


def hooks(base: Base) -> int:
    return sum(len(layer._forward_hooks) for layer in base.weighted().values())


def outputs(base: Base) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return base.unet(*inputs(base)).sample, base.encode_prompts(["a zwx cat"])


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_both_routes_draw_the_same(tiny_base: Base) -> None:
    before, plain = weights_of(tiny_base), outputs(tiny_base)
    seen = {}
    for way in ("fused", "unfused"):
        mixer = Mixer(tiny_base, route=way)
        for name, adapter in three(tiny_base).items():
            mixer.add(name, adapter)
        mixer.set(MIX)
        assert (mixer.route, mixer.reason) == (way, "it was asked for")
        assert (hooks(tiny_base) > 0) == (way == "unfused")
        seen[way] = (*outputs(tiny_base), generate(tiny_base, CONFIG)[0].image)
        if way == "unfused":
            assert_unchanged(tiny_base, before)
            assert mixer.kept_bytes == 0
        mixer.set({})
        assert all(torch.equal(one, other) for one, other in zip(outputs(tiny_base), plain, strict=True))
        mixer.set(MIX)
        mixer.restore()
        assert hooks(tiny_base) == 0
        assert_unchanged(tiny_base, before)
    assert relative(plain[0], seen["fused"][0]) > 0.05
    assert relative(seen["unfused"][0], seen["fused"][0]) < 1e-5
    assert relative(seen["unfused"][1], seen["fused"][1]) < 1e-5
    assert psnr(seen["unfused"][2], seen["fused"][2]) >= 45


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_gives_the_same_on_both_routes(tiny_base: Base, method: str) -> None:
    adapter = fitting(tiny_base, random_adapter_of(tiny_base, method, variant=1, strength=0.2))
    plain = outputs(tiny_base)
    found = {}
    for way in ("fused", "unfused"):
        with Mixer(tiny_base, route=way) as mixer:
            mixer.add("a", adapter)
            mixer.set({"a": (0.7, -0.5)})
            found[way] = outputs(tiny_base)
    for one, other, base in zip(found["unfused"], found["fused"], plain, strict=True):
        assert relative(one, other) < 2e-5
        assert relative(base, other) > 1e-3 or torch.equal(base, other)
    assert any(not torch.equal(base, other) for base, other in zip(plain, found["fused"], strict=True))


def test_convolutions_honour_stride_padding_and_dilation() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, 3, stride=(2, 1), padding=(2, 0), dilation=(2, 1))
    up, down = torch.randn(8, 2), torch.randn(2, 54)
    dense = torch.randn(8, 54)
    scales = iter([torch.tensor([0.5, 0.5]), torch.tensor([-2.0])])
    slot = Slot("unet.conv_in", "weight", layer)
    parts: dict[int, Share] = {0: Product(up, down), 1: dense}
    base: Any = SimpleNamespace(dtype=torch.float32, device=torch.device("cpu"))
    hook = _addition(base, slot, parts, ("conv_in",), lambda: next(scales))
    x = torch.randn(2, 6, 9, 7)
    own = layer(x)
    assert hook(layer, (x,), own) is None
    hook.active = True
    weight = layer.weight + (0.5 * up @ down - 2 * dense).view_as(layer.weight)
    exact = functional.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation)
    assert torch.allclose(hook(layer, (x,), own), exact, atol=1e-4)


class Scaled(torch.Tensor):
    """int8 numbers with one scale, as quantisation libraries have them."""

    scale: torch.Tensor

    def dequantize(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor).float() * self.scale


class Int8Linear(nn.Linear):
    """A linear layer over int8 numbers; `knows` tells whether its weight can be dequantised."""

    def quantise(self, knows: bool) -> None:
        weight = self.weight.detach()
        self.scale = weight.abs().max() / 127
        numbers = (weight / self.scale).round().to(torch.int8)
        del self.weight
        if knows:
            self.weight = numbers.as_subclass(Scaled)
            self.weight.scale = self.scale
        else:
            self.weight = nn.Parameter(numbers, requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        numbers = self.weight.detach().as_subclass(torch.Tensor).float()
        return functional.linear(input, numbers * self.scale, self.bias)


def quantise(base: Base, knows: bool) -> None:
    """Put int8 weights into the UNet's attention."""
    for name in target_modules(base, "attention", "none"):
        layer = base.modules()[name]
        layer.__class__ = Int8Linear
        assert isinstance(layer, Int8Linear)
        layer.quantise(knows)


def rounded(base: Base) -> None:
    """Give a base, as plain numbers, the weights that `quantise` leaves."""
    for name in target_modules(base, "attention", "none"):
        weight = base.modules()[name].weight
        scale = weight.abs().max() / 127
        weight.data = (weight.data / scale).round() * scale


@pytest.mark.parametrize("knows", [True, False])
def test_a_quantised_base_is_mixed_unfused(tiny_base: Base, knows: bool) -> None:
    other = load_base(tiny_base.path, device="cpu")
    rounded(other)
    quantise(tiny_base, knows)
    plain = outputs(tiny_base)
    assert relative(plain[0], outputs(other)[0]) < 1e-5
    adapters = three(other)
    if knows:
        adapters["c"] = random_adapter_of(other, "dora", seed=2, strength=0.1)
    with Mixer(tiny_base) as mixer, Mixer(other) as reference:
        for name, adapter in adapters.items():
            mixer.add(name, adapter)
            reference.add(name, adapter)
        assert (mixer.route, reference.route) == ("unfused", "fused")
        assert "the base is quantised (unet." in mixer.reason
        assert "int8" in mixer.reason
        mixer.set(MIX)
        reference.set(MIX)
        assert relative(outputs(tiny_base)[0], outputs(other)[0]) < 2e-5
        ours, theirs = generate(tiny_base, CONFIG)[0].image, generate(other, CONFIG)[0].image
        assert psnr(ours, theirs) >= 45
        mixer.set({})
        assert torch.equal(outputs(tiny_base)[0], plain[0])
    assert hooks(tiny_base) == 0
    assert torch.equal(outputs(tiny_base)[0], plain[0])


def test_what_needs_weights_that_cant_be_had_is_refused(tiny_base: Base) -> None:
    dora = random_adapter_of(tiny_base, "dora")
    quantise(tiny_base, knows=False)
    plain = outputs(tiny_base)
    mixer = Mixer(tiny_base)
    with pytest.raises(AdapterError, match="can't be dequantised"):
        mixer.add("dora", dora)
    with pytest.raises(AdapterError, match="choose route 'unfused' or 'auto'"):
        Mixer(tiny_base, route="fused").add("a", random_adapter_of(tiny_base, "lora"))
    with pytest.raises(AdapterError, match="unknown route 'fuse'; did you mean 'fused'"):
        Mixer(tiny_base, route="fuse")  # type: ignore[arg-type]
    assert torch.equal(outputs(tiny_base)[0], plain[0])
    assert tiny_base.holder is None
    assert hooks(tiny_base) == 0


def test_torchaos_int8_weights(tiny_base: Base) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao isn't installed")
    lora, dora = random_adapter_of(tiny_base, "lora"), random_adapter_of(tiny_base, "dora", seed=1)
    quantization.quantize_(tiny_base.unet, quantization.Int8WeightOnlyConfig())
    plain = outputs(tiny_base)
    with Mixer(tiny_base) as mixer:
        mixer.add("lora", lora)
        mixer.add("dora", dora)
        assert mixer.route == "unfused"
        mixer.set({"lora": 0.8, "dora": 0.3})
        assert relative(outputs(tiny_base)[0], plain[0]) > 1e-3
        mixer.set({})
        assert torch.equal(outputs(tiny_base)[0], plain[0])


def test_a_copy_that_doesnt_fit_changes_the_route_and_back(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights_of(tiny_base)
    small = random_adapter(tiny_base, target_modules(tiny_base, "attention", "none")[:4], rank=1)
    large = random_adapter(tiny_base, target_modules(tiny_base, "all"), seed=1)
    monkeypatch.setattr(route, "free_bytes", lambda device: 100_000)
    mixer = Mixer(tiny_base)
    mixer.add("small", small)
    mixer.set({"small": 1.0})
    assert (mixer.route, mixer.reason) == ("fused", "the weights are plain and their copy fits")
    one = outputs(tiny_base)
    mixer.add("large", large)
    assert mixer.route == "unfused"
    assert "needs 1.2 MiB" in mixer.reason
    assert "0.1 MiB are free" in mixer.reason
    assert_unchanged(tiny_base, before)
    assert relative(outputs(tiny_base)[0], one[0]) < 1e-5
    mixer.remove("large")
    assert mixer.route == "fused"
    assert hooks(tiny_base) == 0
    assert torch.equal(outputs(tiny_base)[0], one[0])
    mixer.restore()
    assert_unchanged(tiny_base, before)
