"""The ways to train that learn words: their vectors stand in `Adapter.tokens`, beside whatever factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.methods.tuning import Size, Tuning

if TYPE_CHECKING:
    from peft import PeftConfig


def pivotal_config(size: Size, targets: Sequence[str]) -> PeftConfig:
    """What learns around the words: LoRA."""
    from pipelines.methods.lora import lora_config

    return lora_config(size.rank, size.alpha, targets, size.dropout)


TEXTUAL_INVERSION = Tuning(
    id="textual_inversion",
    label="Textual inversion",
    paper="https://arxiv.org/abs/2208.01618",
    summary="only a word's vectors: a file of some kilobytes that changes nothing of the base",
    sits_on=(),
    components=(),
    uses=frozenset(),
    by_block=False,
    decays=False,
    learning_rate=5e-3,
    tokens=True,
)

PIVOTAL = Tuning(
    id="pivotal",
    label="Pivotal tuning",
    paper="https://arxiv.org/abs/2106.05744",
    summary="a word first, then LoRA around it: a subject that stays apart from its class",
    peft_config=pivotal_config,
    low_rank=lambda size: float(size.alpha),
    tokens=True,
)

TOKENS = (TEXTUAL_INVERSION, PIVOTAL)
"""Kept as LoRA is: an adapter of words alone is one of no modules."""
