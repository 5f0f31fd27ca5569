"""Errors in the middle of a mix leave it as it was, and what can't be mixed is refused."""

from __future__ import annotations

import pytest
import torch

from pipelines.base import Base
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
