"""LoRA: ΔW as the product of two thin matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.methods.method import Method, Part

if TYPE_CHECKING:
    from peft import PeftConfig


def lora_config(rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0) -> PeftConfig:
    """LoRA on linear and convolution layers: down is random, up is zero, so it starts as identity.

    rank: columns of `up`. alpha: the scale is alpha / rank. dropout: share of inputs dropped, [0, 1).
    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1; `down` is drawn from a
    normal distribution of standard deviation 1/rank ("gaussian"), as diffusers' scripts do.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        init_lora_weights="gaussian",
        target_modules=list(target_modules),
    )


LORA = Method(
    id="lora",
    label="LoRA",
    paper="https://arxiv.org/abs/2106.09685",
    parts=(
        Part(name="down", peft="lora_A.weight", lycoris="lora_down.weight"),
        Part(name="up", peft="lora_B.weight", lycoris="lora_up.weight"),
    ),
    formats=("kohya", "diffusers"),
    delta=lambda factors, weight: factors.delta(weight),
    shape=lambda factors: factors.weight_shape,
    rank=lambda factors: factors.rank,
    matrices=lambda factors: factors.matrices(),  # type: ignore[arg-type, return-value]
    peft_type="LORA",
    peft_config=lora_config,
    trains=True,
)
