"""Mixing in bf16 and fp16: sums in fp32, one rounding; products in bf16 as on CUDA cards."""

from __future__ import annotations

import pytest
import torch

from pipelines.base import Base, load_base
from pipelines.mixer import Mixer
from pipelines.mixing import grouping
from tests.pipelines.making import random_adapter_of


@pytest.mark.parametrize("names", [("lora", "loha", "dora", "full"), ("full",)])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_low_precision_sums_all_methods_before_it_rounds(
    tiny_base: Base, dtype: str, names: tuple[str, ...]
) -> None:
    base = load_base(tiny_base.path, device="cpu", dtype=dtype)
    before = {name: layer.weight.detach().clone() for name, layer in base.modules().items()}
    adapters = {name: random_adapter_of(base, name, seed=i, strength=0.1) for i, name in enumerate(names)}
    with Mixer(base) as mixer:
        for name, adapter in adapters.items():
            mixer.add(name, adapter)
        mixer.set(dict.fromkeys(names, 0.7))
        for module, own in before.items():
            exact = own.double()
            for adapter in adapters.values():
                if factors := adapter.factors.get(module):
                    exact = exact + 0.7 * factors.delta(own.float()).double()
            # One rounding lies within half a step of the exact sum; fp32's own error may tip a tie.
            step = torch.finfo(base.dtype).eps * exact.abs()
            assert ((base.modules()[module].weight.double() - exact).abs() <= 0.51 * step + 2e-7).all(), (
                module
            )
    assert all(torch.equal(layer.weight, before[name]) for name, layer in base.modules().items())


def test_products_in_bf16_cost_less_than_rounding_the_weights(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of CUDA cards, taken on the CPU: factors rounded to bf16, fp32 sums, one rounding."""
    base = load_base(tiny_base.path, device="cpu", dtype="bf16")
    before = {name: layer.weight.detach().clone() for name, layer in base.modules().items()}
    adapters = {name: random_adapter_of(base, "lora", seed=seed) for seed, name in enumerate("abcd")}
    errors = []
    for half in (False, True):
        monkeypatch.setattr(grouping, "multiplies_in_half", lambda dtype, device, half=half: half)
        with Mixer(base) as mixer:
            for name, adapter in adapters.items():
                mixer.add(name, adapter)
            types = {stack.up.dtype for stack in mixer._engine.fused._stacks if stack.up is not None}
            types |= {stack.down.dtype for stack in mixer._engine.fused._stacks if stack.down is not None}
            assert types == ({torch.bfloat16, torch.float32} if half else {torch.float32})
            mixer.set(dict.fromkeys(adapters, 0.7))
            wrong = right = 0.0
            for module in next(iter(adapters.values())).factors:
                delta = sum(0.7 * adapter.factors[module].delta().double() for adapter in adapters.values())
                now = base.modules()[module].weight.double()
                wrong += float((now - before[module].double() - delta).square().sum())
                right += float(torch.as_tensor(delta).square().sum())
            errors.append((wrong / right) ** 0.5)
            mixer.set({})
            assert all(torch.equal(layer.weight, before[name]) for name, layer in base.modules().items())
    assert errors[0] < errors[1] < 1.5 * errors[0]
