"""The parameters that a mix changes, and what each adapter adds to each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from pipelines.adapter import Adapter, AnyFactors, LowRank
from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.families import block_of
from pipelines.methods import METHODS
from pipelines.quantised import dequantised

PLAIN = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True, eq=False)
class Slot:
    """One parameter of a base that adapters may change.

    module: the layer's canonical name. name: "weight" or "bias".
    """

    module: str
    name: str
    layer: nn.Module

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from the base's other parameters."""
        return self.module, self.name

    @property
    def component(self) -> str:
        """ "unet" or a text encoder's name."""
        return self.module.split(".", 1)[0]

    @property
    def block(self) -> str:
        """The block whose weight holds here."""
        return block_of(self.module)

    @property
    def parameter(self) -> torch.Tensor:
        """The tensor that the layer uses now."""
        found = getattr(self.layer, self.name)
        assert isinstance(found, torch.Tensor)
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the parameter stands for; a quantised weight may be stored in another."""
        layer = self.layer
        if self.name == "weight" and isinstance(layer, nn.Linear):
            return layer.out_features, layer.in_features
        if self.name == "weight" and isinstance(layer, nn.Conv2d):
            return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size
        return tuple(self.parameter.shape)

    @property
    def matrix(self) -> tuple[int, int]:
        """(out, in · kh · kw) of a layer's weight, (1, n) of a vector."""
        first, *others = self.shape
        return (first, math.prod(others)) if others else (1, first)

    @property
    def channels_last(self) -> bool:
        """Whether a convolution's weight lies in memory as (out, kh, kw, in)."""
        weight = self.parameter
        if weight.dim() != 4:
            return False
        _, into, height, width = weight.shape
        return weight.stride() == (into * height * width, 1, into * width, into)

    def rows(self, value: torch.Tensor, channels_last: bool) -> torch.Tensor:
        """A value of n · `shape` as the matrix (n, …) whose columns stand as they do in memory.

        value: (n, in · kh · kw), or (n, in, kh, kw) of a convolution's weight.
        """
        if not channels_last:
            return value.reshape(len(value), -1) if len(self.shape) > 1 else value.reshape(1, -1)
        return value.reshape(-1, *self.shape[1:]).permute(0, 2, 3, 1).reshape(len(value), -1)

    def shaped(self, rows: torch.Tensor, channels_last: bool) -> torch.Tensor:
        """The view of such a matrix that the layer takes as its parameter."""
        if not channels_last:
            return rows.view(self.shape)
        out, into, height, width = self.shape
        return rows.view(out, height, width, into).permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class Product:
    """ΔW of one slot as fp32 (out, r) and (r, in · kh · kw)."""

    up: torch.Tensor
    down: torch.Tensor


Share = Product | torch.Tensor
"""What one adapter adds to one slot at weight 1: a product, or fp32 of the slot's matrix."""

Contributions = Mapping[tuple[str, str], tuple[Slot, Mapping[int, Share]]]
"""Every slot that some adapter reaches, with what each adds there by the adapter's position."""

Original = Callable[[Slot], torch.Tensor]
"""Gives the base's own value of a slot, of the parameter's shape."""


def plain(parameter: torch.Tensor) -> bool:
    """Whether a parameter holds its numbers as they are, so that a sum can be written into it."""
    return type(parameter.data) is torch.Tensor and parameter.dtype in PLAIN


def own_value(slot: Slot) -> torch.Tensor:
    """Return the base's value of a slot that no mix has touched; a quantised one is dequantised.

    Raises: AdapterError for a quantised weight that can't say what it stands for.
    """
    weight = slot.parameter
    if plain(weight):
        return weight.detach()
    # `Tensor.dequantize` itself only casts where no scale belongs to the tensor.
    if weight.is_quantized or type(weight).dequantize is not torch.Tensor.dequantize:
        found = weight.dequantize()
        assert isinstance(found, torch.Tensor)
        return found.detach()
    own = dequantised(slot.layer)
    if own is not None:
        return own.detach()
    raise AdapterError(
        f"the weight of {slot.module} is {weight.dtype} of type {type(weight).__name__}, which can't be "
        "dequantised, and an adapter's ΔW depends on it; load the base unquantised"
    )


Known = Callable[[Slot, str], torch.Tensor | None]
"""Gives Δ of a slot by an adapter's name where it was computed before."""


def contributions(
    base: Base, adapters: Mapping[str, Adapter], original: Original, known: Known, held: Collection[str]
) -> Contributions:
    """Return what adapters add to the base's parameters, computed where these are.

    held: names of those for whom `known` gives all biases that they change.
    Raises: AdapterError for what a module of this base can't take.
    """
    found: dict[tuple[str, str], tuple[Slot, dict[int, Share]]] = {}
    for module, layer in base.weighted().items():
        weight, bias = Slot(module, "weight", layer), Slot(module, "bias", layer)
        for index, (name, adapter) in enumerate(adapters.items()):
            if module not in adapter.factors:
                continue
            factors = _on(weight.parameter.device, adapter.factors[module])
            if factors.has_delta:
                share: Share | None = known(weight, name)
                if share is None:
                    share = _weight_share(weight, factors, original)
                if name not in held:
                    _check_range(name, weight, share, base.dtype)
                found.setdefault(weight.key, (weight, {}))[1][index] = share
            delta = known(bias, name)
            if name not in held:
                delta = _bias_share(name, bias, factors, original)
                _check_range(name, bias, delta, base.dtype)
            if delta is not None:
                found.setdefault(bias.key, (bias, {}))[1][index] = delta
    return found


def _on(device: torch.device, factors: AnyFactors) -> AnyFactors:
    """The same factors on another device."""
    if device.type == "cpu":
        return factors
    if isinstance(factors, LowRank):
        return LowRank(down=factors.down.to(device), up=factors.up.to(device), alpha=factors.alpha)
    return replace(factors, parts={name: part.to(device) for name, part in factors.parts.items()})


def _weight_share(slot: Slot, factors: AnyFactors, original: Original) -> Share:
    rows, columns = slot.matrix
    if len(slot.shape) >= 2 and (matrices := factors.matrices()) is not None:
        up, down = matrices
        # Where the factors hold more numbers than ΔW itself, ΔW is the cheaper form.
        if up.shape[1] * (rows + columns) <= rows * columns:
            return Product(up, down)
        return (up @ down).reshape(rows, columns)
    needed = METHODS[factors.method].needs_weight
    weight = original(slot).to(torch.float32) if needed else None
    return factors.delta(weight).to(torch.float32).reshape(rows, columns)


def _check_range(name: str, slot: Slot, share: Share | None, dtype: torch.dtype) -> None:
    """Refuse what isn't finite in a base's precision at every weight that a mix may have, 3 at most."""
    limit = torch.finfo(dtype).max / 4
    if isinstance(share, Product):
        up, down = share.up.abs().amax(dim=0).double(), share.down.abs().amax(dim=1).double()
        largest = float(up @ down)  # ΔW is no larger than this
        if limit < largest < float("inf"):
            largest = float((share.up.double() @ share.down.double()).abs().max())
        if not float(torch.maximum(up, down).max()) <= torch.finfo(torch.float32).max / 4:
            largest = float("inf")
    else:
        largest = 0.0 if share is None else float(share.abs().max())
    if not largest <= limit:
        raise AdapterError(
            f"adapter {name!r} changes {slot.module} by numbers too large for {str(dtype)[6:]} (up to "
            f"{largest:.2g}), so the mix wouldn't be finite; its file is damaged or its training went astray"
        )


def _bias_share(name: str, slot: Slot, factors: AnyFactors, original: Original) -> torch.Tensor | None:
    if getattr(slot.layer, "bias", None) is not None:
        delta = factors.bias_delta(original(slot).to(torch.float32))
        return None if delta is None else delta.to(torch.float32).reshape(1, -1)
    weight = Slot(slot.module, "weight", slot.layer)
    delta = factors.bias_delta(torch.zeros(weight.shape[0], device=weight.parameter.device))
    if delta is not None and bool(delta.any()):
        raise AdapterError(
            f"adapter {name!r} changes the bias of {slot.module}, which has none in this base; choose the "
            "base it was made for"
        )
    return None
