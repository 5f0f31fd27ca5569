"""3×3 convolutions in fewer products, for a CPU.

Source: Lavin & Gray 2015, https://arxiv.org/abs/1509.09308, F(4×4, 3×3): of every 4×4 of the output,
36 products per pair of channels instead of 144. Deviation: the transforms are products with one matrix,
and all positions of a tile are one batch of products. In fp32 its error is some three times the plain sum's.
"""

from __future__ import annotations

import torch
from torch.nn import functional

_OUT, _IN = 4, 6
"""Side of a tile of the output, and of the part of the input that it depends on."""

_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_WEIGHT = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def weight_bytes(weight: torch.Tensor) -> int:
    """Bytes that `transformed` takes for a weight (O, I, 3, 3)."""
    return _IN * _IN * weight.shape[0] * weight.shape[1] * 4


def tiles(shape: torch.Size) -> int:
    """Into how many tiles an input (B, C, H, W) is cut; 0 where they aren't whole."""
    batch, _, height, width = shape
    whole = height % _OUT == 0 and width % _OUT == 0
    return batch * (height // _OUT) * (width // _OUT) if whole else 0


def transformed(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight (O, I, 3, 3) as `convolve` takes it, fp32 (36, I, O)."""
    rows = torch.tensor(_WEIGHT, dtype=torch.float64)
    found = torch.einsum("ai,bj,ocij->abco", rows, rows, weight.double())
    return found.reshape(_IN * _IN, weight.shape[1], weight.shape[0]).float().contiguous()


def _both_ways(rows: tuple[tuple[float, ...], ...]) -> torch.Tensor:
    """Return the matrix that transforms a flattened tile along rows and columns, fp32."""
    one_way = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(one_way, one_way).float()


class Winograd:
    """Convolves with padding 1 and stride 1; holds the transforms' matrices."""

    def __init__(self) -> None:
        self._into, self._back = _both_ways(_INPUT), _both_ways(_OUTPUT)

    def convolve(self, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """values: fp32 (B, I, H, W); weight: `transformed`; bias: (O,). Returns (B, O, H, W)."""
        batch, channels, height, width = values.shape
        down, across, out = height // _OUT, width // _OUT, weight.shape[2]
        padded = functional.pad(values.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
        b, h, w, c = padded.stride()  # of (B, H+2, W+2, I)
        overlapping = (_IN, _IN, batch, down, across, channels)
        cut = padded.as_strided(overlapping, (h, w, b, h * _OUT, w * _OUT, c)).reshape(_IN * _IN, -1)
        moved = torch.mm(self._into, cut).view(_IN * _IN, -1, channels)  # (36, tiles, I)
        products = torch.bmm(moved, weight).view(_IN * _IN, -1)  # (36, tiles·O)
        back = torch.mm(self._back, products).view(_OUT, _OUT, batch, down, across, out)
        back = back.permute(2, 3, 0, 4, 1, 5)  # (B, down, 4, across, 4, O)
        found = torch.empty((batch, out, height, width), memory_format=torch.channels_last)
        placed = found.permute(0, 2, 3, 1).view(back.shape)
        if bias is None:
            placed.copy_(back)
        else:
            torch.add(back, bias, out=placed)
        return found
