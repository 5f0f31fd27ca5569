"""Mixing: the sum is exact, zero is the base bit for bit, moves don't add up errors."""

from __future__ import annotations

import random

import pytest
import torch

from pipelines.adapter import Adapter, LowRank
from pipelines.base import Base, load_base
from pipelines.errors import AdapterError
from pipelines.generate import GenerationConfig, generate
from pipelines.grids import psnr
from pipelines.mixer import Mixer
from tests.tiny import assert_unchanged, random_adapter, target_modules, weights_of


def test_a_mix_is_the_weighted_sum_of_deltas(tiny_base: Base) -> None:
    before = {name: module.weight.detach().clone() for name, module in tiny_base.modules().items()}
    adapters = {
        "a": random_adapter(tiny_base, target_modules(tiny_base, "all", "attention+mlp"), rank=3, alpha=5.0),
        "b": random_adapter(tiny_base, rank=1, alpha=1.0, seed=1),
        "c": random_adapter(tiny_base, target_modules(tiny_base, "attention+ff", "none"), rank=8, seed=2),
    }
    weights: dict[str, float | tuple[float, float]] = {"a": 0.7, "b": (-2.0, 3.0), "c": 0.35}
    mixer = Mixer(tiny_base)
    for name, adapter in adapters.items():
        mixer.add(name, adapter)
    mixer.set(weights)
    for module, layer in tiny_base.modules().items():
        expected = before[module].double()
        for name, adapter in adapters.items():
            if module in adapter.factors:
                weight = weights[name]
                side = weight if isinstance(weight, float) else weight[0 if module.startswith("unet.") else 1]
                expected = expected + side * adapter.factors[module].delta().double()
        error = (layer.weight.double() - expected).norm() / expected.norm()
        assert error < 1e-6, f"{module}: {error:.1e}"


def test_deltas_equal_pefts_layers(tiny_base: Base, tiny_folder: object) -> None:
    """The mixed UNet computes what PEFT's own layers compute with the same factors."""
    from peft import LoraConfig, inject_adapter_in_model

    modules = target_modules(tiny_base, "all", "none")
    adapter = random_adapter(tiny_base, modules, rank=4, alpha=6.0)
    wrapped = load_base(tiny_base.path, device="cpu").unet
    targets = [name.removeprefix("unet.") for name in modules]
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=6, target_modules=targets), wrapped)
    for name in modules:
        layer = wrapped.get_submodule(name.removeprefix("unet."))
        layer.lora_A["default"].weight.data.copy_(adapter.factors[name].parts["down"])
        layer.lora_B["default"].weight.data.copy_(adapter.factors[name].parts["up"])
    inputs = (torch.randn(1, 4, 8, 8), torch.tensor(400), torch.randn(1, 16, 32))
    with Mixer(tiny_base) as mixer, torch.no_grad():
        mixer.add("a", adapter)
        base_out = tiny_base.unet(*inputs).sample
        mixer.set({"a": 1.0})
        ours, theirs = tiny_base.unet(*inputs).sample, wrapped(*inputs).sample
    assert (ours - base_out).abs().max() > 0.01
    assert torch.allclose(ours, theirs, atol=2e-5)


def test_zero_is_the_base_bit_for_bit(tiny_base: Base) -> None:
    before = weights_of(tiny_base)
    mixer = Mixer(tiny_base)
    mixer.add("a", random_adapter(tiny_base, target_modules(tiny_base, "all", "attention+mlp")))
    mixer.add("b", random_adapter(tiny_base, seed=1))
    assert_unchanged(tiny_base, before)
    mixer.set({"a": 1.0, "b": -0.3})
    with pytest.raises(AssertionError):
        assert_unchanged(tiny_base, before)
    mixer.set({"a": 0.0, "b": 0})
    assert_unchanged(tiny_base, before)


def test_a_thousand_moves_err_no_more_than_one(tiny_base: Base) -> None:
    before = weights_of(tiny_base)
    mixer = Mixer(tiny_base)
    mixer.add("a", random_adapter(tiny_base))
    mixer.add("b", random_adapter(tiny_base, rank=2, seed=1))
    mixer.set({"a": 0.8, "b": 0.4})
    once = weights_of(tiny_base)
    moves = random.Random(0)
    for _ in range(1000):
        mixer.set({"a": moves.uniform(-2, 3), "b": (moves.uniform(-2, 3), moves.uniform(-2, 3))})
    mixer.set({"a": 0.8, "b": 0.4})
    assert_unchanged(tiny_base, once)
    mixer.set({})
    assert_unchanged(tiny_base, before)


def test_moves_write_to_the_same_addresses(tiny_base: Base) -> None:
    mixer = Mixer(tiny_base)
    mixer.add("a", random_adapter(tiny_base))
    addresses = {name: module.weight.data_ptr() for name, module in tiny_base.modules().items()}
    parameters = {name: id(module.weight) for name, module in tiny_base.modules().items()}
    for weight in (1.0, -0.5, 0.0):
        mixer.set({"a": weight})
        assert addresses == {name: module.weight.data_ptr() for name, module in tiny_base.modules().items()}
    mixer.restore()
    assert parameters == {name: id(module.weight) for name, module in tiny_base.modules().items()}


def test_adding_and_removing_keeps_the_others(tiny_base: Base) -> None:
    before = weights_of(tiny_base)
    first, second = (
        random_adapter(tiny_base),
        random_adapter(tiny_base, target_modules(tiny_base, "all"), seed=1),
    )
    mixer = Mixer(tiny_base)
    mixer.add("first", first)
    mixer.set({"first": 0.9})
    alone = weights_of(tiny_base)
    mixer.add("second", second)
    assert mixer.names == ("first", "second")
    assert_unchanged(tiny_base, alone)
    mixer.set({"first": 0.9, "second": 1.2})
    mixer.remove("second")
    assert mixer.weights == {"first": (0.9, 0.9)}
    assert_unchanged(tiny_base, alone)
    mixer.remove("first")
    assert_unchanged(tiny_base, before)
    assert tiny_base.holder is None


def test_order_of_adding_doesnt_matter(tiny_base: Base) -> None:
    adapters = {"a": random_adapter(tiny_base), "b": random_adapter(tiny_base, rank=2, seed=1)}
    mixes = []
    for names in (("a", "b"), ("b", "a")):
        with Mixer(tiny_base) as mixer:
            for name in names:
                mixer.add(name, adapters[name])
            mixer.set({"a": 0.5, "b": 1.5})
            mixes.append(weights_of(tiny_base))
    assert all(torch.allclose(mixes[0][name], mixes[1][name], atol=1e-6) for name in mixes[0])


def test_leaving_the_context_restores_even_after_an_error(tiny_base: Base) -> None:
    before = weights_of(tiny_base)
    with pytest.raises(ZeroDivisionError), Mixer(tiny_base) as mixer:
        mixer.add("a", random_adapter(tiny_base))
        mixer.set({"a": 1.0})
        raise ZeroDivisionError
    assert_unchanged(tiny_base, before)


def test_a_fresh_adapter_is_the_identity(tiny_base: Base) -> None:
    before = weights_of(tiny_base)
    fresh = random_adapter(tiny_base, target_modules(tiny_base, "all", "attention+mlp"), strength=0.0)
    with Mixer(tiny_base) as mixer:
        mixer.add("fresh", fresh)
        mixer.set({"fresh": 1.0})
        assert_unchanged(tiny_base, before)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_low_precision_rounds_once_and_returns_exactly(tiny_base: Base, dtype: str) -> None:
    base = load_base(tiny_base.path, device="cpu", dtype=dtype)
    before = {name: module.weight.detach().clone() for name, module in base.modules().items()}
    adapter = random_adapter(tiny_base, target_modules(base, "all", "attention+mlp"))
    mixer = Mixer(base)
    mixer.add("a", adapter)
    for weight in (0.3, -1.1, 0.6):
        mixer.set({"a": weight})
    for module, factor in adapter.factors.items():
        exact = before[module].float() + 0.6 * factor.delta()
        # One rounding lies within half a step of the exact sum; its own fp32 error may tip a tie.
        step = torch.finfo(base.dtype).eps * exact.abs()
        assert ((base.modules()[module].weight.float() - exact).abs() <= 0.51 * step + 1e-7).all()
    mixer.set({"a": 0.0})
    assert all(torch.equal(module.weight, before[name]) for name, module in base.modules().items())


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"a": 3.01}, "choose from -2 to 3"),
        ({"a": -2.5}, "choose from -2 to 3"),
        ({"a": float("nan")}, "choose from -2 to 3"),
        ({"a": (1.0, float("inf"))}, "choose from -2 to 3"),
        ({"a": (1.0, 1.0, 1.0)}, "expected a number or"),
        ({"a": "1"}, "expected a number or"),
        ({"a": 1.0, "aa": 1.0}, "no adapter 'aa' in the mix; did you mean 'a'"),
    ],
)
def test_refused_weights_change_nothing(tiny_base: Base, weights: dict[str, float], says: str) -> None:
    mixer = Mixer(tiny_base)
    mixer.add("a", random_adapter(tiny_base))
    mixer.set({"a": 0.5})
    before = weights_of(tiny_base)
    with pytest.raises(AdapterError, match=says):
        mixer.set(weights)
    assert_unchanged(tiny_base, before)
    assert mixer.weights == {"a": (0.5, 0.5)}


def test_the_bounds_themselves_are_allowed(tiny_base: Base) -> None:
    with Mixer(tiny_base) as mixer:
        mixer.add("a", random_adapter(tiny_base))
        mixer.set({"a": (-2, 3)})
        assert mixer.weights == {"a": (-2.0, 3.0)}


def _of(tiny_base: Base, **changes: object) -> Adapter:
    good = random_adapter(tiny_base)
    fields = {"name": "bad", "factors": dict(good.factors), **changes}
    return Adapter(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("other family", "is for sdxl, base"),
        ("empty", "is empty"),
        ("unknown module", "1 of 41 modules aren't in it"),
        ("other shape", "1 of 40 modules have another shape"),
        ("nan", "aren't finite"),
        ("infinite alpha", "aren't finite"),
        ("unpaired ranks", "don't fit together"),
        ("whole numbers", "expected floating point"),
    ],
)
def test_refused_adapters_change_nothing(tiny_base: Base, kind: str, says: str) -> None:
    factors = dict(random_adapter(tiny_base).factors)
    name, good = next(iter(factors.items()))
    assert isinstance(good, LowRank)
    nan = good.down.clone()
    nan[0, 0] = float("nan")
    bad = {
        "other family": lambda: _of(tiny_base, family="sdxl"),
        "empty": lambda: _of(tiny_base, factors={}),
        "unknown module": lambda: _of(tiny_base, factors={**factors, "unet.nowhere.to_q": good}),
        "other shape": lambda: _of(
            tiny_base, factors={**factors, name: LowRank(good.down[:, :-1], good.up, 1)}
        ),
        "nan": lambda: _of(tiny_base, factors={**factors, name: LowRank(nan, good.up, 1.0)}),
        "infinite alpha": lambda: _of(
            tiny_base, factors={**factors, name: LowRank(good.down, good.up, float("inf"))}
        ),
        "unpaired ranks": lambda: _of(
            tiny_base, factors={**factors, name: LowRank(good.down[:-1], good.up, 1.0)}
        ),
        "whole numbers": lambda: _of(
            tiny_base, factors={**factors, name: LowRank(good.down.int(), good.up, 1.0)}
        ),
    }[kind]()
    mixer = Mixer(tiny_base)
    mixer.add("good", random_adapter(tiny_base))
    mixer.set({"good": 0.5})
    before = weights_of(tiny_base)
    with pytest.raises(AdapterError) as refusal:
        mixer.add("bad", bad)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert mixer.names == ("good",)
    assert_unchanged(tiny_base, before)


def test_a_second_mixer_is_refused_while_one_holds_the_base(tiny_base: Base) -> None:
    first, second = Mixer(tiny_base), Mixer(tiny_base)
    first.add("a", random_adapter(tiny_base))
    with pytest.raises(AdapterError, match="another mixer holds"):
        second.add("b", random_adapter(tiny_base, seed=1))
    second.restore()
    assert tiny_base.holder is first
    first.restore()
    second.add("b", random_adapter(tiny_base, seed=1))
    second.restore()


def test_the_embedded_base_draws_the_same_after_a_mix(pocket: Base) -> None:
    config = GenerationConfig(prompt="a photo of a fox on a red background", seed=5, num_inference_steps=4)
    plain = generate(pocket, config)[0].image
    with Mixer(pocket) as mixer:
        mixer.add("a", random_adapter(pocket, strength=0.5))
        mixer.set({"a": 1.0})
        mixed = generate(pocket, config)[0].image
        mixer.set({"a": 0.0})
        assert generate(pocket, config)[0].image.tobytes() == plain.tobytes()
    assert psnr(plain, mixed) < 40
    assert generate(pocket, config)[0].image.tobytes() == plain.tobytes()
