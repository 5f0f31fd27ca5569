"""Whether drawn pictures are copies of those that were learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from trainers.evidence.judges import Likeness
from trainers.evidence.record import Memorisation, Pair
from trainers.evidence.references import References

SIDE = 32
WINDOW = 7
CLOSEUPS = (0.8, 0.9)
"""Shares of a side that a part of a picture has: a copy may be cut closer."""


def views(image: Image.Image, side: int = SIDE) -> torch.Tensor:
    """(V, 3, side, side) in [0, 1]: the picture whole, its middle square, and closer parts, then mirrored."""
    width, height = image.size
    boxes = [(0.0, 0.0, float(width), float(height))]
    if max(width, height) > 1.05 * min(width, height):
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        boxes.append((left, top, left + short, top + short))
    left, top, right, bottom = boxes[-1]
    for share in CLOSEUPS:
        wide, high = (right - left) * share, (bottom - top) * share
        for y in (0.0, 0.5, 1.0):
            for x in (0.0, 0.5, 1.0):
                at = left + x * (right - left - wide), top + y * (bottom - top - high)
                boxes.append((*at, at[0] + wide, at[1] + high))
    parts = [
        np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BOX, box=box)) for box in boxes
    ]
    pixels = torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).float() / 255
    return torch.cat([pixels, pixels.flip(-1)])


def _means(pixels: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(pixels, WINDOW, stride=2)


def structural_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(B,): the mean of SSIM over windows and channels of two rows of pictures (B, 3, S, S) in [0, 1].

    Source: Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, equation 13, with square windows of
    `WINDOW` pixels, every second one, and on colours, so that backgrounds count.
    """
    small, large = 0.01**2, 0.03**2
    a, b = _means(first), _means(second)
    spread_a, spread_b = _means(first * first) - a * a, _means(second * second) - b * b
    both = _means(first * second) - a * b
    found = (2 * a * b + small) * (2 * both + large)
    found = found / ((a * a + b * b + small) * (spread_a + spread_b + large))
    return found.mean(dim=(1, 2, 3))


@dataclass(frozen=True, eq=False)
class Nearness:
    """How near each of N pictures comes to each of M. structure, similarity: (N, M); similarity or None."""

    structure: torch.Tensor
    similarity: torch.Tensor | None


def _structures(pictures: Sequence[torch.Tensor], taught: Sequence[torch.Tensor]) -> torch.Tensor:
    """(N, M): the most that any view of one has in common with the other whole, either way round."""
    wholes = torch.stack([views[0] for views in pictures])
    ours = torch.stack([views[0] for views in taught])
    found = torch.empty(len(pictures), len(taught))
    for column, views in enumerate(taught):
        for row, own in enumerate(pictures):
            one = structural_similarity(wholes[row : row + 1].expand(len(views), -1, -1, -1), views).max()
            two = structural_similarity(ours[column : column + 1].expand(len(own), -1, -1, -1), own).max()
            found[row, column] = torch.maximum(one, two)
    return found


def memorisation(
    pictures: Sequence[Image.Image],
    files: Sequence[str],
    references: References,
    judge: Likeness | None,
) -> Memorisation | None:
    """Hold each drawn picture against each that was learned from; None without any."""
    if not pictures or not references.taught:
        return None
    ours = [views(picture) for picture in references.taught]
    structure = _structures([views(picture) for picture in pictures], ours)
    natural = _structures(ours, ours)
    natural.fill_diagonal_(-1)
    most = float(natural.max()) if len(ours) > 1 else 0.5
    threshold = 1 - (1 - most) / 2
    similarity = None
    if judge is not None:
        similarity = judge.image_embeddings(pictures) @ references.embedded(judge, taught=True).T
    pairs = []
    for row, file in enumerate(files):
        column = int(structure[row].argmax())
        pairs.append(
            Pair(
                picture=file,
                nearest=references.names[column],
                similarity=None if similarity is None else round(float(similarity[row, column]), 5),
                structure=round(float(structure[row, column]), 5),
                flagged=float(structure[row, column]) > threshold,
            )
        )
    pairs.sort(key=lambda pair: -pair.structure)
    return Memorisation(
        thresholds={"structure": round(threshold, 5)}, calibrated="pairs of the pictures", pairs=tuple(pairs)
    )
