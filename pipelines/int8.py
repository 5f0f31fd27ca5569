"""Linear layers whose products are of 8-bit numbers: weights and activations, with gradients (W8A8).

A weight is held as whole numbers with one scale per output; what a layer is given is rounded to whole
numbers with one scale per token. On a card the products are those of whole numbers; elsewhere the same
rounded numbers are multiplied as floats. No step waits for the device, so layers can be in a CUDA graph.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils._pytree import tree_map_only

Way = Literal["floats", "whole", "fused"]

LARGEST = 127
"""Numbers reach from -127 to 127; -128 would make rounding lopsided."""

MULTIPLE = 8
"""Inputs and outputs of a product on a card are multiples of this."""

_ROWS = 32
"""Tokens that a product on a card has at least; it refuses 16 or fewer."""

_SMALLEST = 1e-30
"""Rows of zeros alone are divided by this."""


class Int8Weight(torch.Tensor):
    """A weight (out, in) that stands for `numbers` · `scales`, and is that in every operation on it.

    numbers: int8 (out, in). scales: fp32 (out, 1). Its dtype is the one that it stands for numbers in. It
    can't be written into.
    """

    numbers: torch.Tensor
    scales: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> Int8Weight:
        made: Int8Weight = torch.Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), dtype=dtype, device=numbers.device
        )
        made.numbers, made.scales = numbers, scales
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(cls, weight: torch.Tensor) -> Int8Weight:
        """Round a weight (out, in), each output by itself; kernels read its numbers one after the other."""
        numbers, scales = rounded(weight.detach().contiguous())
        return cls(numbers.to(torch.int8), scales, weight.dtype)

    def dequantize(self) -> torch.Tensor:
        """The numbers that it stands for, as a plain tensor."""
        return dequantised(self.numbers, self.scales, self.dtype)

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        """Bytes that it takes."""
        return self.numbers.nbytes + self.scales.nbytes

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Int8Weight({tuple(self.shape)}, {self.dtype}, {self.device})"

    def __tensor_flatten__(self) -> tuple[list[str], torch.dtype]:
        return ["numbers", "scales"], self.dtype

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, torch.Tensor], dtype: torch.dtype, size: object, stride: object
    ) -> Int8Weight:
        return Int8Weight(inner["numbers"], inner["scales"], dtype)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        aten = torch.ops.aten
        if func in (aten.detach.default, aten.alias.default):
            own = args[0]
            return cls(own.numbers, own.scales, own.dtype)
        if func is aten.clone.default:
            own = args[0]
            return cls(own.numbers.clone(), own.scales.clone(), own.dtype)
        if func is aten._to_copy.default:
            own, to = args[0], {k: v for k, v in kwargs.items() if k in ("device", "non_blocking")}
            return cls(own.numbers.to(**to), own.scales.to(**to), kwargs.get("dtype") or own.dtype)
        if func._schema.is_mutable:
            raise RuntimeError(f"a weight of 8-bit numbers can't be written into ({func})")
        plain = tree_map_only(Int8Weight, lambda own: own.dequantize(), (args, kwargs))
        return func(*plain[0], **plain[1])


class Int8Linear(nn.Linear):
    """A linear layer over an `Int8Weight`. Its weight learns nothing; its bias and inputs may.

    rounds: whether what it's given is rounded to 8 bits too; otherwise its weight alone is.
    """

    def __init__(self, layer: nn.Linear, *, rounds: bool = True) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight = nn.Parameter(Int8Weight.of(layer.weight), requires_grad=False)
        self.bias = layer.bias
        self.rounds = rounds

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out), in the input's precision; under autocast in that one's."""
        kind = input.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))
        weight: Any = self.weight
        found: torch.Tensor = _Product.apply(input, weight.numbers, weight.scales, self.bias, self.rounds)
        return found

    def extra_repr(self) -> str:
        """Say what is rounded, too."""
        return f"{super().extra_repr()}, {'weight and inputs' if self.rounds else 'weight'} in 8 bits"


def fits(layer: nn.Linear) -> bool:
    """Whether a layer's shape can be held."""
    return layer.in_features % MULTIPLE == 0 and layer.out_features % MULTIPLE == 0


class _Product(torch.autograd.Function):
    """y = x̂ Ŵᵀ + b, with x̂ and Ŵ the rounded numbers; ∂y/∂x is Ŵ, as if rounding weren't there.

    Nothing of x is kept for the backward pass. There the gradient is rounded like x is, each token by
    itself, where that is quicker than Ŵ in 16 bits, which is with kernels of one piece alone: it changed the
    gradients of an adapter on the embedded base by 0.2%, where rounding in the forward pass moved them by
    1 to 26%. Elsewhere it goes through Ŵ as it is.

    Source: the straight-through estimator, Bengio et al. 2013, https://arxiv.org/abs/1308.3432, section 4; a
    scale per token and output as in Dettmers et al. 2022 (LLM.int8()), https://arxiv.org/abs/2208.07339,
    section 3.1, without its split of outliers, which waits for the device.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        numbers: torch.Tensor,
        scales: torch.Tensor,
        bias: torch.Tensor | None,
        rounds: bool,
    ) -> torch.Tensor:
        # Not by save_for_backward: these are the base's own and no activations.
        ctx.numbers, ctx.scales, ctx.bias, ctx.rounds = numbers, scales, bias, rounds
        way = products(x.device) if rounds else "floats"
        if way == "fused":
            return _fused(x, numbers, scales, bias)
        if way == "whole":
            return _whole(x, numbers, scales, bias)
        if rounds:
            whole, steps = rounded(x)
            x = whole.mul_(steps).to(x.dtype)
        weight = dequantised(numbers, scales, x.dtype)
        return functional.linear(x, weight, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        for_x = for_bias = None
        if ctx.needs_input_grad[0]:
            if ctx.rounds and products(grad.device) == "fused":
                for_x = _fused_back(grad, ctx.numbers, ctx.scales)
            else:
                for_x = torch.matmul(grad, dequantised(ctx.numbers, ctx.scales, grad.dtype))
        if ctx.needs_input_grad[3]:
            for_bias = grad.reshape(-1, grad.shape[-1]).sum(0, dtype=torch.float32).to(ctx.bias.dtype)
        return for_x, None, None, for_bias, None


def rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x (…, n) as whole numbers in fp32 and the scales (…, 1) that lead back to it.

    A row with a number that isn't finite has such a scale, so that what isn't finite stays so.
    """
    scales = torch.linalg.vector_norm(x, float("inf"), dim=-1, keepdim=True, dtype=torch.float32)
    scales = scales.clamp_(min=_SMALLEST).div_(LARGEST)
    return torch.div(x, scales).round_(), scales


def dequantised(numbers: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """numbers · scales, computed in fp32 and rounded once, by one kernel on a card."""
    return torch.mul(numbers, scales, out=torch.empty_like(numbers, dtype=dtype))


# ── Ways to multiply


def _whole(
    x: torch.Tensor, numbers: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The product as PyTorch's one of whole numbers, which is exact before it's scaled."""
    rows = x.reshape(-1, x.shape[-1])  # (M, in)
    own, steps = rounded(rows)
    own = own.to(torch.int8)
    if len(own) < _ROWS:
        own = functional.pad(own, (0, 0, 0, _ROWS - len(own)))
    # The second factor with its columns one after the other: the one layout that every card takes.
    sums = torch._int_mm(own, numbers.t())[: len(rows)]  # (M, out), int32
    scaled = torch.mul(sums, steps, out=sums.view(torch.float32))  # in the same memory
    made = torch.empty_like(scaled, dtype=x.dtype)
    if bias is None:
        torch.mul(scaled, scales.t(), out=made)
    else:
        torch.addcmul(bias, scaled, scales.t(), out=made)
    return made.view(*x.shape[:-1], len(numbers))


def _fused(
    x: torch.Tensor, numbers: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The same by two kernels."""
    from pipelines.int8_kernels import round_rows, scaled_product

    own, steps = round_rows(x.reshape(-1, x.shape[-1]))
    made = scaled_product(own, numbers, steps, scales, bias, x.dtype)
    return made.view(*x.shape[:-1], len(numbers))


def _fused_back(grad: torch.Tensor, numbers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The gradient (…, out) times the outputs' scales, rounded, through the weight's numbers: (…, in)."""
    from pipelines.int8_kernels import round_rows, scaled_product

    own, steps = round_rows(grad.reshape(-1, grad.shape[-1]), scales)
    # Numbers of 8 bits are multiplied where those that are summed lie one after the other.
    made = scaled_product(own, numbers.t().contiguous(), steps, None, None, grad.dtype)
    return made.view(*grad.shape[:-1], numbers.shape[1])


@cache
def products(device: torch.device) -> Way:
    """How a device multiplies rounded numbers: as floats, as whole numbers, or so by kernels of one piece.

    Tried once, so before anything is captured: what doesn't run or gives wrong numbers isn't taken. On a
    CPU as floats: without units for it the product of whole numbers took 15 to 25 times as long as the one
    in fp32. Source: https://github.com/pytorch/pytorch/issues/107671 for wrong numbers that it gave on some
    cards.
    """
    if device.type in ("cpu", "meta"):
        return "floats"
    ways: tuple[Way, ...] = ("fused", "whole")
    # Triton has the product from Ampere on.
    old = (
        device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device) < (8, 0)
    )
    return next((way for way in ways if not (way == "fused" and old) and _right(way, device)), "floats")


def _right(way: Way, device: torch.device) -> bool:
    """Whether a way to multiply gives on a device what it should, for numbers of an awkward count."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        x, weight, bias, grad = (torch.randn(shape) for shape in ((70, 72), (88, 72), (88,), (70, 88)))
    numbers, scales = rounded(weight)
    numbers = numbers.to(torch.int8)
    own, steps = rounded(x)
    expected = functional.linear(own * steps, numbers * scales, bias)
    there = [one.to(device) for one in (x, numbers, scales, bias, grad)]
    try:
        found = {"fused": _fused, "whole": _whole}[way](*there[:4])
        wrong = [_off(found, expected)]
        if way == "fused":
            wrong.append(_off(_fused_back(there[4], there[1], there[2]), grad @ (numbers * scales)) - 0.01)
    except Exception:  # of every kind: a package that is missing, a compiler, a driver, a shape
        return False
    return max(wrong) < 1e-3


def _off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.cpu() - expected).norm() / expected.norm())
