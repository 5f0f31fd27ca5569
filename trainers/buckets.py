"""Shapes that pictures are learned in: as many pixels as the square, as near to the picture's own as can be.

Sizes are (height, width) in pixels.
Source: aspect-ratio bucketing, NovelAI 2022, https://github.com/NovelAI/novelai-aspect-ratio-bucketing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

Size = tuple[int, int]


def shapes(pixels: int, step: int, aspect: float) -> tuple[Size, ...]:
    """List the shapes (height, width): sides in multiples of `step`, the longest that `pixels` allow.

    aspect: longer side / shorter side is at most this. The square of `pixels` is among them where its side
    is a multiple of `step`; the list is never empty.
    """
    found: set[Size] = set()
    short = step
    while short * short <= pixels:
        long = min(pixels // short, int(short * aspect)) // step * step
        # A shape that the aspect has cut short is smaller than the pixels allow: another one fits better.
        if long >= short and (pixels - short * long < short * step or long == short):
            found |= {(short, long), (long, short)}
        short += step
    if not found:
        side = max(step, int(pixels**0.5) // step * step)
        found = {(side, side)}
    # A square that isn't the largest is a worse square.
    largest = max((h for h, w in found if h == w), default=0)
    return tuple(sorted(size for size in found if size[0] != size[1] or size[0] == largest))


def nearest_shape(size: Size, known: Sequence[Size]) -> Size:
    """Return the shape that cuts least off a picture of `size`; of two alike, the larger one."""
    own = log(size[0] / size[1])
    return min(known, key=lambda one: (abs(log(one[0] / one[1]) - own), -one[0] * one[1], one))


def covering(size: Size, target: Size, zoom: float = 1.0) -> Size:
    """Return the size to scale a picture of `size` to, so that it just covers `target`, times `zoom`."""
    scale = max(target[0] / size[0], target[1] / size[1]) * zoom
    return max(target[0], round(size[0] * scale)), max(target[1], round(size[1] * scale))
