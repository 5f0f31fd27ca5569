"""One tensor seen from the other side: a piece of a file for diffusers, a whole of pieces for a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.bases.structure import Shape

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Piece:
    """How one of diffusers' tensors is had from a file: rows are cut, then turned, then shaped.

    key: the tensor in the file. rows: from and to (exclusive) on axis 0, of a layer that holds queries,
    keys and values in one; None: all. transposed: whether its two axes change places. shape: what it
    gets, as 1×1 convolutions become linear layers; None: its own.
    """

    key: str
    rows: tuple[int, int] | None = None
    transposed: bool = False
    shape: Shape | None = None

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return diffusers' tensor as a view of the file's."""
        if self.rows is not None:
            tensor = tensor[self.rows[0] : self.rows[1]]
        if self.transposed:
            tensor = tensor.t()
        return tensor if self.shape is None else tensor.reshape(self.shape)

    def shape_from(self, shape: Shape) -> Shape:
        """Return the shape that `take` makes of a file's tensor of `shape`."""
        if self.rows is not None:
            shape = (self.rows[1] - self.rows[0], *shape[1:])
        if self.transposed:
            shape = shape[::-1]
        return shape if self.shape is None else self.shape


@dataclass(frozen=True)
class Whole:
    """How one tensor of a file is made of diffusers' tensors: joined, then turned, then shaped.

    sources: (part, name) of diffusers' tensors, joined on axis 0. transposed, shape: as in `Piece`.
    """

    sources: tuple[tuple[str, str], ...]
    transposed: bool = False
    shape: Shape | None = None

    def make(self, get: Callable[[str, str], torch.Tensor]) -> torch.Tensor:
        """Return the file's tensor, contiguous. get: part and name to diffusers' tensor."""
        import torch

        found = [get(part, name) for part, name in self.sources]
        tensor = found[0] if len(found) == 1 else torch.cat(found)
        if self.transposed:
            tensor = tensor.t()
        return (tensor if self.shape is None else tensor.reshape(self.shape)).contiguous()
