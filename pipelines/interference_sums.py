"""What the changes of two adapters have in common, summed over the modules of a block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch

from pipelines.adapter import Adapter
from pipelines.deltas import delta_of
from pipelines.errors import AdapterError
from pipelines.lowrank import tail_energy

Spectrum = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Pair = tuple[str, str]

SUBSPACE_ENERGY = 0.99
"""The subspaces that are compared are those of the leading singular vectors with this share of Σσ²."""


@dataclass
class Sums:
    """Sums over the modules of one block, of adapters at weight 1 or at others (see `scaled`).

    energy: ‖ΔW‖² by adapter. By pair: inner ⟨ΔW₁, ΔW₂⟩, shared modules, and columns, rows: overlaps times
    mass.
    """

    modules: int = 0
    energy: dict[str, float] = field(default_factory=dict)
    inner: dict[Pair, float] = field(default_factory=dict)
    columns: dict[Pair, float] = field(default_factory=dict)
    rows: dict[Pair, float] = field(default_factory=dict)
    mass: dict[Pair, float] = field(default_factory=dict)
    shared: dict[Pair, int] = field(default_factory=dict)

    def add(self, other: Sums) -> None:
        """Add those of other modules."""
        self.modules += other.modules
        for name in ("energy", "inner", "columns", "rows", "mass", "shared"):
            mine, theirs = getattr(self, name), getattr(other, name)
            for key, value in theirs.items():
                mine[key] = mine.get(key, 0) + value

    def scaled(self, scale: Mapping[str, float]) -> Sums:
        """The sums of the adapters times these numbers. An adapter times 0 touches nothing."""
        both = {pair: scale[pair[0]] * scale[pair[1]] for pair in self.mass}
        size = {pair: abs(value) for pair, value in both.items()}
        return Sums(
            modules=self.modules,
            energy={name: scale[name] ** 2 * value for name, value in self.energy.items()},
            inner={pair: both[pair] * value for pair, value in self.inner.items()},
            columns={pair: size[pair] * value for pair, value in self.columns.items()},
            rows={pair: size[pair] * value for pair, value in self.rows.items()},
            mass={pair: size[pair] * value for pair, value in self.mass.items()},
            shared={pair: value if both[pair] else 0 for pair, value in self.shared.items()},
        )


def sums_of(module: str, adapters: Mapping[str, Adapter], layers: Mapping[str, Any] | None) -> Sums:
    """Measure one module, adapters at weight 1.

    Raises: AdapterError for adapters of several shapes, or whose ΔW can't be formed.
    """
    shapes, spectra = {}, {}
    for name, adapter in adapters.items():
        if module in adapter.factors:
            delta = delta_of(adapter, module, layers)
            shapes[name], spectra[name] = delta.shape, delta.svd()
    if len(set(shapes.values())) > 1:
        raise AdapterError(
            f"{module} is {' and '.join(str(shape) for shape in sorted(set(shapes.values())))} in these "
            "adapters; compare adapters made for one base"
        )
    found = Sums(modules=1, energy={name: float((own[1] ** 2).sum()) for name, own in spectra.items()})
    leading = {name: (_leading(own, False), _leading(own, True)) for name, own in spectra.items()}
    for pair in combinations(spectra, 2):
        first, second = pair
        mass = math.sqrt(found.energy[first] * found.energy[second])
        found.shared[pair], found.mass[pair] = 1, mass
        found.inner[pair] = inner_product(spectra[first], spectra[second])
        found.columns[pair] = mass * _common(leading[first][0], leading[second][0]) if mass else 0.0
        found.rows[pair] = mass * _common(leading[first][1], leading[second][1]) if mass else 0.0
    return found


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
    return _common(_leading(first, rows), _leading(second, rows))


def _common(first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]) -> float:
    squares = (first[0].T @ second[0]) ** 2  # (k₁, k₂)
    forth = float((squares.sum(dim=1) * first[1]).sum())
    back = float((squares.sum(dim=0) * second[1]).sum())
    return (forth + back) / 2


def _leading(spectrum: Spectrum, rows: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the leading directions (n, k) and their shares of energy (k,), which add up to 1."""
    left, sigma, right = spectrum
    count = max(1, int((tail_energy(sigma) <= 1 - SUBSPACE_ENERGY).nonzero()[0]))
    energy = sigma[:count] ** 2
    return (right[:count].T if rows else left[:, :count]), energy / energy.sum()
