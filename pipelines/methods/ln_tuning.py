"""LN tuning: normalisations whose weights and biases are replaced by trained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from pipelines.methods.method import Method, Part
from pipelines.methods.tensors import base_weight, misfit, shaped, take
from pipelines.methods.tuning import Tuning, tuned

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from pipelines.adapter import AnyFactors


def _delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
    """Return ΔW = W − W₀: the file holds W itself, (width,).

    Source: Zhao et al. 2023, https://arxiv.org/abs/2312.11420, section 3; kept whole as PEFT does.
    """
    base = base_weight(weight)
    own = take(factors, weight)["ln_weight"]
    if own.shape != base.shape:
        raise ValueError(f"it is {tuple(own.shape)} and the base has {tuple(base.shape)}")
    return own - base


def _bias_delta(factors: AnyFactors, bias: torch.Tensor) -> torch.Tensor | None:
    own = take(factors, bias).get("ln_bias")
    return None if own is None else shaped(own, bias) - base_weight(bias)


def _from_peft(
    config: Mapping[str, Any], path: str, parts: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, Any]]:
    return 1.0, {}


def ln_tuning_config(
    rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0
) -> PeftConfig:
    """LN tuning of the named normalisations, from the base's own numbers: identity.

    It has neither rank, alpha nor dropout. Raises: AdapterError for a dropout.
    """
    from peft import LNTuningConfig

    if dropout:
        raise AdapterError(f"LN tuning has no dropout, got {dropout}; give 0")
    return LNTuningConfig(target_modules=list(target_modules))


LN_TUNING = Method(
    id="ln_tuning",
    label="LN tuning",
    paper="https://arxiv.org/abs/2312.11420",
    parts=(
        Part(name="ln_weight", peft="ln_tuning_layers.weight"),
        Part(name="ln_bias", peft="ln_tuning_layers.bias", optional=True),
    ),
    formats=("peft", "pigment"),
    delta=_delta,
    bias_delta=_bias_delta,
    shape=lambda factors: tuple(map(int, factors.parts["ln_weight"].shape)),
    rank=lambda factors: 0,
    misfit=misfit,
    needs_weight=True,
    peft_type="LN_TUNING",
    peft_config=ln_tuning_config,
    from_peft=_from_peft,
    tunings=(
        Tuning(
            id="ln_tuning",
            label="LN tuning",
            paper="https://arxiv.org/abs/2312.11420",
            summary="only the normalisations: tiny, for tones and contrast",
            peft_config=tuned(ln_tuning_config),
            sits_on=("norm",),
            uses=frozenset(),
            by_block=False,
            decays=False,
            learning_rate=1e-3,
        ),
    ),
)
