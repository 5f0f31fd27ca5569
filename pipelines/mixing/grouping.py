"""Which parameters form a stack, and their adapters' tensors side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipelines.mixing.slots import Contributions, Product, Share, Slot
from pipelines.mixing.stacks import Kept, Span, Stack

Owners = list[tuple[int, int]]
"""(adapter, columns that it gets) of a stack."""


@dataclass(frozen=True, eq=False)
class Group:
    """Slots of one stack with what the adapters add: low (adapter, padded rank), dense (adapter)."""

    slots: tuple[Slot, ...]
    parts: tuple[Mapping[int, Share], ...]
    low: Owners
    dense: list[int]

    @property
    def device(self) -> torch.device:
        """Where the slots' parameters are."""
        return self.slots[0].parameter.device

    @property
    def channels_last(self) -> bool:
        """How the slots' parameters lie in memory."""
        return self.slots[0].channels_last

    @property
    def scales_up(self) -> bool:
        """Whether the weights go into `up`, the smaller factor."""
        rows, columns = self.slots[0].matrix
        return rows <= columns

    def indices(self, blocks: Sequence[str]) -> list[np.ndarray]:
        """Positions in the vector of weights for `scales` and `dense_scales`, those that there are."""
        at = np.array([blocks.index(slot.block) for slot in self.slots])[:, None]
        found = []
        if self.low:
            owners = np.array([adapter for adapter, rank in self.low for _ in range(rank)])
            index = owners * len(blocks) + at  # (n, R)
            found.append(index[:, None] if self.scales_up else index[:, :, None])
        if self.dense:
            index = np.array(self.dense) * len(blocks) + at  # (n, m)
            found.append(index[:, :, None, None])
        return found

    def sources(self, adapter: int, blocks: Sequence[str]) -> np.ndarray:
        """Positions in the vector of weights that matter here for one adapter."""
        return np.array(sorted({adapter * len(blocks) + blocks.index(slot.block) for slot in self.slots}))


def group_slots(found: Contributions) -> list[Group]:
    """Group slots by component, shape, precision, and the adapters that reach them with their ranks."""
    ranks: dict[tuple[object, ...], set[int]] = {}
    for slot, parts in found.values():
        for adapter, part in parts.items():
            if isinstance(part, Product):
                ranks.setdefault((slot.component, slot.matrix, adapter), set()).add(part.down.shape[0])
    groups: dict[tuple[object, ...], tuple[Owners, list[int], list[tuple[Slot, Mapping[int, Share]]]]] = {}
    for slot, parts in found.values():
        low = [
            (adapter, _padded(part.down.shape[0], ranks[slot.component, slot.matrix, adapter]))
            for adapter, part in parts.items()
            if isinstance(part, Product)
        ]
        dense = [adapter for adapter, part in parts.items() if not isinstance(part, Product)]
        layout = slot.shape if slot.channels_last else ()  # as (kh, kw, in), equal only where these are
        key = (slot.component, slot.matrix, slot.parameter.dtype, layout, *low, *dense)
        groups.setdefault(key, (low, dense, []))[2].append((slot, parts))
    return [
        Group(tuple(slot for slot, _ in members), tuple(parts for _, parts in members), low, dense)
        for low, dense, members in groups.values()
    ]


def _padded(rank: int, ranks: set[int]) -> int:
    """The columns that an adapter gets in a stack: its rank; where its ranks differ, a power of two.

    So an adapter whose modules all have ranks of their own still makes few stacks, at most twice as large.
    """
    return rank if len(ranks) == 1 else min(max(ranks), 1 << (rank - 1).bit_length())


def make_stack(kept: Kept, group: Group, blocks: Sequence[str], views: Iterator[torch.Tensor]) -> Stack:
    """Put a group's tensors on the device; `views` gives its scales in the order of `indices`."""
    device, dtype = kept.base.device, kept.base.dtype
    tensors: dict[str, torch.Tensor] = {}
    spans, start = [], 0
    for adapter, rank in group.low:
        spans.append(Span(adapter, start, start + rank, group.sources(adapter, blocks)))
        start += rank
    if group.low:
        half = multiplies_in_half(dtype, device) and not group.dense
        tensors |= _low_rank(group, start, half, device)
        tensors["scales"] = next(views)
    if group.dense:
        stored = dtype if device.type == "cuda" else torch.float32
        tensors["dense"] = _dense(group).to(device, stored)
        tensors["dense_scales"] = next(views)
    dense_spans = tuple(
        Span(adapter, index, index + 1, group.sources(adapter, blocks))
        for index, adapter in enumerate(group.dense)
    )
    sources = np.concatenate([span.sources for span in (*spans, *dense_spans)])
    return Stack(kept, tuple(spans), dense_spans, sources, **tensors)


def multiplies_in_half(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether products are taken in bf16 straight into the weights (see `pipelines.mixing.fused`)."""
    return dtype == torch.bfloat16 and device.type == "cuda"


def _low_rank(group: Group, total: int, half: bool, device: torch.device) -> dict[str, torch.Tensor]:
    """Return `up`, `down` and `scaled` of a stack of `total` columns; half: multiply in bf16."""
    count, (rows, columns) = len(group.slots), group.slots[0].matrix
    up = torch.zeros(count, rows, total, device=device)
    down = torch.zeros(count, total, columns, device=device)
    for index, parts in enumerate(group.parts):
        start = 0
        for adapter, rank in group.low:
            part = parts[adapter]
            assert isinstance(part, Product)
            up[index, :, start : start + part.up.shape[1]] = part.up
            turned = group.slots[index].rows(part.down, group.channels_last)
            down[index, start : start + len(turned)] = turned
            start += rank
    factors = {"up": up, "down": down}
    larger = "down" if group.scales_up else "up"
    room = torch.empty_like(factors["up" if group.scales_up else "down"])
    if half:
        factors[larger] = factors[larger].to(torch.bfloat16)
        room = room.to(torch.bfloat16)
    return factors | {"scaled": room}


def _dense(group: Group) -> torch.Tensor:
    """Return (n, m, rows, columns): the ΔW of the m adapters that come without factors."""
    rows = []
    for slot, parts in zip(group.slots, group.parts, strict=True):
        found = [parts[adapter] for adapter in group.dense]
        dense = [slot.rows(part, group.channels_last) for part in found if isinstance(part, torch.Tensor)]
        rows.append(torch.stack(dense))
    return torch.stack(rows)
