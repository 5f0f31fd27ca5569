"""Errors in the middle of a mix leave it as it was, and what can't be mixed is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipelines.adapter import Adapter, Factors, LowRank
from pipelines.base import Base, load_base
from pipelines.errors import AdapterError
from pipelines.mixer import Mixer, Weights
from pipelines.mixing.stacks import Stack
from tests.pipelines.making import random_adapter_of
from tests.tiny import assert_unchanged, random_adapter, target_modules, weights_of


class Failing:
    """`Stack.write` that raises at one call, and at all that follow if it `lasts`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, lasts: bool) -> None:
        self.calls, self.at, self.lasts = 0, at, lasts
        self.own = Stack.write
        monkeypatch.setattr(Stack, "write", lambda stack, values: self(stack, values))

    def __call__(self, stack: Stack, values: object) -> None:
        self.calls += 1
        if self.calls == self.at or (self.lasts and self.calls > self.at):
            raise RuntimeError("out of memory")
        self.own(stack, values)  # type: ignore[arg-type]


@pytest.mark.parametrize("lasts", [False, True])
@pytest.mark.parametrize("route", ["fused", "unfused"])
def test_an_error_while_writing_leaves_the_mix_as_it_was(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch, route: str, lasts: bool
) -> None:
    before = weights_of(tiny_base)
    mixer = Mixer(tiny_base, route=route)  # type: ignore[arg-type]
    mixer.add("a", random_adapter_of(tiny_base, "full", target_modules(tiny_base, "all")))
    mixer.add("b", random_adapter(tiny_base, target_modules(tiny_base, "all"), seed=1))
    if route == "unfused":  # biases and norms alone are written there
        mixer.add("c", random_adapter_of(tiny_base, "norm", seed=2))
        assert len(mixer._engine.fused._stacks) >= 2
    at = 3 if route == "fused" else 2
    mixer.set(dict.fromkeys(mixer.names, 0.5))
    settings, mixed = mixer.settings, weights_of(tiny_base)
    with monkeypatch.context() as patched:
        Failing(patched, at, lasts)
        with pytest.raises(RuntimeError, match="out of memory"):
            mixer.set({"a": 1.0, "c": 1.5} if route == "unfused" else {"a": 1.0})
    assert mixer.settings == settings
    if not lasts:
        assert_unchanged(tiny_base, mixed)
    mixer.set(settings)
    assert_unchanged(tiny_base, mixed)
    with monkeypatch.context() as patched:
        Failing(patched, at, lasts)
        with pytest.raises(RuntimeError, match="out of memory"):
            mixer.set({"a": 1.0, "c": 1.5} if route == "unfused" else {"a": 1.0})
    mixer.set({})
    assert_unchanged(tiny_base, before)
    mixer.restore()
    assert_unchanged(tiny_base, before)


def test_an_error_at_a_step_leaves_the_step_before(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    with Mixer(tiny_base) as mixer:
        mixer.add("a", random_adapter(tiny_base, target_modules(tiny_base, "all")))
        mixer.set({"a": Weights(1.0, begin=0.0, end=1.0)})
        mixer.at(1, 4)
        mixed = weights_of(tiny_base)
        with monkeypatch.context() as patched:
            Failing(patched, 3, False)
            with pytest.raises(RuntimeError, match="out of memory"):
                mixer.at(2, 4)
        assert_unchanged(tiny_base, mixed)
        mixer.at(2, 4)
        assert any(not torch.equal(value, mixed[name]) for name, value in weights_of(tiny_base).items())


def larger(adapter: Adapter, up: float, down: float) -> Adapter:
    """The same adapter with the parts of its factors multiplied."""
    factors: dict[str, Any] = {}
    for module, own in adapter.factors.items():
        if isinstance(own, LowRank):
            factors[module] = LowRank(down=own.down * down, up=own.up * up, alpha=own.alpha)
        else:
            assert isinstance(own, Factors)
            factors[module] = replace(own, parts={key: part * up for key, part in own.parts.items()})
    return replace(adapter, factors=factors)


@pytest.mark.parametrize("route", ["fused", "unfused"])
@pytest.mark.parametrize(("method", "by"), [("lora", 1e25), ("loha", 1e12)])
def test_what_isnt_finite_is_refused(tiny_base: Base, method: str, by: float, route: str) -> None:
    before = weights_of(tiny_base)
    with Mixer(tiny_base, route=route) as mixer:  # type: ignore[arg-type]
        mixer.add("sound", random_adapter(tiny_base))
        with pytest.raises(AdapterError, match=r"^adapter 'a' changes unet\.\S+ by numbers too large"):
            mixer.add("a", larger(random_adapter_of(tiny_base, method), by, by))
        assert mixer.names == ("sound",)
        assert_unchanged(tiny_base, before)


@pytest.mark.parametrize(("up", "down"), [(1e6, 1e-6), (1e-6, 1e6), (1.0, 1.0)])
def test_factors_out_of_half_precisions_range_are_balanced(tiny_base: Base, up: float, down: float) -> None:
    base = load_base(tiny_base.path, device="cpu", dtype="fp16")
    adapter = random_adapter(base, target_modules(base, "attention", "none"), strength=1.0)
    name = target_modules(base, "attention", "none")[0]
    layer = base.modules()[name]
    x = torch.randn(2, layer.weight.shape[1], generator=torch.Generator().manual_seed(0)).half()
    with torch.no_grad(), Mixer(base, route="unfused") as mixer:
        own = layer(x).float()
        mixer.add("a", larger(adapter, up, down))
        mixer.set({"a": 1.0})
        added = layer(x).float() - own
    exact = x.float() @ adapter.factors[name].delta().T
    assert (added - exact).norm() / exact.norm() < 5e-3


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (10**400, "weight of 'a' is inf; choose from"),
        (Weights(-(10**400)), "is -inf; choose from"),
        (Weights(1.0, blocks={"mid_block": 10**400}), "in mid_block is inf; choose from"),
        (Weights(1.0, begin=10**400), "begin of 'a' is inf; expected a share"),
        (Weights(1.0, blocks=None), "blocks of 'a' are a NoneType; expected numbers"),  # type: ignore[arg-type]
        (Weights(1.0, blocks=["mid_block"]), "blocks of 'a' are a list"),  # type: ignore[arg-type]
        (Weights(1.0, blocks={1: 1.0}), "name block 1"),  # type: ignore[dict-item]
        (Weights(1.0, blocks={"mid_block": True}), "is True; expected a number"),
        (True, "is True; expected a number"),
        (Weights(1.0, text=True), "is True; expected a number"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(tiny_base: Base, weight: Any, says: str) -> None:
    with Mixer(tiny_base) as mixer:
        mixer.add("a", random_adapter(tiny_base))
        with pytest.raises(AdapterError, match=says):
            mixer.set({"a": weight})
        assert mixer.weights == {"a": (0.0, 0.0)}
