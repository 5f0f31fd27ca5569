"""Linear layers of the libraries' weights, with a backward pass that keeps nothing and always is there.

torchao's layers of 8 bits keep a whole copy of their weight in 16 bits for it, those that round activations
pass nothing on, and those of 4 bits have none; quanto's keep their inputs, which only a weight that learns
needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class StraightLinear(nn.Linear):
    """A linear layer over another's weight, which learns nothing; its bias and inputs may."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight = layer.weight
        self.bias = layer.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out), as the library computes it."""
        found: torch.Tensor = _Straight.apply(input, self.bias, self)
        return found


class _Straight(torch.autograd.Function):
    """y as the library gives it; ∂y/∂x is the weight that it stands for, as if rounding weren't there."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, layer: nn.Linear) -> torch.Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        for_x = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = torch.matmul(grad, stands_for(ctx.layer, grad.dtype))
        if ctx.needs_input_grad[1]:
            for_bias = grad.reshape(-1, grad.shape[-1]).sum(0, dtype=torch.float32).to(ctx.layer.bias.dtype)
        return for_x, for_bias, None


def stands_for(layer: nn.Linear, dtype: torch.dtype) -> torch.Tensor:
    """The weight (out, in) that a layer's packed one stands for, as a plain tensor.

    A weight that doesn't say it itself (torchao's of 4 bits) is asked what it makes of each input.
    """
    weight = layer.weight
    # `Tensor.dequantize` itself only casts where no scale belongs to the tensor.
    if type(weight).dequantize is not torch.Tensor.dequantize:
        return weight.dequantize().to(dtype)
    each = torch.eye(layer.in_features, dtype=weight.dtype, device=weight.device)
    return functional.linear(each, weight).t().to(dtype)
