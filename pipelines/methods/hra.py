"""HRA: a layer's inputs are mirrored by a chain of Householder reflections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from pipelines.methods.method import Method, Part
from pipelines.methods.peft_config import shared_value
from pipelines.methods.tensors import base_weight, misfit, take
from pipelines.methods.tuning import Tuning, tuned

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from pipelines.adapter import AnyFactors


def _delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
    """Return ΔW = W₀·H₁⋯Hᵣ − W₀, Hᵢ = I − 2·uᵢuᵢᵀ of unit vectors, W₀ (out, in·kh·kw).

    hra_u: (in·kh·kw, r). Option `orthogonal`: the vectors are made orthogonal to one another first.
    Source: Yuan et al. 2024, https://arxiv.org/abs/2405.17484, equations 3 and 5.
    """
    import torch

    base = base_weight(weight).flatten(1)
    vectors = take(factors, weight)["hra_u"]
    if vectors.shape[0] != base.shape[1]:
        raise ValueError(f"vectors of {vectors.shape[0]} for {base.shape[1]} inputs")
    unit = vectors / vectors.norm(dim=0).clamp_min(torch.finfo(torch.float32).tiny)
    if factors.options.get("orthogonal"):
        columns: list[torch.Tensor] = []
        for column in unit.unbind(1):
            for earlier in columns:
                column = column - (earlier @ column) * earlier
            columns.append(column / column.norm().clamp_min(torch.finfo(torch.float32).tiny))
        unit = torch.stack(columns, dim=1)
    turned = base
    for column in unit.unbind(1):
        turned = turned - 2 * torch.outer(turned @ column, column)
    return (turned - base).reshape(base_weight(weight).shape)


def _from_peft(
    config: Mapping[str, Any], path: str, parts: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, Any]]:
    return 1.0, ({"orthogonal": True} if config.get("apply_GS") else {})


def _fields(factors: Mapping[str, AnyFactors]) -> dict[str, Any]:
    ranks = {path: factor.rank for path, factor in factors.items()}
    orthogonal = {path: bool(factor.options.get("orthogonal")) for path, factor in factors.items()}
    return {
        "r": shared_value(ranks, "HRA rank"),
        "apply_GS": shared_value(orthogonal, "way of making HRA's vectors orthogonal"),
    }


def hra_config(rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0) -> PeftConfig:
    """HRA with `rank` reflections; for an even rank they cancel in pairs at the start: identity.

    It has neither alpha nor dropout. Raises: AdapterError for a dropout or an odd rank.
    """
    from peft import HRAConfig

    if dropout or rank % 2:
        raise AdapterError(f"HRA needs an even rank and no dropout, got rank {rank} and dropout {dropout}")
    return HRAConfig(r=rank, target_modules=list(target_modules))


HRA = Method(
    id="hra",
    label="HRA",
    paper="https://arxiv.org/abs/2405.17484",
    parts=(Part(name="hra_u", peft="hra_u"),),
    formats=("peft", "pigment"),
    delta=_delta,
    shape=lambda factors: None,
    rank=lambda factors: int(factors.parts["hra_u"].shape[1]),
    misfit=misfit,
    needs_weight=True,
    peft_type="HRA",
    peft_config=hra_config,
    peft_fields=_fields,
    peft_reads=("apply_GS",),
    from_peft=_from_peft,
    tunings=(
        Tuning(
            id="hra",
            label="HRA",
            paper="https://arxiv.org/abs/2405.17484",
            summary="a chain of mirrors: orthogonal like OFT, small like LoRA",
            peft_config=tuned(hra_config),
            uses=frozenset({"rank"}),
            rank_multiple=2,
            decays=False,
            learning_rate=1e-3,
        ),
    ),
)
