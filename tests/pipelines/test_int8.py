"""Layers of 8-bit numbers: values by hand, both ways to multiply, gradients, and what they must not do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from pipelines import int8
from pipelines.base import Base
from pipelines.int8 import Int8Linear, Int8Weight, fits, products, rounded
from pipelines.quantised import QUANTISED, quantise

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=["floats", "whole", "fused"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """As on a CPU, and both ways of a card: a CPU has the product of whole numbers, Triton an interpreter."""
    if request.param == "fused":
        interpreted()
    monkeypatch.setattr(int8, "products", lambda device: request.param)
    yield request.param


def interpreted() -> None:
    """Skip where Triton's kernels don't run on a CPU."""
    pytest.importorskip("triton", reason="Triton isn't installed")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton's interpreter runs with TRITON_INTERPRET=1 alone")


def make(inputs: int = 64, outputs: int = 40, dtype: Any = torch.float32, bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(inputs, outputs, bias=bias).to(dtype).requires_grad_(False)


def given(*shape: int, dtype: Any = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def held_by(layer: Int8Linear) -> Int8Weight:
    weight = layer.weight.data
    assert isinstance(weight, Int8Weight)
    return weight


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.detach().float(), other.detach().float()
    return float((one - other).norm() / other.norm())


def test_by_hand(way: str) -> None:
    layer = nn.Linear(8, 8).requires_grad_(False)
    layer.weight.data.zero_()
    layer.weight.data[0, :3] = torch.tensor([1.27, -0.644, 0.016])  # scale 0.01: 127, -64, 2
    layer.weight.data[1, :2] = torch.tensor([-254.0, 3.0])  # scale 2: -127, 2 (1.5 goes to the even one)
    layer.bias.data.copy_(torch.arange(8.0))
    x = torch.zeros(1, 2, 8)
    x[0, 0, :3] = torch.tensor([1.0, 0.5, -0.25])  # scale 1/127: 127, 64 (63.5), -32 (-31.75)
    expected = torch.arange(8.0).repeat(1, 2, 1)
    expected[0, 0, 0] = (127 * 127 - 64 * 64 - 2 * 32) * 0.01 / 127
    expected[0, 0, 1] += (-127 * 127 + 2 * 64) * 2 / 127
    assert torch.allclose(Int8Linear(layer)(x), expected, rtol=1e-6)
    expected[0, 0, 0] = 1.27 - 0.64 * 0.5 - 0.02 * 0.25
    expected[0, 0, 1] = 1 - 254 + 4 * 0.5
    assert torch.allclose(Int8Linear(layer, rounds=False)(x), expected, rtol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_way_gives_the_same(dtype: torch.dtype, bias: bool, way: str) -> None:
    layer, x = make(dtype=dtype, bias=bias), given(2, 30, 64, dtype=dtype)
    held = Int8Linear(layer)
    own, steps = rounded(x)
    exact = (own * steps).double() @ (held_by(held).numbers.double() * held_by(held).scales).T
    exact = exact if layer.bias is None else exact + layer.bias
    found, close = held(x), 2 * torch.finfo(dtype).eps
    assert found.dtype == dtype and found.shape == (2, 30, 40)
    assert relative(found, exact) < close
    assert relative(held(x[0, :3]), exact[0, :3]) < close  # a card's product refuses 16 tokens or fewer
    assert relative(held(x[0, 0]), exact[0, 0]) < close
    assert held(x[:, :0]).shape == (2, 0, 40)
    strided = given(64, 30, dtype=dtype).t()
    assert torch.equal(held(strided), held(strided.contiguous()))


def test_how_far_from_exact(way: str) -> None:
    """Numbers are off by half a step at most: 0.7% of what a layer gives for normal numbers, 0.4% of it W."""
    layer, x = make(256, 128), given(4, 50, 256)
    numbers, scales = rounded(x)
    assert torch.all((numbers * scales - x).abs() <= scales / 2 * (1 + 1e-5))
    assert int(numbers.abs().max()) == 127
    assert 0.005 < relative(Int8Linear(layer)(x), layer(x)) < 0.011
    assert 0.002 < relative(Int8Linear(layer, rounds=False)(x), layer(x)) < 0.008


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients(dtype: torch.dtype, way: str) -> None:
    """Those of the layer with the rounded weight, at any input; by kernels of one piece they are rounded."""
    layer, x, towards = (
        Int8Linear(make(dtype=dtype)),
        given(2, 20, 64, dtype=dtype),
        given(2, 20, 40).to(dtype),
    )
    layer.bias.requires_grad_(True)
    x.requires_grad_(True)
    layer(x).backward(towards)
    assert x.grad is not None and layer.bias.grad is not None
    exact = towards.float() @ layer.weight.dequantize().float()
    if way == "fused":
        own, steps = rounded(towards.float() * held_by(layer).scales.T)
        assert 0.002 < relative(x.grad, exact) < 0.012
        exact = (own * steps) @ held_by(layer).numbers.float()
    assert relative(x.grad, exact) < 2 * torch.finfo(dtype).eps
    assert relative(layer.bias.grad, towards.float().sum((0, 1))) < 2 * torch.finfo(dtype).eps
    assert x.grad.dtype == layer.bias.grad.dtype == dtype
    assert layer.weight.grad is None


def test_what_needs_no_gradient_gets_none(way: str) -> None:
    layer = Int8Linear(make())
    assert not layer(given(3, 64)).requires_grad
    layer.bias.requires_grad_(True)
    x = given(3, 64)
    layer(x).sum().backward()
    assert x.grad is None and layer.bias.grad is not None


def test_nothing_is_kept_for_the_backward_pass(way: str) -> None:
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    layer, x = Int8Linear(make()), given(2, 20, 64).requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = layer(x)
    assert kept == []
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    again = checkpoint(layer, x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(again.square().sum(), x)[0], gradient)


def test_rows_of_zeros_and_what_is_not_finite(way: str) -> None:
    layer, x = Int8Linear(make()), given(20, 64)
    plain = layer(x)
    x[3] = 0
    x[5, 7], x[6, 0] = float("nan"), float("inf")
    found = layer(x)
    assert torch.equal(found[3], layer.bias)
    assert not found[5].isfinite().any() and not found[6].isfinite().any()
    others = [row for row in range(20) if row not in (3, 5, 6)]
    assert torch.equal(found[others], plain[others])


def test_autocast(way: str) -> None:
    layer, x = Int8Linear(make()), given(2, 20, 64).requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    assert relative(out, layer(x)) < 0.01


class _Waits(TorchDispatchMode):
    """Refuses what makes the host wait for a device, which no CUDA graph can hold."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = func.__name__.split(".")[0]
        assert named not in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"), func
        assert named != "index" or not any(i is not None and i.dtype == torch.bool for i in args[1]), func
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device(way: str) -> None:
    for rounds in (True, False):
        layer, x = Int8Linear(make(), rounds=rounds), given(2, 20, 64).requires_grad_(True)
        with _Waits():
            layer(x).square().sum().backward()
        with _Waits(), pytest.raises(AssertionError, match="_local_scalar_dense"):
            layer(x).sum().item()


def test_the_weight_is_what_it_stands_for() -> None:
    layer = make(bias=False)
    held = Int8Linear(layer)
    weight, stands = held.weight, held.weight.dequantize()
    assert isinstance(weight, nn.Parameter) and isinstance(weight, Int8Weight)
    assert type(weight.data) is Int8Weight and type(stands) is torch.Tensor
    assert weight.shape == (40, 64) and weight.dtype == torch.float32 and not weight.requires_grad
    assert 0 < relative(stands, layer.weight) < 0.01
    assert torch.equal(weight + 1, stands + 1) and torch.equal(weight.t(), stands.t())
    assert torch.equal(weight.clone().dequantize(), stands)
    assert torch.equal(nn.functional.linear(given(3, 64), weight), given(3, 64) @ stands.t())
    assert weight.nbytes == 40 * 64 + 40 * 4
    with pytest.raises(RuntimeError, match="can't be written into"):
        weight.data.add_(1)
    before = held(given(3, 64))
    held.to("cpu").to(torch.bfloat16).to(torch.float32)
    assert torch.equal(held(given(3, 64)), before)
    assert held.to(torch.bfloat16).weight.dtype == torch.bfloat16
    assert held.weight.dequantize().dtype == torch.bfloat16
    held.to("meta")
    assert held.weight.device.type == held.weight.dequantize().device.type == "meta"
    assert held(torch.empty(2, 64, device="meta", dtype=torch.bfloat16)).shape == (2, 40)


def test_numbers_lie_one_after_the_other_however_the_weight_lay() -> None:
    across = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).t()
    made = Int8Weight.of(across)
    assert made.numbers.is_contiguous() and made.scales.is_contiguous()
    assert torch.equal(made.dequantize(), Int8Weight.of(across.contiguous()).dequantize())


def test_only_layers_of_text_keep_their_inputs(tiny_base: Base) -> None:
    linear = {path: m for path, m in tiny_base.unet.named_modules() if type(m) is nn.Linear}
    odd = next(path for path in linear if path.endswith("ff.net.2"))
    parent = tiny_base.unet.get_submodule(odd.rpartition(".")[0])
    parent[int(odd[-1])] = kept = nn.Linear(linear[odd].in_features, 12)  # not a multiple of 8
    whole = sum(m.weight.nbytes for path, m in linear.items() if ".attentions." in path and path != odd)
    count = quantise(tiny_base.unet, "int8-w8a8", CPU)
    found = {path: m for path, m in tiny_base.unet.named_modules() if isinstance(m, Int8Linear)}
    assert count == len(found) > 0
    assert not fits(kept) and tiny_base.unet.get_submodule(odd) is kept
    text = [path for path, m in found.items() if not m.rounds]
    assert text == [path for path in found if path.endswith(("attn2.to_k", "attn2.to_v"))] != []
    held: Any = [m.weight for m in found.values()]
    small = sum(weight.nbytes for weight in held)
    # The row says 8.1 bits for widths of some 320 and more; a scale weighs more beside fewer numbers.
    assert small == sum(weight.numel() + 4 * len(weight) for weight in held)
    assert small < whole / 3
    assert 8 + 32 / 320 <= QUANTISED["int8-w8a8"].bits


def test_what_is_not_right_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the ways that a card may have; a CPU stands in for it."""
    assert products(CPU) == products(torch.device("meta")) == "floats"
    assert int8._right("whole", CPU)
    real = int8._whole
    monkeypatch.setattr(int8, "_whole", lambda *given: 1.002 * real(*given))
    assert not int8._right("whole", CPU)
    monkeypatch.setitem(sys.modules, "pipelines.int8_kernels", None)
    assert not int8._right("fused", CPU)
    cards = iter([torch.device("xpu", 0), torch.device("xpu", 1), torch.device("xpu", 2)])
    for right in ({"fused", "whole"}, {"whole"}, set()):
        monkeypatch.setattr(int8, "_right", lambda way, device, right=right: way in right)
        assert products(next(cards)) == next(iter(sorted(right)), "floats")


def test_kernels_of_one_piece_pass_their_trial() -> None:
    interpreted()
    assert int8._right("fused", CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")
@pytest.mark.parametrize("kind", ["floats", "whole", "fused"])
def test_in_a_graph(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A captured step gives for new numbers what it gives without a graph."""
    device = torch.device("cuda", torch.cuda.current_device())
    if kind != "floats" and not int8._right(kind, device):  # type: ignore[arg-type]
        pytest.skip(f"this card doesn't multiply so: {kind}")
    monkeypatch.setattr(int8, "products", lambda device: kind)
    layer = Int8Linear(make(dtype=torch.bfloat16).to(device))
    x = given(2, 40, 64, dtype=torch.bfloat16).to(device).requires_grad_(True)

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        out = layer(x)
        return out, torch.autograd.grad(out.square().sum(), x)[0]

    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.mul_(-0.5).add_(0.1)
    graph.replay()
    for one, other in zip(captured, step(), strict=True):
        assert torch.equal(one, other)
