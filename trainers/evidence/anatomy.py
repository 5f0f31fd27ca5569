"""What an adapter is made of, as a record keeps it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.adapter import Adapter
from pipelines.anatomy import Anatomy as Measured
from pipelines.anatomy import anatomy as measure
from pipelines.deltas import modules_by_block
from pipelines.methods import METHODS
from trainers.evidence.record import Anatomy, Block

if TYPE_CHECKING:
    from pipelines.base import Base

TEXT = "text_encoder"


def anatomy(adapter: Adapter, base: Base | None = None) -> Anatomy:
    """Measure ‖ΔW‖ and effective ranks of an adapter, per block, at weight 1. Uses no chance.

    Methods without ΔW are counted by their modules, dead where a part of one is all zeros.

    base: holds no mix; for ‖ΔW‖ against the base's weights, and needed by methods whose ΔW depends on them.
    Raises: AdapterError for an adapter that doesn't fit the base, or needs one.
    Source: effective rank: Roy and Vetterli 2007, https://infoscience.epfl.ch/record/110188, of shares of σ².
    """
    of_weights = {name: factor for name, factor in adapter.factors.items() if factor.has_delta}
    found = measure(replace(adapter, factors=of_weights, tokens={}), base) if of_weights else None
    beside = {name for name in adapter.factors if name not in of_weights}
    dead = (*(found.dead if found else ()), *(name for name in sorted(beside) if _is_idle(adapter, name)))
    changed = found is not None and found.total.norm > 0
    return Anatomy(
        blocks=_blocks(adapter, found, beside, frozenset(dead)),
        norm=found.total.norm if found else 0.0,
        text_share=min(1.0, _text_share(found)),
        rank=adapter.rank,
        effective_rank=found.total.effective_rank if found and changed else None,
        rank_95=found.rank_for(0.95) if found and changed else None,
        rank_99=found.rank_for(0.99) if found and changed else None,
        error_95=found.cut_errors[found.rank_for(0.95)] if found and changed else None,
        error_99=found.cut_errors[found.rank_for(0.99)] if found and changed else None,
        dead=dead,
        note=_note(adapter, beside),
    )


def _blocks(
    adapter: Adapter, found: Measured | None, beside: set[str], dead: frozenset[str]
) -> tuple[Block, ...]:
    """What there is in each block, in the model's order."""
    blocks = []
    for name, modules in modules_by_block(adapter.factors).items():
        own = found.blocks.get(name) if found else None
        lost = sum(module in dead for module in modules)
        if own is None:
            blocks.append(Block(name=name, modules=len(modules), norm=0.0, share=0.0, dead=lost))
            continue
        live = own.dead < own.modules
        blocks.append(
            Block(
                name=name,
                modules=len(modules),
                norm=own.norm,
                relative=own.relative,
                share=own.share,
                rank=own.effective_rank if live else None,
                dead=lost,
            )
        )
    return tuple(blocks)


def _text_share(found: Measured | None) -> float:
    if found is None:
        return 0.0
    return sum(block.share for name, block in found.blocks.items() if name.startswith(TEXT))


def _is_idle(adapter: Adapter, module: str) -> bool:
    """Whether a part of what works beside the weights was never learned: it is all zeros."""
    return any(not part.any() for part in adapter.factors[module].parts.values())


def _note(adapter: Adapter, beside: set[str]) -> str:
    """What couldn't be measured, in a sentence; empty where all was."""
    if not adapter.factors:
        words = ", ".join(sorted(adapter.tokens))
        return f"learned words alone ({words}); no weight changes" if words else "nothing changes"
    methods = sorted({adapter.factors[name].method for name in beside})
    if not methods:
        return ""
    what = "; ".join(METHODS[method].no_delta for method in methods)
    return f"{what}: they have no ΔW to measure, only their {len(beside)} modules are counted"
