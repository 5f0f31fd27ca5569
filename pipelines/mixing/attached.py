"""Adapters that work beside the weights: hooks on modules, each times the weight that holds there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pipelines.adapter import Adapter
from pipelines.base import Base
from pipelines.families import block_of
from pipelines.methods import METHODS
from pipelines.methods.method import Method
from pipelines.places import places


@dataclass(eq=False, kw_only=True)
class _Place:
    """One module with what adapters of one method add to it.

    parts: by the position of their weight in the vector, fp32. acting: those whose weight isn't 0, with it.
    """

    row: Method
    module: torch.nn.Module
    parts: dict[int, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    acting: list[tuple[float, Mapping[str, torch.Tensor]]] = field(default_factory=list)
    handles: list[Any] = field(default_factory=list)

    def set(self, values: np.ndarray) -> None:
        """Take weights from the vector; without any other than 0 there is no hook."""
        self.acting = [(float(values[at]), parts) for at, parts in self.parts.items() if values[at]]
        if self.acting and not self.handles:
            assert self.row.attach is not None
            self.handles = self.row.attach(self.module, lambda: self.acting)
        elif not self.acting:
            self.remove()

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()
        self.handles = []


class Attached:
    """What adapters of a mix add beside the weights (see `Method.attach`).

    The trained layer's own arithmetic, in fp32: at weight 1 a module makes what it made in training. At
    weight 0 it has no hook, and so is the base's bit for bit.
    """

    def __init__(self, base: Base, adapters: Mapping[str, Adapter], blocks: Sequence[str]) -> None:
        """blocks: the columns of the table of weights, whose rows are the adapters. Changes nothing yet."""
        self._places: dict[tuple[str, str], _Place] = {}
        layers = places(base) if any(map(_reaches, adapters.values())) else {}
        for index, adapter in enumerate(adapters.values()):
            for module, factors in adapter.factors.items():
                row = METHODS[factors.method]
                if row.attach is None:
                    continue
                layer = layers[row.on_attention][module]
                place = self._places.setdefault((module, row.id), _Place(row=row, module=layer))
                parts = {n: part.detach().to(base.device, torch.float32) for n, part in factors.parts.items()}
                place.parts[index * len(blocks) + blocks.index(block_of(module))] = parts

    @property
    def nbytes(self) -> int:
        """Bytes of the adapters' tensors."""
        found = (parts for place in self._places.values() for parts in place.parts.values())
        return sum(part.nbytes for parts in found for part in parts.values())

    def set(self, values: np.ndarray) -> None:
        """Let the modules add their parts at these weights, the table as one vector."""
        for place in self._places.values():
            place.set(values)

    def remove(self) -> None:
        """Take all hooks off."""
        for place in self._places.values():
            place.remove()


def _reaches(adapter: Adapter) -> bool:
    return any(METHODS[method].attach is not None for method in adapter.methods)
