"""How many operators a forward runs: fused adapters add none, unfused ones fewer than PEFT's layers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.adapter import Adapter
from pipelines.base import Base, load_base
from pipelines.mixer import Mixer
from tests.tiny import random_adapter, target_modules


class _Operators(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operators(base: Base) -> int:
    with torch.no_grad(), _Operators() as mode:
        base.unet(torch.zeros(2, 4, 8, 8), torch.tensor(300), torch.zeros(2, 16, 32))
    return mode.count


@pytest.fixture
def four(tiny_base: Base) -> Iterator[dict[str, Adapter]]:
    modules = target_modules(tiny_base, "attention+ff", "none")
    yield {f"a{index}": random_adapter(tiny_base, modules, rank=2, seed=index) for index in range(4)}


def test_four_fused_adapters_add_no_operator(tiny_base: Base, four: dict[str, Adapter]) -> None:
    none = operators(tiny_base)
    with Mixer(tiny_base) as mixer:
        for name, adapter in four.items():
            mixer.add(name, adapter)
        mixer.set(dict.fromkeys(four, 0.5))
        assert operators(tiny_base) == none
    assert operators(tiny_base) == none


def test_four_unfused_adapters_add_fewer_operators_than_pefts(
    tiny_base: Base, four: dict[str, Adapter]
) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    none = operators(tiny_base)
    counts = {}
    for size in (1, 4):
        with Mixer(tiny_base, route="unfused") as mixer:
            for name, adapter in list(four.items())[:size]:
                mixer.add(name, adapter)
            mixer.set(dict.fromkeys(mixer.names, 0.5))
            counts[size] = operators(tiny_base)
            mixer.set({})
            assert operators(tiny_base) == none
    other = load_base(tiny_base.path, device="cpu")
    targets = [name.removeprefix("unet.") for name in next(iter(four.values())).factors]
    for name in four:
        inject_adapter_in_model(LoraConfig(r=2, target_modules=targets), other.unet, adapter_name=name)
    for layer in other.unet.modules():
        if hasattr(layer, "set_adapter") and hasattr(layer, "lora_A"):
            layer.set_adapter(list(four))
    theirs = operators(other)
    assert counts[4] == counts[1]
    assert counts[4] - none < 0.5 * (theirs - none)
