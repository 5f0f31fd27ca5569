"""What an adapter is made of: how strong each module's ΔW is, and over how many ranks it spreads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from pipelines.adapter import Adapter
from pipelines.deltas import delta_of, layers_of, modules_by_block
from pipelines.lowrank import tail_energy

if TYPE_CHECKING:
    from pipelines.base import Base

DEAD = 1e-6
"""A module whose ‖ΔW‖ is below this share of the adapter's mean is dead: it learned nothing."""

TOP_RANKS = (1, 4, 16)


@dataclass(frozen=True, kw_only=True)
class ModuleAnatomy:
    """One module's ΔW.

    norm: ‖ΔW‖_F. relative: against ‖W₀‖_F, None without a base. rank: that it is kept in, 0 where the
    method has none. effective_rank, stable_rank: see `effective_rank`, `stable_rank`; 0 for zeros.
    top_energy: share of Σσ² in the first 1, 4, 16 singular values. dead: see `DEAD`.
    """

    block: str
    method: str
    norm: float
    relative: float | None
    rank: int
    effective_rank: float
    stable_rank: float
    top_energy: Mapping[int, float]
    dead: bool


@dataclass(frozen=True, kw_only=True)
class BlockAnatomy:
    """One block: its modules together.

    share: of the adapter's Σ‖ΔW‖². effective_rank: mean over the live modules. dead: how many aren't.
    """

    modules: int
    norm: float
    relative: float | None
    share: float
    effective_rank: float
    dead: int


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What an adapter is made of, per module and per block, blocks in the model's order.

    cut_errors: by rank, from 0: the relative Frobenius error of all ΔW together when every module is cut to
    it; ends in 0.
    """

    name: str
    modules: Mapping[str, ModuleAnatomy]
    blocks: Mapping[str, BlockAnatomy]
    total: BlockAnatomy
    cut_errors: tuple[float, ...]

    @property
    def dead(self) -> tuple[str, ...]:
        """The modules that learned nothing."""
        return tuple(module for module, found in self.modules.items() if found.dead)

    def rank_for(self, energy: float) -> int:
        """Return the lowest rank at which this share of Σ‖ΔW‖² stays when every module is cut to it."""
        return next(rank for rank, error in enumerate(self.cut_errors) if error**2 <= 1 - energy)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        modules = {name: asdict(found) for name, found in self.modules.items()}
        for found in modules.values():
            found["top_energy"] = {str(rank): share for rank, share in found["top_energy"].items()}
        return {
            "name": self.name,
            "total": asdict(self.total),
            "blocks": {block: asdict(found) for block, found in self.blocks.items()},
            "modules": modules,
            "dead": list(self.dead),
        }

    def as_text(self) -> str:
        """Return it as a table, one block a line."""
        rows = [*self.blocks.items(), ("all", self.total)]
        width = max(len(block) for block, _ in rows)
        relative = self.total.relative is not None
        head = f"{'block':<{width}}  modules     ‖ΔW‖"
        lines = [self.name, head + ("  of ‖W₀‖" if relative else "") + "  energy  effective rank  dead"]
        for block, found in rows:
            share = f"  {found.relative or 0.0:>7.2%}" if relative else ""
            lines.append(
                f"{block:<{width}}  {found.modules:>7}  {found.norm:>7.4g}{share}  {found.share:>6.1%}  "
                f"{found.effective_rank:>14.1f}  {found.dead:>4}"
            )
        if self.dead:
            lines.append(f"dead: {', '.join(self.dead[:4])}" + (" …" if len(self.dead) > 4 else ""))
        return "\n".join(lines)


def anatomy(adapter: Adapter, base: Base | None = None) -> Anatomy:
    """Measure an adapter's ΔW per module and per block.

    base: to measure ‖ΔW‖ against ‖W₀‖; needed by methods whose ΔW depends on the base's weights.
    Raises: AdapterError for an adapter that doesn't fit the base.
    """
    layers = layers_of(base, [adapter])
    spectra = {module: delta_of(adapter, module, layers).values() for module in adapter.factors}
    norms = {module: float(values.norm()) for module, values in spectra.items()}
    mean = sum(norms.values()) / max(1, len(norms))
    sizes = {module: math.nan if layers is None else _size(layers[module]) for module in norms}
    blocks = modules_by_block(adapter.factors)
    found = {
        module: ModuleAnatomy(
            block=block,
            method=adapter.factors[module].method,
            norm=norms[module],
            relative=None if layers is None else norms[module] / max(sizes[module], 1e-30),
            rank=adapter.factors[module].rank,
            effective_rank=effective_rank(spectra[module]),
            stable_rank=stable_rank(spectra[module]),
            top_energy=top_energy(spectra[module]),
            dead=norms[module] == 0 or norms[module] < DEAD * mean,
        )
        for block, modules in blocks.items()
        for module in modules
    }
    energy = sum(norm**2 for norm in norms.values())

    def together(modules: list[str]) -> BlockAnatomy:
        norm = math.hypot(*(norms[module] for module in modules))
        live = [found[module].effective_rank for module in modules if not found[module].dead]
        size = math.hypot(*(sizes[module] for module in modules))
        return BlockAnatomy(
            modules=len(modules),
            norm=norm,
            relative=None if layers is None else norm / max(size, 1e-30),
            share=norm**2 / energy if energy else 0.0,
            effective_rank=sum(live) / len(live) if live else 0.0,
            dead=len(modules) - len(live),
        )

    return Anatomy(
        name=adapter.name,
        modules=found,
        blocks={block: together(modules) for block, modules in blocks.items()},
        total=together(list(found)),
        cut_errors=cut_errors(list(spectra.values())),
    )


def cut_errors(spectra: Sequence[torch.Tensor]) -> tuple[float, ...]:
    """Return by rank, 0 … the longest, the relative error of all matrices when each is cut to that rank.

    spectra: singular values of each matrix, falling; the squares of what is cut off add up (Eckart and Young
    1936, https://doi.org/10.1007/BF02288367). (0,) for zeros.
    """
    longest = max((len(values) for values in spectra), default=0)
    energy = torch.zeros(longest + 1, dtype=torch.float64)
    for values in spectra:
        energy[: len(values)] += values.double().cpu() ** 2
    total = float(energy.sum())
    if total == 0:
        return (0.0,)
    beyond = energy.flip(0).cumsum(0).flip(0)  # (longest + 1,): Σσ² beyond the first k values
    return tuple(math.sqrt(float(left) / total) for left in beyond)


def effective_rank(values: torch.Tensor) -> float:
    """Return exp of the entropy of the shares of energy pᵢ = σᵢ² / Σσ²: 1 for one direction, n for n equal.

    Source: Roy and Vetterli 2007, https://infoscience.epfl.ch/record/110188, definition 1; theirs has the
    shares of σ, here those of σ² as everywhere in these reports. 0 for zeros.
    """
    energy = values.double() ** 2
    total = energy.sum()
    if total == 0:
        return 0.0
    shares = energy[energy > 0] / total
    return float((-(shares * shares.log()).sum()).exp())


def stable_rank(values: torch.Tensor) -> float:
    """Return Σσ² / σ₁², 0 for zeros.

    Source: Rudelson and Vershynin 2007, https://arxiv.org/abs/math/0503442, section 1.
    """
    energy = values.double() ** 2
    return float(energy.sum() / energy.max()) if len(energy) and energy.max() > 0 else 0.0


def top_energy(values: torch.Tensor) -> dict[int, float]:
    """Return the share of Σσ² in the first 1, 4, 16 values (1 for zeros)."""
    tail = tail_energy(values)
    return {rank: 1 - float(tail[min(rank, len(values))]) for rank in TOP_RANKS}


def _size(layer: Any) -> float:
    return float(torch.linalg.norm(layer.weight.detach().double()))
