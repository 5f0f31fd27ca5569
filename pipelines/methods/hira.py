"""HiRA: ΔW as the elementwise product of the base's weight and a low-rank matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.methods.method import Method, Part
from pipelines.methods.peft_config import common_and_patterns
from pipelines.methods.tensors import base_weight, misfit, shaped, take
from pipelines.methods.tuning import Tuning, tuned

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from pipelines.adapter import AnyFactors


def _delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
    """Return ΔW = W₀ ∘ (B·A).

    hira_a: (r, in[, kh, kw]). hira_b: (out, r[, 1, 1]).
    Source: Huang et al. 2025 (HiRA), https://openreview.net/forum?id=TwJrTz9cRS, equation 3.
    """
    base = base_weight(weight)
    parts = take(factors, weight)
    up, down = parts["hira_b"], parts["hira_a"]
    if down.ndim > 2 and down.shape[1:] != base.shape[1:]:
        raise ValueError(f"it is {tuple(down.shape[1:])} and the base has {tuple(base.shape[1:])}")
    return base * shaped(up.flatten(1) @ down.flatten(1), base)


def _from_peft(
    config: Mapping[str, Any], path: str, parts: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, Any]]:
    return 1.0, {}


def _fields(factors: Mapping[str, AnyFactors]) -> dict[str, Any]:
    rank, ranks = common_and_patterns({path: factor.rank for path, factor in factors.items()})
    return {"r": rank, "rank_pattern": ranks}


def hira_config(rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0) -> PeftConfig:
    """HiRA; B starts at zero: identity. It has no alpha. dropout: share of inputs dropped, [0, 1)."""
    from peft import HiraConfig

    return HiraConfig(r=rank, hira_dropout=dropout, target_modules=list(target_modules))


HIRA = Method(
    id="hira",
    label="HiRA",
    paper="https://openreview.net/forum?id=TwJrTz9cRS",
    parts=(Part(name="hira_a", peft="hira_A"), Part(name="hira_b", peft="hira_B")),
    formats=("peft", "pigment"),
    delta=_delta,
    shape=lambda factors: (
        int(factors.parts["hira_b"].shape[0]),
        *map(int, factors.parts["hira_a"].shape[1:]),
    ),
    rank=lambda factors: int(factors.parts["hira_a"].shape[0]),
    misfit=misfit,
    needs_weight=True,
    peft_type="HIRA",
    peft_config=hira_config,
    peft_fields=_fields,
    peft_reads=("hira_dropout",),
    from_peft=_from_peft,
    tunings=(
        Tuning(
            id="hira",
            label="HiRA",
            paper="https://openreview.net/forum?id=TwJrTz9cRS",
            summary="LoRA times the base's own weights: changes of high rank from few numbers",
            peft_config=tuned(hira_config),
            uses=frozenset({"rank", "dropout"}),
            learning_rate=2e-3,
        ),
    ),
)
