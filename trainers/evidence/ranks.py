"""What rank an adapter really uses, and whether making it smaller is worth it; loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.evidence.record import Anatomy

WORTH = 2 / 3
"""Making an adapter smaller is advised down to this share of its rank or less."""


@dataclass(frozen=True, kw_only=True)
class RankAdvice:
    """What rank would do.

    rank: as stored. uses_95, uses_99: the rank at which 95 and 99% of the change stay. worth: whether to
    resize to `uses_99`, see `WORTH`. error: relative error of ΔW at that resize. words: all in a sentence.
    """

    rank: int
    uses_95: int
    uses_99: int
    worth: bool
    error: float
    words: str


def rank_advice(anatomy: Anatomy) -> RankAdvice | None:
    """Say what rank an adapter uses; None for one without ranks, or without a change."""
    uses_95, uses_99, error = anatomy.rank_95, anatomy.rank_99, anatomy.error_99
    if not anatomy.rank or not uses_95 or not uses_99 or error is None:
        return None
    worth = uses_99 <= WORTH * anatomy.rank
    words = _words(anatomy.rank, uses_95, uses_99)
    if worth:
        words += f": resize to {uses_99}, and its change is off by {error:.1%}"
    return RankAdvice(
        rank=anatomy.rank, uses_95=uses_95, uses_99=uses_99, worth=worth, error=error, words=words
    )


def _words(rank: int, uses_95: int, uses_99: int) -> str:
    if uses_99 > rank:  # ΔW of LoHa, LoKr and others spreads over more ranks than they are known by
        return f"as plain LoRA it needs rank {uses_99} for 99% of its change, {uses_95} for 95%"
    of = f"{rank} rank" + ("s" if rank != 1 else "")
    less = f" ({uses_95} for 95%)" if uses_95 != uses_99 else ""
    return f"uses {uses_99} of its {of} for 99% of its change{less}"
