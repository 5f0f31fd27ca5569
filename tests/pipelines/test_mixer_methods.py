"""Mixing every method: dense ΔW, biases, norms, ranks of all sizes; failures that change nothing."""

from __future__ import annotations

import gc
import random
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipelines.adapter import Adapter, Factors, LowRank
from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.families import with_text_model
from pipelines.mixer import Mixer
from tests.pipelines.making import IN_PARAMETERS, random_adapter_of
from tests.tiny import assert_unchanged, random_adapter, target_modules, weights_of


def of_method(base: Base, method: str, **kw: Any) -> Adapter:
    """A random adapter without changes of biases that the base's layers lack."""
    adapter = random_adapter_of(base, method, **kw)
    layers = base.weighted()
    factors = {
        module: replace(own, parts={key: part for key, part in own.parts.items() if key != "diff_b"})
        if isinstance(own, Factors) and layers[module].bias is None
        else own
        for module, own in adapter.factors.items()
    }
    return replace(adapter, factors=factors)


def expected(base: Base, before: dict[str, torch.Tensor], mix: dict[str, tuple[Adapter, float]]) -> None:
    """Fail unless every parameter is its own plus Σ w·Δ, summed in fp64."""
    for module, layer in base.weighted().items():
        component, path = module.split(".", 1)
        for name in ("weight", "bias"):
            parameter = getattr(layer, name, None)
            if parameter is None:
                continue
            own = before.get(f"{module}.{name}")
            if own is None:
                own = before[f"{component}.{with_text_model(path)}.{name}"]
            own = own.float()
            exact = own.double()
            for adapter, weight in mix.values():
                if factors := adapter.factors.get(module):
                    weighs = name == "weight" and factors.has_delta
                    delta = factors.delta(own) if weighs else None
                    delta = factors.bias_delta(own) if name == "bias" else delta
                    exact = exact if delta is None else exact + weight * delta.double()
            error = (parameter.double() - exact).norm() / exact.norm().clamp_min(1e-3)
            assert error < 2e-6, f"{module}.{name}: {error:.1e}"


@pytest.mark.parametrize("variant", [0, 1])
@pytest.mark.parametrize("method", IN_PARAMETERS)
def test_every_method_is_mixed_exactly_and_let_go(tiny_base: Base, method: str, variant: int) -> None:
    before = weights_of(tiny_base)
    adapter = of_method(tiny_base, method, variant=variant, strength=0.2)
    mixer = Mixer(tiny_base)
    mixer.add("a", adapter)
    assert_unchanged(tiny_base, before)
    mixer.set({"a": 0.7})
    expected(tiny_base, before, {"a": (adapter, 0.7)})
    mixer.set({"a": 0.0})
    assert_unchanged(tiny_base, before)
    mixer.set({"a": -1.3})
    mixer.restore()
    assert_unchanged(tiny_base, before)


def all_methods(base: Base) -> dict[str, Adapter]:
    """One adapter of every method, of different ranks."""
    return {
        method: of_method(base, method, rank=2 + 2 * (index % 3), seed=index, variant=index % 2, strength=0.1)
        for index, method in enumerate(IN_PARAMETERS)
    }


def test_methods_and_ranks_mix_and_moves_add_up_no_errors(tiny_base: Base) -> None:
    before = weights_of(tiny_base)
    adapters = all_methods(tiny_base)
    mixer = Mixer(tiny_base)
    for name, adapter in adapters.items():
        mixer.add(name, adapter)
    weights = {name: 0.1 * (index - 3) for index, name in enumerate(adapters)}
    mixer.set(weights)
    once = weights_of(tiny_base)
    expected(tiny_base, before, {name: (adapters[name], weights[name]) for name in adapters})
    moves = random.Random(0)
    for _ in range(40):
        mixer.set({name: moves.choice([0.0, moves.uniform(-2, 3)]) for name in adapters})
    mixer.set(weights)
    assert_unchanged(tiny_base, once)
    for name in list(adapters)[::5]:
        mixer.remove(name)
    left = {name: (adapters[name], weights[name]) for name in mixer.names}
    expected(tiny_base, before, left)
    mixer.set({})
    assert_unchanged(tiny_base, before)
    mixer.restore()
    assert_unchanged(tiny_base, before)


@pytest.mark.parametrize("family", ["tiny_sd2", "tiny_sdxl"])
def test_other_families_mix_in_every_component(request: pytest.FixtureRequest, family: str) -> None:
    base: Base = request.getfixturevalue(family)
    before = weights_of(base)
    lora = random_adapter_of(base, "lora", rank=2)
    loha = random_adapter_of(base, "loha", rank=2, seed=1)
    assert set(lora.components) == set(base.family.components)
    with Mixer(base) as mixer:
        mixer.add("lora", lora)
        mixer.add("loha", loha)
        mixer.set({"lora": 0.6, "loha": -0.4})
        expected(base, before, {"lora": (lora, 0.6), "loha": (loha, -0.4)})
    assert_unchanged(base, before)


def test_modules_of_many_ranks_make_few_stacks(tiny_base: Base) -> None:
    before = weights_of(tiny_base)
    modules = target_modules(tiny_base, "attention", "none")
    parts = [
        random_adapter(tiny_base, [name], rank=1 + index % 7, seed=index)
        for index, name in enumerate(modules)
    ]
    factors = {name: part.factors[name] for name, part in zip(modules, parts, strict=True)}
    adapter = Adapter(name="many", factors=factors)
    shapes = {tiny_base.modules()[name].weight.shape for name in modules}
    with Mixer(tiny_base) as mixer:
        mixer.add("many", adapter)
        assert isinstance(mixer._engine.fused._stacks, list)
        assert len(mixer._engine.fused._stacks) <= 4 * len(shapes)
        mixer.set({"many": 1.5})
        expected(tiny_base, before, {"many": (adapter, 1.5)})


def test_the_kept_copy_is_taken_over_when_adapters_come_and_go(tiny_base: Base) -> None:
    mixer = Mixer(tiny_base)
    mixer.add("a", random_adapter(tiny_base))
    addresses = {name: layer.weight.data_ptr() for name, layer in tiny_base.modules().items()}
    kept = mixer.kept_bytes
    mixer.add("b", random_adapter(tiny_base, rank=2, seed=1))
    mixer.remove("a")
    assert addresses == {name: layer.weight.data_ptr() for name, layer in tiny_base.modules().items()}
    assert (
        mixer.kept_bytes
        == kept
        == sum(tiny_base.modules()[name].weight.nbytes for name in target_modules(tiny_base))
    )
    mixer.restore()
    assert mixer.kept_bytes == mixer.factor_bytes == 0


def storages() -> int:
    """Bytes of every tensor that lives."""
    gc.collect()
    found = [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}.values())


def test_moves_hold_no_memory(tiny_base: Base) -> None:
    mixer = Mixer(tiny_base)
    for index, method in enumerate(("lora", "loha", "norm", "ia3")):
        mixer.add(method, random_adapter_of(tiny_base, method, seed=index))
    moves = random.Random(0)

    def move(times: int) -> None:
        for _ in range(times):
            mixer.set({name: moves.choice([0.0, moves.uniform(-2, 3)]) for name in mixer.names})

    tracemalloc.start()
    try:
        move(20)
        before, objects = storages(), tracemalloc.get_traced_memory()[0]
        move(200)
        assert storages() == before
        assert tracemalloc.get_traced_memory()[0] - objects < 20_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("at", ["torch.stack", "baddbmm", "clone"])
@pytest.mark.parametrize("route", ["fused", "unfused"])
def test_a_failing_add_changes_nothing(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch, at: str, route: str
) -> None:
    before = weights_of(tiny_base)
    mixer = Mixer(tiny_base)
    mixer.add("first", random_adapter(tiny_base, target_modules(tiny_base, "attention", "none")))
    mixer.set({"first": 0.8})
    mixed = weights_of(tiny_base)
    mixer._asked = route  # type: ignore[assignment]
    second = random_adapter_of(tiny_base, "lora", seed=1)
    if route == "unfused":
        norms = random_adapter_of(tiny_base, "norm", seed=1)
        second = Adapter(name="both", factors={**second.factors, **norms.factors})
    calls = {"left": 2}

    def failing(real):
        def call(*args, **kw):
            calls["left"] -= 1
            if calls["left"] == 0:
                raise MemoryError("none left")
            return real(*args, **kw)

        return call

    if at == "clone":
        monkeypatch.setattr(torch.Tensor, "clone", failing(torch.Tensor.clone))
    else:
        name = at.removeprefix("torch.") if route == "fused" or at != "baddbmm" else "index_select"
        monkeypatch.setattr(torch, name, failing(getattr(torch, name)))
    with pytest.raises(MemoryError):
        mixer.add("second", second)
    monkeypatch.undo()
    assert mixer.names == ("first",)
    assert mixer.weights == {"first": (0.8, 0.8)}
    assert mixer.route == "fused"
    assert_unchanged(tiny_base, mixed)
    mixer.set({"first": 0.0})
    assert_unchanged(tiny_base, before)
    mixer.restore()
    assert_unchanged(tiny_base, before)


def test_a_bias_that_the_base_lacks_is_refused(tiny_base: Base) -> None:
    before = weights_of(tiny_base)
    module = next(name for name in tiny_base.modules() if name.endswith("attn1.to_q"))
    weight = tiny_base.modules()[module].weight
    parts = {"diff": torch.ones_like(weight), "diff_b": torch.ones(len(weight))}
    adapter = Adapter(name="full", method="full", factors={module: Factors(method="full", parts=parts)})
    mixer = Mixer(tiny_base)
    with pytest.raises(AdapterError, match="which has none in this base"):
        mixer.add("full", adapter)
    assert_unchanged(tiny_base, before)
    assert tiny_base.holder is None


def test_factors_larger_than_the_weight_become_dense(tiny_base: Base) -> None:
    before = weights_of(tiny_base)
    wide = random_adapter(tiny_base, rank=64)
    assert all(isinstance(factors, LowRank) for factors in wide.factors.values())
    with Mixer(tiny_base) as mixer:
        mixer.add("wide", wide)
        numbers = sum(tiny_base.modules()[name].weight.numel() for name in wide.factors)
        assert mixer.factor_bytes < 5 * numbers
        mixer.set({"wide": 0.9})
        expected(tiny_base, before, {"wide": (wide, 0.9)})
