"""Layers over packed weights: the library's answer, the gradient of what the weight stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipelines.errors import ConfigError
from pipelines.quantised import QUANTISED, check_quantiser, dequantised
from pipelines.straight import StraightLinear, stands_for


class Halved(torch.Tensor):
    """A weight that stands for half its numbers, and passes no gradients on."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            x, weight, bias = (*args, None)[:3]
            with torch.no_grad():
                return nn.functional.linear(x, weight.as_subclass(torch.Tensor) / 2, bias)
        return super().__torch_function__(func, types, args, kwargs or {})


class Saying(Halved):
    """The same, which says what it stands for."""

    def dequantize(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor) / 2


def make(kind: type[torch.Tensor]) -> StraightLinear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(12, 6).requires_grad_(False)
    plain = layer.weight.data
    del layer.weight
    layer.weight = nn.Parameter(plain.as_subclass(kind), requires_grad=False)
    return StraightLinear(layer)


@pytest.mark.parametrize("kind", [Halved, Saying])
def test_the_gradient_is_that_of_what_the_weight_stands_for(kind: type[torch.Tensor]) -> None:
    layer = make(kind)
    layer.bias.requires_grad_(True)
    weight = layer.weight.data.as_subclass(torch.Tensor) / 2
    assert torch.allclose(stands_for(layer, torch.float32), weight)
    found = dequantised(layer)
    assert found is not None and torch.allclose(found, weight)
    x, towards = torch.randn(2, 5, 12, requires_grad=True), torch.randn(2, 5, 6)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda nothing: nothing):
        out = layer(x)
    assert kept == []
    assert torch.allclose(out, x @ weight.T + layer.bias)
    out.backward(towards)
    assert x.grad is not None and layer.bias.grad is not None
    assert torch.allclose(x.grad, towards @ weight)
    assert torch.allclose(layer.bias.grad, towards.sum((0, 1)))


def test_under_autocast_gradients_keep_the_inputs_precision() -> None:
    layer, x = make(Saying), torch.randn(3, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


_CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, _CARD])])
@pytest.mark.parametrize("name", list(QUANTISED))
def test_every_library_passes_gradients_on_and_keeps_nothing(name: str, device: str) -> None:
    pytest.importorskip(QUANTISED[name].package, reason=f"{QUANTISED[name].package} isn't installed")
    try:
        check_quantiser(name, torch.device(device), torch.bfloat16)
    except ConfigError as error:
        pytest.skip(str(error))
    layer = nn.Linear(256, 128, dtype=torch.bfloat16, device=device).requires_grad_(False)
    weight, made = layer.weight.detach().float(), QUANTISED[name].layer(layer)
    x = torch.randn(2, 40, 256, dtype=torch.bfloat16, device=device, requires_grad=True)
    made(x)  # bitsandbytes' layers move what they hold at their first pass
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda nothing: nothing):
        out = made(x)
    assert kept == []
    (found,) = torch.autograd.grad(out.float().sum(), x)
    exact = weight.sum(0).expand(2, 40, 256)
    off = (found.float() - exact).norm() / exact.norm()
    assert off < (0.03 if QUANTISED[name].bits > 8 else 0.12)
