"""Delta-LoRA: LoRA whose steps move the base's weight along too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.methods.tuning import Size, Tuning

if TYPE_CHECKING:
    from torch import nn

    from pipelines.methods.layers import DeltaLoRALayer

RATIO = 2.0
"""λ: how much further than LoRA itself the base's weight is moved, the paper's default."""

START = 0.1
"""The share of the steps after which the weight begins to move, K: at first a step of LoRA says little."""


def _layer(module: nn.Module, size: Size) -> DeltaLoRALayer:
    from pipelines.methods.layers import DeltaLoRALayer

    return DeltaLoRALayer(module, size)


DELTA_LORA = Tuning(
    id="delta_lora",
    label="Delta-LoRA",
    paper="https://arxiv.org/abs/2309.02411",
    summary="LoRA that takes the base's weights along at each step, without memory for their gradients",
    layer=_layer,
    sits_on=("linear",),
    uses=frozenset({"rank", "alpha"}),
    learning_rate=1e-4,
    replayable=False,
)
