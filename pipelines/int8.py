"""Linear layers whose products are of 8-bit numbers: weights and activations, with gradients (W8A8).

A weight is held as whole numbers with one scale per output; what a layer is given is rounded to whole
numbers with one scale per token. On a card the products are those of whole numbers; elsewhere the same
rounded numbers are multiplied as floats. No step waits for the device, so layers can be in a CUDA graph.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils._pytree import tree_map_only

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
        """Round a weight (out, in), each output by itself."""
        numbers, scales = rounded(weight.detach())
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

    The gradient goes through Ŵ in its own precision and isn't rounded to 8 bits itself. Nothing of x is
    kept for it. Source: the straight-through estimator, Bengio et al. 2013,
    https://arxiv.org/abs/1308.3432, section 4; a scale per token and output as in Dettmers et al. 2022
    (LLM.int8()), https://arxiv.org/abs/2208.07339, section 3.1, equation 5, without its split of outliers,
    which waits for the device.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        values: torch.Tensor,
        scales: torch.Tensor,
        bias: torch.Tensor | None,
        rounds: bool,
    ) -> torch.Tensor:
        # Not by save_for_backward: these are the base's own and no activations.
        ctx.values, ctx.scales, ctx.bias = values, scales, bias
        if rounds and whole_products(x.device):
            return _whole(x, values, scales, bias)
        weight = dequantised(values, scales, x.dtype)
        if rounds:
            numbers, steps = rounded(x)
            x = numbers.mul_(steps).to(x.dtype)
        return functional.linear(x, weight, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        for_x = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = torch.matmul(grad, dequantised(ctx.values, ctx.scales, grad.dtype))
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


def dequantised(values: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """values · scales, computed in fp32 and rounded once, by one kernel on a card."""
    return torch.mul(values, scales, out=torch.empty_like(values, dtype=dtype))


def _whole(
    x: torch.Tensor, values: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The product as one of whole numbers, exact before it's scaled."""
    rows = x.reshape(-1, x.shape[-1])  # (M, in)
    numbers, steps = rounded(rows)
    numbers = numbers.to(torch.int8)
    if len(numbers) < _ROWS:
        numbers = functional.pad(numbers, (0, 0, 0, _ROWS - len(numbers)))
    # The second factor with its columns one after the other: the one layout that every card takes.
    sums = torch._int_mm(numbers, values.t())[: len(rows)]  # (M, out), int32
    scaled = torch.mul(sums, steps, out=sums.view(torch.float32))  # in the same memory
    made = torch.empty_like(scaled, dtype=x.dtype)
    if bias is None:
        torch.mul(scaled, scales.t(), out=made)
    else:
        torch.addcmul(bias, scaled, scales.t(), out=made)
    return made.view(*x.shape[:-1], len(values))


@cache
def whole_products(device: torch.device) -> bool:
    """Whether a device multiplies matrices of 8-bit numbers, rightly and faster than floats.

    Tried once, so before anything is captured. Not on a CPU: without units for it the product took 15 to
    25 times as long as the one in fp32. Source: https://github.com/pytorch/pytorch/issues/107671 for wrong
    numbers that it gave on some cards.
    """
    if device.type == "cpu":
        return False
    if device.type == "meta":  # shapes alone: counted as on a card
        return True
    ones = (torch.arange(64 * 64) % 255 - LARGEST).to(torch.int8).view(64, 64)
    try:
        found = torch._int_mm(ones.to(device), ones.to(device).t()).cpu()
    except (RuntimeError, NotImplementedError):
        return False
    return torch.equal(found, (ones.double() @ ones.double().t()).to(torch.int32))
