"""A residual block and a feed-forward layer whose weights don't learn, each as one step of autograd.

Kept are a block's input, what its second norm sees and the norms' statistics; on a CPU, where time is
shorter than memory, also what the activations see.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainers.frozen.convolving import Convolution

Normed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def keeps(device: torch.device) -> bool:
    """Whether what the activations see is kept for the backward pass: where time is shorter than memory."""
    return device.type == "cpu"


def _laid(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Values in a layout that the kernel for group norms takes: on a CPU that of `like`, else plain."""
    last = like.device.type == "cpu" and like.is_contiguous(memory_format=torch.channels_last)
    return values.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _group_norm(norm: nn.GroupNorm, values: torch.Tensor) -> Normed:
    """Return values (B, C, H, W) with norm, mean and 1 / standard deviation (B, groups)."""
    batch, channels, height, width = values.shape
    settings = (batch, channels, height * width, norm.num_groups, norm.eps)
    return torch.native_group_norm(_laid(values, values), norm.weight, norm.bias, *settings)


def _group_norm_backward(
    norm: nn.GroupNorm, gradient: torch.Tensor, values: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor
) -> torch.Tensor:
    batch, channels, height, width = values.shape
    settings = (batch, channels, height * width, norm.num_groups, [True, False, False])
    gradient, values = _laid(gradient, values), _laid(values, values)
    back = torch.ops.aten.native_group_norm_backward
    found: torch.Tensor = back(gradient, values, mean, rstd, norm.weight, *settings)[0]
    return found


class ResnetParts:
    """What a residual block is made of. block: a `ResnetBlock2D`; convolutions: of its modules, by id."""

    def __init__(self, block: Any, convolutions: dict[int, Convolution]) -> None:
        self.norm1: nn.GroupNorm = block.norm1
        self.norm2: nn.GroupNorm = block.norm2
        self.conv1, self.conv2 = convolutions[id(block.conv1)], convolutions[id(block.conv2)]
        self.shortcut = None if block.conv_shortcut is None else convolutions[id(block.conv_shortcut)]
        self.scale: float = block.output_scale_factor


class Residual(torch.autograd.Function):
    """(x + conv2(silu(norm2(conv1(silu(norm1(x))) + shift)))) / scale, the first x through a shortcut.

    The same as diffusers' `ResnetBlock2D`, whose shift is the projected time.
    """

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, shift: torch.Tensor | None, parts: ResnetParts
    ) -> torch.Tensor:
        """values: (B, I, H, W); shift: (B, O). Returns (B, O, H, W)."""
        keep = keeps(values.device) and any(ctx.needs_input_grad)
        first, mean1, rstd1 = _group_norm(parts.norm1, values)
        hidden = parts.conv1.forward(functional.silu(first, inplace=not keep))
        if shift is not None:
            hidden += shift[:, :, None, None]
        second, mean2, rstd2 = _group_norm(parts.norm2, hidden)
        found = parts.conv2.forward(functional.silu(second, inplace=not keep))
        found += values if parts.shortcut is None else parts.shortcut.forward(values)
        if parts.scale != 1.0:
            found /= parts.scale
        ctx.parts, ctx.keep = parts, keep
        seen = (first, second) if keep else ()
        ctx.save_for_backward(values, hidden, mean1, rstd1, mean2, rstd2, *seen)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """Gradients of the values and of the shift."""
        parts: ResnetParts = ctx.parts
        values, hidden, mean1, rstd1, mean2, rstd2, *seen = ctx.saved_tensors
        silu_backward = torch.ops.aten.silu_backward
        if parts.scale != 1.0:
            gradient = gradient / parts.scale
        second = seen[1] if ctx.keep else _group_norm(parts.norm2, hidden)[0]
        inner = silu_backward(parts.conv2.backward(gradient, hidden.shape), second)
        inner = _group_norm_backward(parts.norm2, inner, hidden, mean2, rstd2)
        shift = inner.sum((2, 3)) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, shift, None
        first = seen[0] if ctx.keep else _group_norm(parts.norm1, values)[0]
        inner = silu_backward(parts.conv1.backward(inner, values.shape), first)
        inner = _group_norm_backward(parts.norm1, inner, values, mean1, rstd1)
        inner += gradient if parts.shortcut is None else parts.shortcut.backward(gradient, values.shape)
        return inner, shift, None


class FeedForward(torch.autograd.Function):
    """W₂ (a · gelu(b)) with (a, b) = W₁ x: diffusers' feed-forward layer with GEGLU."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, widen: nn.Linear, narrow: nn.Linear) -> torch.Tensor:
        """values: (B, N, C). Returns (B, N, C)."""
        keep = keeps(values.device) and ctx.needs_input_grad[0]
        wide = functional.linear(values, widen.weight, widen.bias)  # (B, N, 2F)
        straight, gate = wide.chunk(2, -1)
        opened = functional.gelu(gate)  # (B, N, F)
        inner = straight * opened if keep else opened.mul_(straight)
        ctx.layers = widen, narrow
        ctx.save_for_backward(wide, *((opened,) if keep else ()))
        return functional.linear(inner, narrow.weight, narrow.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The gradient of the values."""
        widen, narrow = ctx.layers
        wide, *kept = ctx.saved_tensors
        straight, gate = wide.chunk(2, -1)
        inner = torch.matmul(gradient, narrow.weight)  # (B, N, F)
        back = torch.empty_like(wide)
        to_straight, to_gate = back.chunk(2, -1)
        torch.mul(inner, kept[0] if kept else functional.gelu(gate), out=to_straight)
        torch.ops.aten.gelu_backward.grad_input(inner.mul_(straight), gate, grad_input=to_gate)
        return torch.matmul(back, widen.weight), None, None
