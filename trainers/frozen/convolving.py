"""Convolutions whose weight doesn't learn: nothing kept for the backward pass, on a CPU faster kernels.

PyTorch keeps a convolution's input for the gradient of a weight that needs none. On a CPU it takes a slow
kernel for small inputs (up to 20,480 numbers), and lays the weight out anew at every call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

from trainers.frozen import winograd

# Winograd's transforms cost what they save below so many channels; its larger weight below so many tiles.
_CHANNELS, _TILES = 48, 16


def is_plain(module: nn.Module) -> bool:
    """Whether a module is a convolution as its class made it, of a kind that is known here."""
    return (
        type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    )


def has_tiles(module: nn.Conv2d) -> bool:
    """Whether Winograd's transform could pay for a convolution."""
    return _is_same(module) and min(module.in_channels, module.out_channels) >= _CHANNELS


def _is_same(module: nn.Conv2d) -> bool:
    """Whether it is 3×3 with an output of the input's size."""
    ones = module.stride == module.padding == module.dilation == (1, 1)
    return module.kernel_size == (3, 3) and ones and module.groups == 1


def _is_single(module: nn.Conv2d) -> bool:
    """Whether it is 1×1, so a product."""
    small = module.kernel_size == module.stride == (1, 1) and module.padding == (0, 0)
    return small and module.groups == 1


class Convolution:
    """One convolution, forwards and backwards, outside of autograd.

    Which kernel is taken follows from the shapes alone, so that a run that goes on takes the same.
    """

    def __init__(self, module: nn.Conv2d, tiled: bool) -> None:
        """module: is_plain. tiled: whether Winograd's transform may be taken, of four times the weight."""
        self.module = module
        self._settings: Any = (module.stride, module.padding, module.dilation, module.groups)
        self._single, self._same = _is_single(module), _is_same(module)
        self._tiled = tiled and has_tiles(module)
        self._made: dict[str, torch.Tensor] = {}
        self._made_of: tuple[int, int] | None = None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(B, I, H, W) → (B, O, H', W')."""
        weight, bias = self.module.weight, self.module.bias
        if not _on_cpu(values, weight):
            return torch.conv2d(values, weight, bias, *self._settings)
        if self._single:
            return _product(values, weight.view(weight.shape[:2]).t(), bias)
        if self._same:
            return self._kernel(values, "", bias)
        return torch.conv2d(_channels_last(values), weight, bias, *self._settings)

    def backward(self, gradient: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Gradient of the output, (B, O, H', W') → that of the input, of `shape` (B, I, H, W)."""
        weight = self.module.weight
        if not _on_cpu(gradient, weight):
            return conv2d_input(shape, weight, gradient, *self._settings)
        if self._single:
            return _product(gradient, weight.view(weight.shape[:2]), None)
        if self._same:
            return self._kernel(gradient, "turned ", None)
        return conv2d_input(shape, weight, _channels_last(gradient), *self._settings)

    def _kernel(self, values: torch.Tensor, turned: str, bias: torch.Tensor | None) -> torch.Tensor:
        if self._tiled and winograd.tiles(values.shape) >= _TILES:
            return _winograd().convolve(values, self._prepared(f"{turned}tiles"), bias)
        return _convolved(_channels_last(values), self._prepared(f"{turned}packed"), bias)

    def _prepared(self, form: str) -> torch.Tensor:
        """A form of the weight, made at its first use; anew where the weight has become another one."""
        weight = self.module.weight
        now = (weight.data_ptr(), weight._version)
        if self._made_of != now:
            self._made_of, self._made = now, {}
        if form not in self._made:
            self._made[form] = _FORMS[form](weight.detach())
        return self._made[form]


def _turned(weight: torch.Tensor) -> torch.Tensor:
    """The weight (I, O, 3, 3) by which a gradient is convolved on its way back."""
    return weight.flip(2, 3).transpose(0, 1).contiguous()


def _packed(weight: torch.Tensor) -> torch.Tensor:
    """A weight in oneDNN's own layout."""
    some = [1, weight.shape[1], 16, 16]  # good for every size; without one a slow layout comes out
    ones = [1, 1]
    own = weight.contiguous().to_mkldnn()
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    found: torch.Tensor = reorder(own, ones, ones, ones, 1, some)
    return found


_FORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "packed": _packed,
    "turned packed": lambda weight: _packed(_turned(weight)),
    "tiles": winograd.transformed,
    "turned tiles": lambda weight: winograd.transformed(_turned(weight)),
}


@cache
def _winograd() -> winograd.Winograd:
    return winograd.Winograd()


@cache
def has_kernels() -> bool:
    """Whether oneDNN's convolution with a weight in its own layout works in this PyTorch: by a trial."""
    made = torch.Generator().manual_seed(0)
    values, weight = torch.randn(1, 16, 8, 8, generator=made), torch.randn(16, 16, 3, 3, generator=made)
    try:
        found = _convolved(_channels_last(values), _packed(weight), None)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    return torch.allclose(found, torch.conv2d(values, weight, padding=1), rtol=1e-3, atol=1e-3)


def _convolved(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(B, I, H, W), channels last, with a `_packed` weight → (B, O, H, W)."""
    ones = [1, 1]
    found: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
        values, weight, bias, ones, ones, ones, 1, "none", [], ""
    )
    return found


def _on_cpu(values: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the kernels for a CPU are for these: real numbers in fp32."""
    real = type(values) is torch.Tensor and values.device.type == "cpu"
    return real and values.dtype == weight.dtype == torch.float32 and has_kernels()


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous(memory_format=torch.channels_last)


def _product(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(B, I, H, W) times (I, O) → (B, O, H, W), channels last."""
    batch, channels, height, width = values.shape
    rows = values.permute(0, 2, 3, 1).reshape(-1, channels)
    found = torch.empty((batch, weight.shape[1], height, width), memory_format=torch.channels_last)
    into = found.permute(0, 2, 3, 1).view(-1, weight.shape[1])
    if bias is None:
        torch.mm(rows, weight, out=into)
    else:
        torch.addmm(bias, rows, weight, out=into)
    return found


class Convolve(torch.autograd.Function):
    """A convolution by itself, of which nothing is kept."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, convolution: Convolution) -> torch.Tensor:
        """(B, I, H, W) → (B, O, H', W')."""
        ctx.convolution, ctx.shape = convolution, values.shape
        return convolution.forward(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient of the values."""
        return ctx.convolution.backward(gradient, ctx.shape), None
