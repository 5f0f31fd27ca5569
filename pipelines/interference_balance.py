"""Which adapter overwrites which in a mix, and the weights at which none does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations

from pipelines.interference import ALIKE, MATTERS, OVERWRITES, Interference

EVEN = 1.4
"""Adapters whose effects differ by less than this factor are balanced already."""

Factors = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Balance:
    """Weights at which adapters change about as much as each other.

    weights: (UNet, text encoders) by adapter, of all that act. blocks: by adapter and block, what its
    factor in that block is to be multiplied by; empty where weights alone do.
    """

    weights: Mapping[str, tuple[float, float]]
    blocks: Factors = field(default_factory=dict)


def overwritten(
    report: Interference, strong: str, weak: str, factors: Factors | None = None
) -> dict[str, float]:
    """Return the blocks where one adapter overwrites another, each with its share of the other's effect².

    There it changes at least `OVERWRITES` times as much, the block `MATTERS` to the other, and their changes
    aren't `ALIKE`; the largest share first. factors: by adapter and block, what their weights are multiplied
    by before.
    """
    mine, theirs = (
        {block: size * (factors or {}).get(one, {}).get(block, 1.0) for block, size in found.items()}
        for one, found in ((strong, report.sizes(strong)), (weak, report.sizes(weak)))
    )
    whole = sum(size**2 for size in theirs.values())
    lost = {}
    for block, size in theirs.items():
        pair = report.pair(strong, weak, block)
        alike = pair is not None and (pair.cosine or 0.0) >= ALIKE
        if size > 0 and mine[block] >= OVERWRITES * size and size**2 >= MATTERS * whole and not alike:
            lost[block] = size**2 / whole
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


def balance_of(report: Interference) -> Balance | None:
    """Propose weights so that none changes much more than another, and none overwrites another in a block.

    Compared are the root sums of squares over blocks. The largest weight becomes 1, as taught, or stays as
    large as the largest is now where that is less; where effects differ by less than `EVEN` the weights
    stay. In blocks where one would still overwrite another it is lowered in that block alone. Signs stay, and
    text encoders' weights keep their proportion unless it is there. None where fewer than two act.
    """
    sizes = {name: math.hypot(*report.sizes(name).values()) for name in report.adapters}
    sizes = {name: size for name, size in sizes.items() if size > 0}
    if len(sizes) < 2:
        return None
    now = {name: report.weights[name] for name in sizes}
    if max(sizes.values()) >= EVEN * min(sizes.values()):
        now = _levelled(now, {name: 1 / size for name, size in sizes.items()})
    return _by_block(report, now)


def _levelled(
    now: Mapping[str, tuple[float, float]], shares: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Multiply weights by shares, so that the largest is as large as the largest was, but 1 at most."""
    largest = max(abs(part) for pair in now.values() for part in pair)
    scaled = {name: (pair[0] * shares[name], pair[1] * shares[name]) for name, pair in now.items()}
    level = min(largest, 1.0) / max(abs(part) for pair in scaled.values() for part in pair)
    return {name: (rounded(pair[0] * level), rounded(pair[1] * level)) for name, pair in scaled.items()}


def _by_block(report: Interference, weights: Mapping[str, tuple[float, float]]) -> Balance:
    """Lower adapters in the blocks where they would still overwrite others at these weights."""
    weights, lowered = dict(weights), dict[str, dict[str, float]]()
    sizes = {name: report.sizes(name) for name in weights}
    for _ in range(len(report.blocks) * len(weights)):
        factors = {
            name: {
                block: _ratio(pair, report.weights[name], block) * lowered.get(name, {}).get(block, 1.0)
                for block in sizes[name]
            }
            for name, pair in weights.items()
        }
        pairs = permutations(weights, 2)
        found = ((pair, block) for pair in pairs for block in overwritten(report, *pair, factors))
        (strong, weak), place = next(found, (("", ""), ""))
        if not place:
            break
        less = sizes[weak][place] * factors[weak][place] / (sizes[strong][place] * factors[strong][place])
        if place.startswith("text_encoder"):
            weights[strong] = (weights[strong][0], rounded(weights[strong][1] * less))
        else:
            own = lowered.setdefault(strong, {})
            own[place] = rounded(own.get(place, 1.0) * less)
    return Balance(weights=weights, blocks=lowered)


def _ratio(pair: tuple[float, float], before: tuple[float, float], block: str) -> float:
    """How much a weight has grown in a block; 1 where it was 0."""
    side = 1 if block.startswith("text_encoder") else 0
    return abs(pair[side] / before[side]) if before[side] else 1.0


def rounded(weight: float) -> float:
    """Two decimals, or two digits of what is small."""
    return round(weight, 2) if abs(weight) >= 0.1 else float(f"{weight:.2g}")
