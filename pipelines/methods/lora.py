"""LoRA: ΔW as the product of two thin matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.methods.delta_lora import DELTA_LORA
from pipelines.methods.method import Method, Part
from pipelines.methods.peft_config import common_and_patterns, number, pattern_value
from pipelines.methods.qalora import QALORA
from pipelines.methods.tokens import TOKENS
from pipelines.methods.tuning import Size, Tuning

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from pipelines.adapter import AnyFactors


def lora_config(
    rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0, **fields: Any
) -> PeftConfig:
    """LoRA on linear and convolution layers: down is random, up is zero, so it starts as identity.

    rank: columns of `up`. alpha: the scale is alpha / rank. dropout: share of inputs dropped, [0, 1).
    fields: further ones of PEFT's configuration.
    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1; `down` is drawn from a
    normal distribution of standard deviation 1/rank ("gaussian"), as diffusers' scripts do.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(target_modules),
        **{"init_lora_weights": "gaussian", **fields},
    )


def _started(size: Size, targets: Sequence[str]) -> PeftConfig:
    """LoRA with one of the starts that need nothing but the base; EVA's is found afterwards."""
    fields: dict[str, Any] = {"init_lora_weights": size.init} if size.init in ("pissa", "olora") else {}
    return lora_config(size.rank, size.alpha, targets, size.dropout, **fields)


def _rank_stabilised(size: Size, targets: Sequence[str]) -> PeftConfig:
    return lora_config(size.rank, size.alpha, targets, size.dropout, use_rslora=True)


def lora_from_peft(
    config: Mapping[str, Any], path: str, parts: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, Any]]:
    """Return a module's alpha of PEFT's configuration; rank-stabilised scales (α/√r) are restated as α/r."""
    rank = int(parts["down"].shape[0])
    alpha = number(
        pattern_value(config.get("alpha_pattern"), path, config.get("lora_alpha", 8)), "lora_alpha"
    )
    return (alpha * rank**0.5 if config.get("use_rslora") else alpha), {}


def lora_fields(factors: Mapping[str, AnyFactors]) -> dict[str, Any]:
    """Return PEFT's rank and alpha fields of modules by path."""
    rank, ranks = common_and_patterns({path: int(f.parts["down"].shape[0]) for path, f in factors.items()})
    alpha, alphas = common_and_patterns({path: f.alpha for path, f in factors.items()})
    return {"r": rank, "rank_pattern": ranks, "lora_alpha": alpha, "alpha_pattern": alphas}


LORA = Method(
    id="lora",
    label="LoRA",
    paper="https://arxiv.org/abs/2106.09685",
    parts=(
        Part(name="down", peft="lora_A.weight", lycoris="lora_down.weight"),
        Part(name="up", peft="lora_B.weight", lycoris="lora_up.weight"),
    ),
    formats=("kohya", "diffusers", "lycoris", "peft", "pigment"),
    delta=lambda factors, weight: factors.delta(weight),
    shape=lambda factors: factors.weight_shape,
    rank=lambda factors: factors.rank,
    matrices=lambda factors: factors.matrices(),
    peft_type="LORA",
    peft_config=lora_config,
    peft_fields=lora_fields,
    from_peft=lora_from_peft,
    tunings=(
        Tuning(
            id="lora",
            label="LoRA",
            paper="https://arxiv.org/abs/2106.09685",
            summary="the one that every tool reads: small, quick, a good start for anything",
            peft_config=_started,
            low_rank=lambda size: float(size.alpha),
            initialisations=("default", "pissa", "olora", "eva"),
        ),
        Tuning(
            id="rslora",
            label="rsLoRA",
            paper="https://arxiv.org/abs/2312.03732",
            summary="LoRA scaled by alpha / √rank: large ranks learn as fast as small ones",
            peft_config=_rank_stabilised,
            low_rank=lambda size: float(size.alpha) * size.rank**0.5,
            learning_rate=5e-5,
        ),
        QALORA,
        DELTA_LORA,
        *TOKENS,
    ),
)
