"""Whether a row of measurements grows: more than by chance, and by how much."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

SURE = 2.326  # standard deviations: one row in a hundred that only wavers would be taken for one that grows


def slopes(row: Sequence[float]) -> list[float]:
    """The slope between every two measurements, sorted; per measurement."""
    return sorted(
        (later - earlier) / (there - here)
        for here, earlier in enumerate(row)
        for there, later in enumerate(row[here + 1 :], here + 1)
    )


def growth(row: Sequence[float]) -> float:
    """By how much a row has surely grown from its first to its last measurement; 0: it may be chance.

    The lower end of the confidence interval of the median slope, which neither a few wild measurements nor
    their distribution move. Source: Sen 1968, https://doi.org/10.1080/01621459.1968.10480934, section 6;
    Kendall's variance without ties.
    """
    count = len(row)
    if count < 4:
        return 0.0
    found = slopes(row)
    spread = SURE * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    rank = math.floor((len(found) - spread) / 2)
    # So short a row could only just rise all the way: then the smallest of its slopes is the bound.
    return max(0.0, found[max(0, rank)] * (count - 1))


def likely(row: Sequence[float]) -> float:
    """By how much a row has grown most likely: its median slope over its length."""
    return statistics.median(slopes(row)) * (len(row) - 1) if len(row) > 1 else 0.0
