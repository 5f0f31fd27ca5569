"""The fine-tuning methods, one row each.

A row makes the PEFT configuration that puts the method into a component, says which parameters
PEFT trains for it, and which file forms hold it. ΔW of a trained module is `LowRank.delta`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftConfig


@dataclass(frozen=True, kw_only=True)
class Method:
    """One fine-tuning method.

    peft_config(rank, alpha, target_modules, dropout): the PEFT configuration; `target_modules` are
    endings of module names. down, up: PEFT's names of the two factors inside a wrapped layer.
    formats: names of the file forms (see `pipelines.formats.FORMATS`) that hold it.
    """

    id: str
    label: str
    paper: str
    peft_config: Callable[[int, float, Sequence[str], float], PeftConfig]
    down: str
    up: str
    formats: tuple[str, ...]


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


METHODS: dict[str, Method] = {
    "lora": Method(
        id="lora",
        label="LoRA",
        paper="https://arxiv.org/abs/2106.09685",
        peft_config=lora_config,
        down="lora_A",
        up="lora_B",
        formats=("kohya", "diffusers"),
    ),
}
