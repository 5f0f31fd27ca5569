"""What adapters do to each other in a mix, per block: agreement, shared directions, who dominates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch

from pipelines.adapter import Adapter
from pipelines.balance import balanced_weights
from pipelines.deltas import delta_of, layers_of, modules_by_block
from pipelines.errors import AdapterError, ConfigError, nearest
from pipelines.lowrank import tail_energy

if TYPE_CHECKING:
    from pipelines.base import Base

    Weight = float | tuple[float, float]
    Spectrum = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

__all__ = ["BlockInterference", "Interference", "PairInBlock", "balanced_weights", "interference"]

SUBSPACE_ENERGY = 0.99
"""The subspaces that are compared are those of the leading singular vectors with this share of Σσ²."""

DOMINANCE = 2.0
"""An adapter dominates a block where its energy is at least so many times that of each other one."""

Pair = tuple[str, str]


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
    """What adapters at given weights do to each other: per block, in the model's order, and in all."""

    weights: Mapping[str, tuple[float, float]]
    blocks: Mapping[str, BlockInterference]
    total: BlockInterference

    @property
    def adapters(self) -> tuple[str, ...]:
        """Their names, as they were given."""
        return tuple(self.weights)

    @property
    def rows(self) -> list[tuple[str, BlockInterference]]:
        """The blocks by name, and then all together as "all"."""
        return [*self.blocks.items(), ("all", self.total)]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "adapters": list(self.adapters),
            "weights": {name: list(pair) for name, pair in self.weights.items()},
            "blocks": {block: found.as_dict() for block, found in self.blocks.items()},
            "total": self.total.as_dict(),
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


@dataclass
class _Tally:
    """Sums over the modules of one block."""

    modules: int = 0
    energy: dict[str, float] = field(default_factory=dict)
    inner: dict[Pair, float] = field(default_factory=dict)
    columns: dict[Pair, float] = field(default_factory=dict)
    rows: dict[Pair, float] = field(default_factory=dict)
    mass: dict[Pair, float] = field(default_factory=dict)
    shared: dict[Pair, int] = field(default_factory=dict)

    def add(self, other: _Tally) -> None:
        self.modules += other.modules
        for name in ("energy", "inner", "columns", "rows", "mass", "shared"):
            mine, theirs = getattr(self, name), getattr(other, name)
            for key, value in theirs.items():
                mine[key] = mine.get(key, 0) + value


def interference(
    adapters: Mapping[str, Adapter],
    weights: Mapping[str, Weight] | None = None,
    base: Base | None = None,
    blocks: Mapping[str, Mapping[str, float]] | None = None,
) -> Interference:
    """Measure what adapters do to each other, per block and in all.

    weights: by name, one number or (UNet, text encoders); 1 where None; an adapter that isn't named
    gets 0. base: needed by methods whose ΔW depends on the base's weights. blocks: by name, what its
    weight is multiplied by in some blocks. A module that an adapter doesn't touch counts as a change of 0.
    One module is in memory at a time; where methods have factors, ΔW isn't formed.

    Raises: AdapterError for adapters of several families or that don't fit the base; ConfigError for an
    unknown name or a weight that isn't finite.
    """
    families = sorted({adapter.family for adapter in adapters.values()})
    if len(families) > 1:
        raise AdapterError(f"the adapters are for {' and '.join(families)}; compare adapters of one family")
    if not adapters:
        raise ConfigError("got no adapters to compare; give at least one")
    pairs = dict.fromkeys(adapters, (1.0, 1.0)) if weights is None else _pairs(adapters, weights)
    layers = layers_of(base, adapters.values())
    modules = dict.fromkeys(module for adapter in adapters.values() for module in adapter.factors)
    total, found = _Tally(), {}
    for block, members in modules_by_block(modules).items():
        tally = _Tally()
        scaled = {
            name: (unet * factor, text * factor)
            for name, (unet, text) in pairs.items()
            for factor in [(blocks or {}).get(name, {}).get(block, 1.0)]
        }
        for module in members:
            tally.add(_module(module, adapters, scaled, layers))
        total.add(tally)
        found[block] = _block(tally, tuple(adapters))
    return Interference(weights=pairs, blocks=found, total=_block(total, tuple(adapters)))


def _pairs(adapters: Mapping[str, Adapter], weights: Mapping[str, Weight]) -> dict[str, tuple[float, float]]:
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


def _module(
    module: str,
    adapters: Mapping[str, Adapter],
    weights: Mapping[str, tuple[float, float]],
    layers: Mapping[str, Any] | None,
) -> _Tally:
    """Measure one module."""
    side = 0 if module.startswith("unet.") else 1
    shapes, spectra = {}, {}
    for name, adapter in adapters.items():
        if module in adapter.factors and weights[name][side]:
            delta = delta_of(adapter, module, layers)
            shapes[name], spectra[name] = delta.shape, delta.svd()
    if len(set(shapes.values())) > 1:
        raise AdapterError(
            f"{module} is {' and '.join(str(shape) for shape in sorted(set(shapes.values())))} in these "
            "adapters; compare adapters made for one base"
        )
    scale = {name: weights[name][side] for name in spectra}
    energy = {name: scale[name] ** 2 * float((found[1] ** 2).sum()) for name, found in spectra.items()}
    tally = _Tally(modules=1, energy=energy)
    for first, second in combinations(spectra, 2):
        pair = (first, second)
        tally.shared[pair] = 1
        tally.inner[pair] = scale[first] * scale[second] * inner_product(spectra[first], spectra[second])
        mass = math.sqrt(energy[first] * energy[second])
        tally.mass[pair] = mass
        tally.columns[pair] = mass * overlap(spectra[first], spectra[second], rows=False) if mass else 0.0
        tally.rows[pair] = mass * overlap(spectra[first], spectra[second], rows=True) if mass else 0.0
    return tally


def _block(tally: _Tally, names: Sequence[str]) -> BlockInterference:
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


def inner_product(first: Spectrum, second: Spectrum) -> float:
    """Return ⟨ΔW₁, ΔW₂⟩ of two matrices by their SVDs (U, σ, Vᵀ): Σᵢⱼ σᵢσⱼ (uᵢ·uⱼ)(vᵢ·vⱼ)."""
    columns = (first[0] * first[1]).T @ (second[0] * second[1])  # (r₁, r₂)
    return float((columns * (first[2] @ second[2].T)).sum())


def overlap(first: Spectrum, second: Spectrum, *, rows: bool) -> float:
    """Return how far two matrices share their directions, [0, 1], whatever their signs.

    rows: compare what they read (V) and not what they write (U). Each singular direction of one is
    projected onto the other's subspace; the squared lengths are averaged by energy σ², and the result
    over both ways. For equal energies and ranks this is the mean of the squared cosines of the
    principal angles. Subspaces: see `SUBSPACE_ENERGY`. Unrelated subspaces of r of n dimensions give r/n.

    Source: principal angles, Björck and Golub 1973, https://doi.org/10.2307/2005662; their mean squared
    cosine as Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 7.2; the weighting is ours.
    """
    kept = [_leading(spectrum, rows) for spectrum in (first, second)]
    squares = (kept[0][0].T @ kept[1][0]) ** 2  # (k₁, k₂)
    forth = float((squares.sum(dim=1) * kept[0][1]).sum())
    back = float((squares.sum(dim=0) * kept[1][1]).sum())
    return (forth + back) / 2


def _leading(spectrum: Spectrum, rows: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the leading directions (n, k) and their shares of energy (k,), which add up to 1."""
    left, sigma, right = spectrum
    count = max(1, int((tail_energy(sigma) <= 1 - SUBSPACE_ENERGY).nonzero()[0]))
    energy = sigma[:count] ** 2
    return (right[:count].T if rows else left[:, :count]), energy / energy.sum()


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
