"""Low-rank changes of torch's own calls, for CPUs: there a function of our own costs more than it saves.

On small layers PEFT's way takes 285 to 370 µs of a CPU forward and backward where the layer by itself takes
some 135; one Python function with both passes written out 280 to 340; these calls, whose gradients C++ finds,
200 to 260 (one thread; rank 16, 16 to 256 rows of 64 to 192).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from trainers.tuning.low_rank_products import autocasting

if TYPE_CHECKING:
    from trainers.tuning.low_rank import LowRankLayer

Tensor = torch.Tensor

FOLDED = 1.6
"""So many times the multiplications are worth one product fewer each way."""


def folds(rows: int, out: int, inputs: int, rank: int) -> bool:
    """Whether the product with W + s·B·A, and its gradient as a whole, beats the products of a low rank.

    Compared are their multiplications, forward and backward, beyond the layer's own.
    """
    whole = out * inputs * (3 * rank + rows)
    return whole <= FOLDED * 3 * rows * rank * (out + inputs)


def linear(layer: LowRankLayer, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return base(x) + s·(x Aᵀ)Bᵀ, (…, in) → (…, out)."""
    if not _simple(layer, x):
        return _step_by_step(layer, x, down, up)
    base: Any = layer.base_layer._parameters
    weight, bias = base["weight"], base["bias"]
    out, inputs = weight.shape
    count = x.numel() // inputs
    if folds(count, out, inputs, down.shape[0]):
        return functional.linear(x, torch.addmm(weight, up, down, alpha=layer.scale), bias)
    rows = x.reshape(count, inputs)
    own = torch.mm(rows, weight.t()) if bias is None else torch.addmm(bias, rows, weight.t())
    own.addmm_(torch.mm(rows, down.t()), up.t(), alpha=layer.scale)
    return own.view(*x.shape[:-1], out)


def convolution(layer: LowRankLayer, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return base(x) + s·B∗(A∗x), (B, C, h, w)."""
    if not _simple(layer, x):
        return _step_by_step(layer, x, down, up)
    base: Any = layer.base_layer
    own = functional.conv2d(x, base.weight, base.bias, base.stride, base.padding)
    inner = functional.conv2d(x, down, None, base.stride, base.padding)
    return own.add_(functional.conv2d(inner, up), alpha=layer.scale)


def _simple(layer: LowRankLayer, x: Tensor) -> bool:
    """Whether all is fp32, nothing is left out, and the base's product is ours to make."""
    dropping = layer.dropout and layer.training
    wide = x.dtype == torch.float32 and not autocasting(x.device)
    return wide and not dropping and layer.owns_base()


def _step_by_step(layer: LowRankLayer, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return the same, the change in fp32 whatever the base is in."""
    base: Any = layer.base_layer
    own: Tensor = base(x)
    with torch.autocast(x.device.type, enabled=False):
        z = functional.dropout(x.to(down.dtype), layer.dropout, layer.training)
        if down.dim() == 4:
            inner = functional.conv2d(z, down, None, base.stride, base.padding)
            change = functional.conv2d(inner, up)
        else:
            change = functional.linear(functional.linear(z, down), up)
        return torch.add(own, change, alpha=layer.scale).to(own.dtype)
