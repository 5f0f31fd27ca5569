"""The fused route: every weight that adapters reach is written whole, W = W₀ + Σ wᵢ·ΔWᵢ.

Parameters of equal shape that the same adapters reach form one stack, and a move writes it with one
batched product into the addresses that the layers use. The sum is taken in fp32 and rounded once.
On a CUDA card a bf16 base takes its products in bf16 with fp32 sums: the factors are rounded once to
bf16, an error of 0.002 to 0.004 of ‖ΔW‖ where rounding W itself costs 0.02 to 0.04, and the fp32 copy
of the weights, five times the memory traffic, is spared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.mixing.grouping import group_slots, make_stack
from pipelines.mixing.slots import Contributions, Slot, plain
from pipelines.mixing.stacks import Kept, Stack
from pipelines.mixing.vector import Vector


class Fused:
    """Stacks of everything that adapters reach in a base, ready to be written."""

    name = "fused"

    def __init__(self, vector: Vector, stacks: list[Stack]) -> None:
        self._vector, self._stacks = vector, stacks
        self._written: np.ndarray | None = None

    @property
    def fused(self) -> Fused:
        """The part that is written into the base: all of it."""
        return self

    @property
    def slots(self) -> list[Slot]:
        """Every parameter that is written."""
        return [slot for stack in self._stacks for slot in stack.kept.slots]

    @property
    def kept_bytes(self) -> int:
        """Bytes of the copy of the base's own weights."""
        return sum(stack.kept.base.nbytes for stack in self._stacks)

    @property
    def factor_bytes(self) -> int:
        """Bytes of the adapters' tensors and of the room for their products with the weights."""
        held = ("up", "down", "scaled", "dense")
        tensors = (getattr(stack, name) for stack in self._stacks for name in held)
        return self._vector.nbytes + sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def originals(self) -> dict[tuple[str, str], torch.Tensor]:
        """The base's own values of the parameters that are written, as kept."""
        return {
            slot.key: stack.kept.own(index)
            for stack in self._stacks
            for index, slot in enumerate(stack.kept.slots)
        }

    def dense(self) -> dict[tuple[tuple[str, str], int], torch.Tensor]:
        """The ΔW that are held as such, by slot and adapter, so that they needn't be computed again."""
        return {
            (slot.key, span.adapter): stack.change(index, span)
            for stack in self._stacks
            if stack.dense is not None
            for index, slot in enumerate(stack.kept.slots)
            for span in stack.dense_spans
        }

    def kept(self) -> dict[tuple[tuple[str, str], ...], Kept]:
        """The kept copies, by the keys of their slots in order."""
        return {tuple(slot.key for slot in stack.kept.slots): stack.kept for stack in self._stacks}

    def install(self) -> None:
        """Let the layers use the mixed weights; call `write` next."""
        for stack in self._stacks:
            stack.kept.install()

    def remove(self, staying: set[tuple[str, str]]) -> None:
        """Give the layers their own weights back, except slots that another engine takes over."""
        for stack in self._stacks:
            for index, slot in enumerate(stack.kept.slots):
                if slot.key not in staying:
                    slot.parameter.data = stack.kept.own(index).clone()

    def undo(self) -> None:
        """Write the base's own weights where this engine was put; allocates nothing."""
        for stack in self._stacks:
            if stack.kept.mixed is not None:
                stack.kept.mixed.copy_(stack.kept.base)

    def forget(self) -> None:
        """Make the next `write` write everything."""
        self._written = None

    def write(self, values: np.ndarray) -> None:
        """Write the mix of these weights; stacks whose weights stay the same are left alone."""
        before = self._written
        changed = np.ones(len(values), dtype=bool) if before is None else values != before
        if not changed.any():
            return
        self._written = None  # until all is written, so that after an error nothing is taken for done
        self._vector.write(values)
        for stack in self._stacks:
            if changed[stack.sources].any():
                stack.write(values)
        self._written = values.copy()


def fuse(
    base: Base, found: Contributions, adapters: int, blocks: Sequence[str], previous: Fused | None = None
) -> Fused:
    """Stack what adapters add to a base, without touching the base.

    found: what they add, see `contributions`. adapters: how many there are. blocks: the columns of the
    table of weights, whose rows are the adapters. previous: its kept copies are taken over where they fit.
    Raises: AdapterError where a weight can't be written into.
    """
    for slot, _ in found.values():
        if not plain(slot.parameter):
            kind = f"{type(slot.parameter.data).__name__}, {slot.parameter.dtype}"
            raise AdapterError(
                f"{slot.module} is quantised ({kind}), so its weights can't be written; choose route "
                "'unfused' or 'auto'"
            )
    groups = group_slots(found)
    indices = [index for group in groups for index in group.indices(blocks)]
    places = [group.device for group in groups for _ in group.indices(blocks)]
    vector = Vector(indices, places)
    views = iter(vector.views)
    originals = {} if previous is None else previous.originals()
    kept = {} if previous is None else previous.kept()
    stacks = []
    for group in groups:
        store = kept.get(tuple(slot.key for slot in group.slots))
        if store is None:
            values = [originals.get(slot.key, slot.parameter.detach()) for slot in group.slots]
            own = torch.stack(
                [
                    slot.rows(value, group.channels_last)
                    for value, slot in zip(values, group.slots, strict=True)
                ]
            )
            store = Kept(group.slots, own, channels_last=group.channels_last)
        stacks.append(make_stack(store, group, blocks, views))
    return Fused(vector, stacks)
