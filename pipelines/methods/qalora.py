"""QA-LoRA: LoRA that sees its input summed up in groups, one number per group of a quantised weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.methods.tuning import Size, Tuning

if TYPE_CHECKING:
    from torch import nn

    from pipelines.methods.layers import QALoRALayer

GROUP = 32
"""Inputs in a group: the paper's."""


def group_for(inner: int) -> int:
    """Return how many inputs make a group: the largest divisor of `inner` that isn't above GROUP."""
    return next(size for size in range(min(GROUP, inner), 0, -1) if inner % size == 0)


def _layer(module: nn.Module, size: Size) -> QALoRALayer:
    from pipelines.methods.layers import QALoRALayer

    return QALoRALayer(module, size)


# What is done: training with the group-wise constraint, and keeping the result as LoRA, exactly. What isn't:
# folding it into the zero points of a weight that is quantised in groups, which is what the constraint is
# for. The quantisers here (`pipelines.quantised`) keep no such zero points that could be written, so the
# change stays beside the weights; who quantises a base in groups of GROUP (or of its divisors) and has its
# zero points at hand can fold it without loss, since ΔW is the same for every input of a group.
QALORA = Tuning(
    id="qalora",
    label="QA-LoRA",
    paper="https://arxiv.org/abs/2309.14717",
    summary="LoRA that is the same over groups of inputs, as weights quantised in groups can take it in",
    layer=_layer,
    sits_on=("linear",),
    uses=frozenset({"rank", "alpha"}),
    learning_rate=2e-4,
)
