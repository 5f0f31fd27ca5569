"""What adapters do to each other in a mix, per block: agreement, shared directions, who dominates."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pipelines.adapter import Adapter
from pipelines.balance import balanced_weights
from pipelines.deltas import in_model_order, layers_of, modules_by_block
from pipelines.errors import AdapterError, ConfigError, nearest
from pipelines.interference_sums import Pair, Sums, inner_product, overlap, sums_of

if TYPE_CHECKING:
    from pipelines.base import Base

    Weight = float | tuple[float, float]

__all__ = [
    "BlockInterference",
    "Interference",
    "Meeting",
    "PairInBlock",
    "balanced_weights",
    "inner_product",
    "interference",
    "meeting",
    "overlap",
]

DOMINANCE = 2.0
"""An adapter dominates a block where its energy is at least so many times that of each other one."""

OVERWRITES = 2.0
"""An adapter overwrites another one in a block where its effect is so many times as large. With the embedded
base's examples, all pairs at five weights each, the mix then changes the prediction at a cosine of 0.28 with
what the weaker one does alone, and of 0.81 below that (means)."""

ALIKE = 0.5
"""Cosine from which on two changes are much the same, so that none overwrites the other."""

MATTERS = 0.05
"""A block counts where it holds at least this share of what the weaker one changes in all."""


@dataclass(frozen=True, kw_only=True)
class PairInBlock:
    """Two adapters in one block, each at its weight.

    cosine: of the two changes, [-1, 1]: 1 they push the same way, −1 against each other; None where one
    of them doesn't touch the block. columns, rows: overlap of what they write and of what they read,
    [0, 1], see `overlap`; None where they share no module. shared: modules that both touch.
    """

    cosine: float | None
    columns: float | None
    rows: float | None
    shared: int


@dataclass(frozen=True, kw_only=True)
class BlockInterference:
    """One block. energy: Σ‖wᵢΔWᵢ‖² by adapter, share: of their sum. dominant: see `DOMINANCE`, or None."""

    modules: int
    energy: Mapping[str, float]
    share: Mapping[str, float]
    dominant: str | None
    pairs: Mapping[Pair, PairInBlock]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, pairs as a list."""
        return {
            "modules": self.modules,
            "energy": dict(self.energy),
            "share": dict(self.share),
            "dominant": self.dominant,
            "pairs": [
                {
                    "adapters": list(pair),
                    "cosine": found.cosine,
                    "columns": found.columns,
                    "rows": found.rows,
                    "shared": found.shared,
                }
                for pair, found in self.pairs.items()
            ],
        }


@dataclass(frozen=True, kw_only=True)
class Interference:
    """What adapters at given weights do to each other: per block, in the model's order, and in all.

    effects: by block and adapter, how much it alone changes the prediction there (see `pipelines.effects`);
    None where that wasn't measured.
    """

    weights: Mapping[str, tuple[float, float]]
    blocks: Mapping[str, BlockInterference]
    total: BlockInterference
    effects: Mapping[str, Mapping[str, float]] | None = None

    @property
    def adapters(self) -> tuple[str, ...]:
        """Their names, as they were given."""
        return tuple(self.weights)

    @property
    def rows(self) -> list[tuple[str, BlockInterference]]:
        """The blocks by name, and then all together as "all"."""
        return [*self.blocks.items(), ("all", self.total)]

    def sizes(self, name: str) -> dict[str, float]:
        """Return how much an adapter changes, by block: the measured effect, or ‖wΔW‖ without one."""
        if self.effects is None:
            return {block: math.sqrt(found.energy[name]) for block, found in self.blocks.items()}
        return {block: found.get(name, 0.0) for block, found in self.effects.items()}

    def pair(self, one: str, other: str, block: str | None = None) -> PairInBlock | None:
        """Return what is known of two adapters in a block, or in all; None in blocks without modules."""
        found = self.total if block is None else self.blocks.get(block)
        return None if found is None else found.pairs.get((one, other)) or found.pairs[(other, one)]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "adapters": list(self.adapters),
            "weights": {name: list(pair) for name, pair in self.weights.items()},
            "blocks": {block: found.as_dict() for block, found in self.blocks.items()},
            "total": self.total.as_dict(),
            "effects": None if self.effects is None else {b: dict(own) for b, own in self.effects.items()},
        }

    def as_text(self) -> str:
        """Return the report as two tables: who has the energy, and how the pairs agree."""
        first = max(len("block"), *(len(block) for block, _ in self.rows))
        names = [name[:24] for name in self.adapters]
        lines = ["share of the energy", f"{'block':<{first}}  " + "  ".join(f"{n:>8}" for n in names)
                 + "  dominant"]  # fmt: skip
        for block, found in self.rows:
            cells = "  ".join(
                f"{found.share[name]:>{max(8, len(n))}.0%}"
                for name, n in zip(self.adapters, names, strict=True)
            )
            lines.append(f"{block:<{first}}  {cells}  {found.dominant or '–'}")
        for pair in self.total.pairs:
            lines += ["", f"{pair[0]} and {pair[1]}",
                      f"{'block':<{first}}  cosine  columns  rows  shared modules"]  # fmt: skip
            for block, found in self.rows:
                own = found.pairs[pair]
                lines.append(
                    f"{block:<{first}}  {_number(own.cosine, '+.2f'):>6}  {_number(own.columns, '.2f'):>7}  "
                    f"{_number(own.rows, '.2f'):>4}  {own.shared} of {found.modules}"
                )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Adapters measured against each other at weight 1, from which any other weights follow at once.

    blocks: in the model's order. effects: by adapter and block (see `pipelines.effects.block_effects`); they
    are taken to grow in proportion to the weights, which holds in first order. None: not measured.
    """

    adapters: tuple[str, ...]
    blocks: Mapping[str, Sums]
    effects: Mapping[str, Mapping[str, float]] | None = None

    def at(
        self,
        weights: Mapping[str, Weight] | None = None,
        blocks: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Interference:
        """What they do to each other at these weights; both as in `interference`.

        Raises: ConfigError for an unknown name or a weight that isn't finite.
        """
        ones = dict.fromkeys(self.adapters, (1.0, 1.0))
        pairs = ones if weights is None else _pairs(self.adapters, weights)
        places = in_model_order([*self.blocks, *(b for own in (self.effects or {}).values() for b in own)])
        total, found, effects = Sums(), {}, {}
        for block in places:
            side = 1 if block.startswith("text_encoder") else 0
            scale = {
                name: pair[side] * (blocks or {}).get(name, {}).get(block, 1.0)
                for name, pair in pairs.items()
            }
            if block in self.blocks:
                scaled = self.blocks[block].scaled(scale)
                total.add(scaled)
                found[block] = _block(scaled, self.adapters)
            effects[block] = {
                name: abs(scale[name]) * own.get(block, 0.0) for name, own in (self.effects or {}).items()
            }
        return Interference(
            weights=pairs, blocks=found, total=_block(total, self.adapters),
            effects=None if self.effects is None else effects,
        )  # fmt: skip


def meeting(adapters: Mapping[str, Adapter], base: Base | None = None) -> Meeting:
    """Measure adapters against each other, whatever their weights will be.

    base: needed by methods whose ΔW depends on the base's weights. A module that an adapter doesn't touch
    counts as a change of 0. One module is in memory at a time; where methods have factors, ΔW isn't formed.

    Raises: AdapterError for adapters of several families or that don't fit the base; ConfigError for none.
    """
    families = sorted({adapter.family for adapter in adapters.values()})
    if len(families) > 1:
        raise AdapterError(f"the adapters are for {' and '.join(families)}; compare adapters of one family")
    if not adapters:
        raise ConfigError("got no adapters to compare; give at least one")
    layers = layers_of(base, adapters.values())
    modules = dict.fromkeys(module for adapter in adapters.values() for module in adapter.factors)
    found = {}
    for block, members in modules_by_block(modules).items():
        found[block] = Sums()
        for module in members:
            found[block].add(sums_of(module, adapters, layers))
    return Meeting(adapters=tuple(adapters), blocks=found)


def interference(
    adapters: Mapping[str, Adapter],
    weights: Mapping[str, Weight] | None = None,
    base: Base | None = None,
    blocks: Mapping[str, Mapping[str, float]] | None = None,
) -> Interference:
    """Measure what adapters do to each other, per block and in all.

    weights: by name, one number or (UNet, text encoders); 1 where None; an adapter that isn't named
    gets 0. blocks: by name, what its weight is multiplied by in some blocks. The rest: see `meeting`.

    Raises: AdapterError for adapters of several families or that don't fit the base; ConfigError for an
    unknown name or a weight that isn't finite.
    """
    if weights is not None:
        _pairs(adapters, weights)  # refused before anything is measured
    return meeting(adapters, base).at(weights, blocks)


def _pairs(adapters: Collection[str], weights: Mapping[str, Weight]) -> dict[str, tuple[float, float]]:
    for name, weight in weights.items():
        if name not in adapters:
            raise ConfigError(f"there is a weight for {name!r}{nearest(name, adapters)}")
        pair = weight if isinstance(weight, tuple) else (weight, weight)
        if len(pair) != 2 or not all(isinstance(part, int | float) and math.isfinite(part) for part in pair):
            raise ConfigError(
                f"weight of {name!r} is {weight!r}; give a finite number or (UNet, text encoders)"
            )
    stated = {name: weights.get(name, 0.0) for name in adapters}
    return {
        name: (float(w[0]), float(w[1])) if isinstance(w, tuple) else (float(w), float(w))
        for name, w in stated.items()
    }


def _block(tally: Sums, names: Sequence[str]) -> BlockInterference:
    energy = {name: tally.energy.get(name, 0.0) for name in names}
    whole = sum(energy.values())
    pairs = {}
    for pair in combinations(names, 2):
        size = math.sqrt(energy[pair[0]]) * math.sqrt(energy[pair[1]])
        mass = tally.mass.get(pair, 0.0)
        pairs[pair] = PairInBlock(
            cosine=max(-1.0, min(1.0, tally.inner.get(pair, 0.0) / size)) if size else None,
            columns=min(1.0, tally.columns[pair] / mass) if mass else None,
            rows=min(1.0, tally.rows[pair] / mass) if mass else None,
            shared=tally.shared.get(pair, 0),
        )
    ranking = sorted(energy, key=lambda name: -energy[name])
    ahead = whole > 0 and all(energy[ranking[0]] >= DOMINANCE * energy[name] for name in ranking[1:])
    return BlockInterference(
        modules=tally.modules,
        energy=energy,
        share={name: value / whole if whole else 0.0 for name, value in energy.items()},
        dominant=ranking[0] if ahead and len(names) > 1 else None,
        pairs=pairs,
    )


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
