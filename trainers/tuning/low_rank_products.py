"""Low-rank products beside a layer's own, forward and backward, in as few calls as torch has for them.

y = W x + b + s·B A x. With g the gradient of y: that of x is Wᵀg + s·Aᵀ(Bᵀg), of A s·(Bᵀg)xᵀ, of B s·g(Ax)ᵀ.
Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685, equation 3, differentiated.

For cards, where calls are what costs: eight for a linear layer, its own two included. The products of rank r
run in the inputs' precision, with gradients added up in fp32; on a CPU, where this is only tested, in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

if TYPE_CHECKING:
    from trainers.tuning.low_rank import LowRankLayer

Tensor = torch.Tensor


class _Product(torch.autograd.Function):
    """What both kinds of layer share. Inputs: x, down, up, the base's answer or None, the layer."""

    @staticmethod
    def begin(
        ctx: Any, x: Tensor, down: Tensor, up: Tensor, layer: LowRankLayer
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x as the base takes it and as `down` takes it, and both factors in that precision."""
        ctx.layer, ctx.scale, ctx.dtype = layer, layer.scale, x.dtype
        if casting := autocasting(x.device):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        z, ctx.kept = x, 0.0
        if layer.dropout and layer.training:
            # In fp32, where PEFT drops out: a card draws other numbers for other precisions.
            z, ctx.mask = torch.native_dropout(x.float(), layer.dropout, True)
            ctx.kept = 1 / (1 - layer.dropout)
        precision = x.dtype if casting else precision_of(x, down)
        z = z.to(precision)
        if precision != down.dtype:
            lent = layer.lent
            if lent is None or lent[0].dtype != precision:
                lent = down.to(precision), up.to(precision)
            down, up = lent
        return x, z, down, up

    @staticmethod
    def undropped(ctx: Any, gradient: Tensor) -> Tensor:
        """Take the gradient of what was left of an input back to the input, of any shape, written over."""
        if not ctx.kept:
            return gradient
        return gradient.mul_(ctx.mask.reshape(gradient.shape)).mul_(ctx.kept)


def precision_of(x: Tensor, down: Tensor) -> torch.dtype:
    """Return what the products of rank r run in, of an input as the base takes it."""
    return down.dtype if x.device.type == "cpu" else x.dtype


def autocasting(device: torch.device) -> bool:
    """Whether products run in other precisions than their inputs'."""
    try:
        return torch.is_autocast_enabled(device.type)
    except RuntimeError:  # "meta" knows no autocast
        return False


def _base(layer: LowRankLayer, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return the weight and bias of a layer's base in a precision."""
    parameters: Any = layer.base_layer._parameters
    weight, bias = parameters["weight"], parameters["bias"]
    if autocasting(weight.device):
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    return weight, bias


class LinearProduct(_Product):
    """base(x) + s·(x Aᵀ)Bᵀ for x (…, in)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, answer: Tensor | None, layer: Any) -> Tensor:
        """answer: the base's, (…, out), where it isn't computed here; then it's left as it is."""
        x, z, down, up = _Product.begin(ctx, x, down, up, layer)
        weight = None
        if owned := answer is None:
            weight, bias = _base(layer, x.dtype)
            answer = functional.linear(x, weight, bias)  # (…, out)
        assert answer is not None
        z = z.reshape(-1, z.shape[-1])  # (N, in)
        inner = torch.mm(z, down.t())  # (N, r)
        flat = answer.view(-1, answer.shape[-1]) if owned else answer.reshape(-1, answer.shape[-1])
        if flat.dtype == inner.dtype:
            flat = (flat.addmm_ if owned else flat.addmm)(inner, up.t(), alpha=layer.scale)  # (N, out)
        else:
            flat = flat.to(inner.dtype).addmm_(inner, up.t(), alpha=layer.scale).to(answer.dtype)
        ctx.save_for_backward(z, inner, weight, down, up)
        return flat.view(answer.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        """Return the gradients of x, down, up and the answer."""
        z, inner, weight, down, up = ctx.saved_tensors
        learned, scale = ctx.layer._parameters, ctx.scale
        for_x, for_down, for_up, for_answer, _ = ctx.needs_input_grad
        flat = g.reshape(-1, g.shape[-1])  # (N, out)
        rows = flat.to(z.dtype)
        outer = torch.mm(rows, up) if for_x or for_down else None  # (N, r)
        dx = None
        if for_x:
            assert outer is not None
            if weight is None:
                dx = _Product.undropped(ctx, torch.mm(outer, down).mul_(scale))  # (N, in)
            else:
                dx = torch.mm(flat, weight)
                if ctx.kept or dx.dtype != outer.dtype:
                    dx = dx + _Product.undropped(ctx, torch.mm(outer, down).mul_(scale))
                else:
                    dx = dx.addmm_(outer, down, alpha=scale)
            dx = dx.to(ctx.dtype).view(*g.shape[:-1], -1)
        d_down = None
        if for_down:
            assert outer is not None
            d_down = gradient(learned["down"], outer.t(), z, scale)
        d_up = gradient(learned["up"], rows.t(), inner, scale) if for_up else None
        return dx, d_down, d_up, g if for_answer else None, None


class ConvProduct(_Product):
    """base(x) + s·B∗(A∗x) for x (B, C, h, w): A as large as the base's kernel, B of kernel 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, answer: Tensor | None, layer: Any) -> Tensor:
        """answer: the base's, where it isn't computed here; then it's left as it is."""
        x, z, down, up = _Product.begin(ctx, x, down, up, layer)
        base, weight = layer.base_layer, None
        if owned := answer is None:
            weight, bias = _base(layer, x.dtype)
            answer = functional.conv2d(x, weight, bias, base.stride, base.padding)  # (B, O, h, w)
        assert answer is not None
        inner = functional.conv2d(z, down, None, base.stride, base.padding)  # (B, r, h, w)
        columns = up.view(up.shape[:2])  # (O, r)
        found = answer if owned else answer.clone()
        if found.dtype == inner.dtype:
            _add_outer(found, inner, columns, layer.scale)
        else:
            wide = found.to(inner.dtype)
            _add_outer(wide, inner, columns, layer.scale)
            found = wide.to(found.dtype)
        ctx.save_for_backward(z, inner, weight, down, columns)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        """Return the gradients of x, down, up and the answer."""
        z, inner, weight, down, columns = ctx.saved_tensors
        learned, scale, base = ctx.layer._parameters, ctx.scale, ctx.layer.base_layer
        for_x, for_down, for_up, for_answer, _ = ctx.needs_input_grad
        wide = g.to(z.dtype)  # (B, O, h, w)
        dx = d_down = d_up = None
        if for_x and weight is not None:
            dx = _convolution_backward(g, z, weight, base, for_x=True)[0]
        if for_x or for_down:
            outer = _inner(wide, columns, scale)  # (B, r, h, w)
            more, d_down = _convolution_backward(outer, z, down, base, for_x=for_x, for_weight=for_down)
            if for_x:
                more = _Product.undropped(ctx, more)
                dx = more if dx is None else dx.add_(more) if dx.dtype == more.dtype else dx + more
                dx = dx.to(ctx.dtype)
            if for_down:
                d_down = handed(learned["down"], d_down)
        if for_up:
            rows, ranks = _rows(wide), _rows(inner)  # (N, O), (N, r)
            d_up = gradient(learned["up"], rows.t(), ranks, scale)
        return dx, d_down, d_up, g if for_answer else None, None


def _rows(x: Tensor) -> Tensor:
    """Return (B, C, h, w) as (B·h·w, C): a view where the channels are last, or one picture."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _add_outer(y: Tensor, inner: Tensor, columns: Tensor, scale: float) -> None:
    """Add scale · columns · inner to y in place. y: (B, O, h, w), inner: (B, r, h, w), columns: (O, r)."""
    if y.is_contiguous():
        batch = y.shape[0]
        y.view(batch, y.shape[1], -1).baddbmm_(
            columns.expand(batch, *columns.shape), inner.reshape(batch, inner.shape[1], -1), alpha=scale
        )
    elif y.is_contiguous(memory_format=torch.channels_last):
        y.permute(0, 2, 3, 1).view(-1, y.shape[1]).addmm_(_rows(inner), columns.t(), alpha=scale)
    else:
        y.add_(functional.conv2d(inner, columns[..., None, None]), alpha=scale)


def _inner(g: Tensor, columns: Tensor, scale: float) -> Tensor:
    """Return scale · columnsᵀ · g, (B, O, h, w) → (B, r, h, w), laid out as g is."""
    return functional.conv2d(g, (columns.t() * scale)[..., None, None])


def _convolution_backward(
    g: Tensor, x: Tensor, weight: Tensor, base: Any, *, for_x: bool = False, for_weight: bool = False
) -> tuple[Any, Any]:
    """Return the gradients of a convolution's input and weight, None where they aren't asked for."""
    found: Any = torch.ops.aten.convolution_backward(
        g, x if x.dtype == weight.dtype else x.to(weight.dtype), weight, None, base.stride, base.padding,
        base.dilation, False, [0, 0], 1, [for_x, for_weight, False],
    )  # fmt: skip
    return found[0], found[1]


def handed(parameter: nn.Parameter, found: Tensor) -> Tensor | None:
    """Add a gradient to the one that a parameter has, and return None; or return it for autograd to keep."""
    if parameter.grad is None:
        return found.to(parameter.dtype)
    parameter.grad.add_(found)
    return None


def gradient(parameter: nn.Parameter, left: Tensor, right: Tensor, scale: float) -> Tensor | None:
    """Hand scale · left · right, (m, N)·(N, n), to a parameter of m·n numbers, as `handed` does.

    Products of 16 bits are added up and written in fp32 where the device can.
    """
    shape = (left.shape[0], right.shape[1])
    kept = parameter.grad
    if left.dtype == parameter.dtype:
        if kept is None:
            own = parameter.detach().view(shape)  # only its shape: beta is 0
            return torch.addmm(own, left, right, beta=0, alpha=scale).view(parameter.shape)
        kept.view(shape).addmm_(left, right, alpha=scale)
        return None
    found = torch.zeros_like(parameter) if kept is None else kept
    add_wide(left.device, left.dtype)(found.view(shape), left, right, scale)
    return found if kept is None else None


Add = Callable[[Tensor, Tensor, Tensor, float], object]


def _added_in_one(kept: Tensor, left: Tensor, right: Tensor, scale: float) -> object:
    return torch.addmm(kept, left, right, out_dtype=torch.float32, alpha=scale, out=kept)


def _added_wide(kept: Tensor, left: Tensor, right: Tensor, scale: float) -> object:
    return kept.add_(torch.mm(left, right, out_dtype=torch.float32), alpha=scale)


def _added_narrow(kept: Tensor, left: Tensor, right: Tensor, scale: float) -> object:
    return kept.add_(torch.mm(left, right), alpha=scale)


def warm_up(device: torch.device) -> None:
    """Make the trials of `add_wide` now: they read from the device, which a recording couldn't."""
    for dtype in (torch.bfloat16, torch.float16):
        add_wide(device, dtype)
        wide_product(device, dtype)


@cache
def add_wide(device: torch.device, dtype: torch.dtype) -> Add:
    """Return the way to add a product of 16 bits to fp32 in the fewest calls that the device has.

    By a small trial, once per device and precision: not every torch has `out_dtype`, nor every device.
    """
    left = torch.ones((16, 16), device=device, dtype=dtype)
    for way in (_added_in_one, _added_wide):
        kept = torch.ones((16, 16), device=device)
        try:
            way(kept, left, left, 0.5)
            if bool((kept == 9).all()):
                return way
        except (RuntimeError, NotImplementedError, TypeError):
            continue
    return _added_narrow


@cache
def wide_product(device: torch.device, dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a product, of matrices or of batches of them, whose result is fp32 where the device has that."""
    if dtype in (torch.bfloat16, torch.float16):
        ones = torch.ones((16, 16), device=device, dtype=dtype)
        try:
            found = _product_wide(ones, ones), _product_wide(ones[None], ones[None])
            if all(bool((one == 16).all()) and one.dtype == torch.float32 for one in found):
                return _product_wide
        except (RuntimeError, NotImplementedError, TypeError):
            pass
    return torch.matmul


def _product_wide(left: Tensor, right: Tensor) -> Tensor:
    product = torch.mm if left.dim() == 2 else torch.bmm
    return product(left, right, out_dtype=torch.float32)
