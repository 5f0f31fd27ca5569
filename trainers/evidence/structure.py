"""How alike two pictures are in their pixels, wherever one was cut out of the other, mirrored or not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

SIDE = 32
"""Pixels that pictures are compared in: what is in which place, not how it is drawn."""

WINDOW = 7

SIZES = tuple(range(SIDE, SIDE + 13))
"""Sides that the other picture is given in turn: a part of 32 of 44 pixels is 73% of its side."""

_NOISE, _TINT = 0.06**2, 3.0


def structural_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(B,): how alike pictures (B, 3, S, S) in [0, 1] are, mean over windows and channels; 1: the same.

    Source: Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, equations 6 to 13, over square windows
    of colours. Its luminance term is 1 − 3·|difference of the means|, not below 0, here, since its own hardly
    sees another light background; its second constant is larger, so that an autoencoder's grain in flat parts
    isn't taken for structure.
    """
    a, b = _means(first), _means(second)
    spread = _means(first * first) - a * a + _means(second * second) - b * b
    both = _means(first * second) - a * b
    tint = (1 - _TINT * (a - b).abs()).clamp(min=0)
    return (tint * (2 * both + _NOISE) / (spread + _NOISE)).mean(dim=(1, 2, 3))


def _means(pixels: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(pixels, WINDOW, stride=2)


def sized(images: Sequence[Image.Image], side: int) -> torch.Tensor:
    """(B, 3, side, side) in [0, 1]: the middle square of each picture."""
    found = []
    for image in images:
        width, height = image.size
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
        small = image.convert("RGB").resize((side, side), Image.Resampling.BOX, box=box)
        found.append(np.asarray(small, dtype=np.float32) / 255)
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


def nearness(pictures: Sequence[Image.Image], others: Sequence[Image.Image]) -> torch.Tensor:
    """(N, M): structural similarity of each picture with the part of each other that it fits best.

    The part is a square of 73 to 100% of the side, or its mirror image, wherever they correlate most; so a
    copy is found that was mirrored or cut closer. Only a picture that shows more than the other isn't.
    """
    small = sized(pictures, SIDE)
    fit = torch.full((len(small), len(others)), -2.0)
    parts = torch.zeros(len(small), len(others), *small.shape[1:])
    for size in SIZES:
        straight = sized(others, size)
        for large in (straight, straight.flip(-1)):
            _keep_better(fit, parts, small, large)
    each = small[:, None].expand_as(parts)
    return structural_similarity(each.flatten(0, 1), parts.flatten(0, 1)).view(len(small), -1)


def _keep_better(fit: torch.Tensor, parts: torch.Tensor, small: torch.Tensor, large: torch.Tensor) -> None:
    """Put those parts of M pictures (M, 3, L, L) that fit N smaller ones (N, 3, S, S) better than any before
    into `parts` (N, M, 3, S, S), and how they fit, their correlation −1 … 1, into `fit` (N, M)."""
    count = large.shape[-1] - SIDE + 1
    centred = small - small.mean(dim=(1, 2, 3), keepdim=True)
    length = centred.flatten(1).norm(dim=1).clamp(min=1e-3)
    shared = functional.conv2d(large, centred)  # (M, N, places, places)
    mean = functional.avg_pool2d(large.mean(1, keepdim=True), SIDE, stride=1)
    square = functional.avg_pool2d((large * large).mean(1, keepdim=True), SIDE, stride=1)
    spread = ((square - mean * mean).clamp(min=1e-6) * small[0].numel()).sqrt()  # (M, 1, places, places)
    found, at = (shared / spread).flatten(2).max(-1)
    found, at = (found / length).T, at.T  # (N, M)
    for row, column in (found > fit).nonzero().tolist():
        y, x = divmod(int(at[row, column]), count)
        parts[row, column] = large[column, :, y : y + SIDE, x : x + SIDE]
        fit[row, column] = found[row, column]
