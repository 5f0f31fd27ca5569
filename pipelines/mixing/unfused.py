"""The unfused route: the base's weights stay as they are and layers add what adapters make of their input.

All adapters of a layer are one: up · diag(w) · down · x, with the weights of every layer in one small
vector, so a move writes that vector and nothing else. Biases and norms are vectors themselves and plain
in quantised models too; they take the fused route.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.mixing.fused import Fused, fuse
from pipelines.mixing.slots import Contributions, Product, Share, Slot
from pipelines.mixing.vector import Vector


@dataclass(eq=False, kw_only=True)
class _Addition:
    """The forward hook of one layer.

    down: (in, R) of a linear layer, (R, in, kh, kw) of a convolution; up: (R, out), or (out, R, 1, 1).
    dense: (m · out, in) or (m · out, in, kh, kw). scales, dense_scales: (R,) and (m,), views that
    `Vector.write` fills. active: whether any weight here is other than 0.
    """

    sources: np.ndarray
    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    scales: torch.Tensor | None = None
    dense: torch.Tensor | None = None
    dense_scales: torch.Tensor | None = None
    active: bool = False

    def __call__(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> Any:
        """Return the layer's output with the adapters' added; None leaves it as it is."""
        if not self.active:
            return None
        add = _add_to_convolution if isinstance(layer, nn.Conv2d) else _add_to_linear
        return add(self, layer, inputs[0], output)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return sum(part.nbytes for part in (self.down, self.up, self.dense) if part is not None)


def _add_to_linear(own: _Addition, layer: nn.Module, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """x: (…, in), output: (…, out)."""
    if own.down is not None and own.up is not None and own.scales is not None:
        flat = x.reshape(-1, x.shape[-1]).to(own.down.dtype)
        narrow = torch.mm(flat, own.down) * own.scales  # (B, R)
        whole = output.reshape(-1, output.shape[-1]).to(own.up.dtype)
        output = torch.addmm(whole, narrow, own.up).view(output.shape)
    if own.dense is not None and own.dense_scales is not None:
        wide = functional.linear(x.to(own.dense.dtype), own.dense)  # (…, m · out)
        wide = wide.unflatten(-1, (-1, output.shape[-1])) * own.dense_scales[:, None]
        output = output + wide.sum(dim=-2).to(output.dtype)
    return output


def _add_to_convolution(
    own: _Addition, layer: nn.Module, x: torch.Tensor, output: torch.Tensor
) -> torch.Tensor:
    """x: (B, in, H, W), output: (B, out, h, w)."""
    assert isinstance(layer, nn.Conv2d)
    how: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    if own.down is not None and own.up is not None and own.scales is not None:
        narrow = functional.conv2d(x.to(own.down.dtype), own.down, **how) * own.scales[:, None, None]
        output = output + functional.conv2d(narrow, own.up).to(output.dtype)
    if own.dense is not None and own.dense_scales is not None:
        wide = functional.conv2d(x.to(own.dense.dtype), own.dense, **how)  # (B, m · out, h, w)
        wide = wide.unflatten(1, (-1, output.shape[1])) * own.dense_scales[:, None, None, None]
        output = output + wide.sum(dim=1).to(output.dtype)
    return output


class Unfused:
    """Hooks for everything that adapters reach in a base, ready to be put on.

    fused: the part that is written into the base, biases and norms.
    """

    name = "unfused"

    def __init__(self, vector: Vector, hooks: list[tuple[Slot, _Addition]], fused: Fused) -> None:
        self._vector, self._hooks = vector, hooks
        self.fused = fused
        self._handles: list[Any] = []
        self._written: np.ndarray | None = None

    @property
    def slots(self) -> list[Slot]:
        """Every parameter that is written; weights under hooks aren't."""
        return self.fused.slots

    @property
    def kept_bytes(self) -> int:
        """Bytes of the copy of the base's own biases and norms."""
        return self.fused.kept_bytes

    @property
    def factor_bytes(self) -> int:
        """Bytes of the adapters' tensors."""
        own = self._vector.nbytes + sum(addition.nbytes for _, addition in self._hooks)
        return own + self.fused.factor_bytes

    def undo(self) -> None:
        """Take the hooks off and write the base's own biases and norms; allocates nothing."""
        self._unhook()
        self.fused.undo()

    def forget(self) -> None:
        """Make the next `write` write everything."""
        self._written = None
        self.fused.forget()

    def install(self) -> None:
        """Put the hooks on; call `write` next."""
        self.fused.install()
        self._handles = [slot.layer.register_forward_hook(addition) for slot, addition in self._hooks]

    def remove(self, staying: set[tuple[str, str]]) -> None:
        """Take the hooks off, and give biases and norms back except those that another engine takes over."""
        self._unhook()
        self.fused.remove(staying)

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def write(self, values: np.ndarray) -> None:
        """Write the vector of weights."""
        if self._written is not None and np.array_equal(values, self._written):
            return
        self._written = None
        self._vector.write(values)
        for _, addition in self._hooks:
            addition.active = bool(values[addition.sources].any())
        self.fused.write(values)
        self._written = values.copy()


def unfuse(
    base: Base, found: Contributions, adapters: int, blocks: Sequence[str], previous: Fused | None = None
) -> Unfused:
    """Make the hooks for what adapters add to a base, without touching the base.

    Arguments as `fuse`. Raises: AdapterError for a layer that such a hook can't follow.
    """
    vectors = {
        key: value for key, value in found.items() if value[0].matrix[0] == 1 and len(value[0].shape) == 1
    }
    inner = fuse(base, vectors, adapters, blocks, previous)
    matrices = [value for key, value in found.items() if key not in vectors]
    indices: list[np.ndarray] = []
    for slot, parts in matrices:
        at = blocks.index(slot.block)
        low, dense = _split(parts)
        columns = [adapter * len(blocks) + at for adapter, part in low for _ in range(part.down.shape[0])]
        indices += [np.array(columns, dtype=np.int64)] if low else []
        indices += [np.array([a * len(blocks) + at for a, _ in dense], dtype=np.int64)] if dense else []
    vector = Vector(indices, [base.device] * len(indices), base.dtype)
    views = iter(vector.views)
    hooks = [(slot, _addition(base, slot, parts, blocks, lambda: next(views))) for slot, parts in matrices]
    return Unfused(vector, hooks, inner)


def _split(parts: Mapping[int, Share]) -> tuple[list[tuple[int, Product]], list[tuple[int, torch.Tensor]]]:
    low = [(adapter, part) for adapter, part in parts.items() if isinstance(part, Product)]
    return low, [(adapter, part) for adapter, part in parts.items() if isinstance(part, torch.Tensor)]


def _balanced(part: Product) -> Product:
    """The same ΔW by factors of like size, so that neither leaves fp16's range; a power of two is exact."""
    up, down = float(part.up.abs().max()), float(part.down.abs().max())
    if up == 0 or down == 0:
        return part
    power = round((math.log2(down) - math.log2(up)) / 2)
    return Product(part.up * 2.0**power, part.down * 2.0**-power)


def _addition(
    base: Base,
    slot: Slot,
    parts: Mapping[int, Share],
    blocks: Sequence[str],
    view: Callable[[], torch.Tensor],
) -> _Addition:
    layer, dtype, device = slot.layer, base.dtype, base.device
    convolution = isinstance(layer, nn.Conv2d)
    if isinstance(layer, nn.Conv2d) and (layer.groups != 1 or layer.padding_mode != "zeros"):
        raise AdapterError(
            f"{slot.module} is a convolution in {layer.groups} groups, padded by {layer.padding_mode}, that "
            "only route 'fused' can mix"
        )
    low, dense = _split(parts)
    at = blocks.index(slot.block)
    found = _Addition(sources=np.array([adapter * len(blocks) + at for adapter in parts]))
    if low:
        balanced = [_balanced(part) for _, part in low]
        down = torch.cat([part.down for part in balanced]).to(device, dtype)  # (R, in · kh · kw)
        up = torch.cat([part.up for part in balanced], dim=1).to(device, dtype)  # (out, R)
        found.down = down.reshape(-1, *slot.shape[1:]) if convolution else down.t().contiguous()
        found.up = up[:, :, None, None] if convolution else up.t().contiguous()
        found.scales = view()
    if dense:
        stacked = torch.cat([part.reshape(slot.shape) for _, part in dense])  # (m · out, …)
        found.dense = stacked.to(device, dtype)
        found.dense_scales = view()
    return found
