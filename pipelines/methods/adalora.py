"""AdaLoRA: LoRA with a learned number per direction, by which directions are pruned in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.methods.method import Method, Part
from pipelines.methods.peft_config import number
from pipelines.methods.tensors import misfit, shaped, take
from pipelines.methods.tuning import Tuning, tuned

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from pipelines.adapter import AnyFactors

_EPSILON = 1e-5


def _scale(factors: AnyFactors) -> float:
    """alpha / (r + 1e-5), r the rank that training began with (option `ranknum`), else the present one."""
    return factors.alpha / (float(factors.options.get("ranknum", factors.rank)) + _EPSILON)


def _matrices(factors: AnyFactors, weight: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    parts = take(factors, weight)
    return parts["up"].flatten(1) * _scale(factors), parts["down"].flatten(1) * parts["singular"].reshape(
        -1, 1
    )


def _delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
    """Return ΔW = alpha / (r + 1e-5) · P Λ Q.

    up: P (out, r). singular: Λ (r, 1). down: Q (r, in·kh·kw).
    Source: Zhang et al. 2023, https://arxiv.org/abs/2303.10512, equation 3; the scale is PEFT's, whose
    1e-5 keeps it finite when every direction is pruned.
    """
    up, down = _matrices(factors, weight)
    return shaped(up @ down, weight)


def _from_peft(
    config: Mapping[str, Any], path: str, parts: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, Any]]:
    """PEFT scales by alpha / init_r whatever rank is left; an alpha of 0 or less stands for the rank."""
    start = number(config.get("init_r", 12), "init_r")
    alpha = number(config.get("lora_alpha", 8), "lora_alpha")
    return (alpha if alpha > 0 else start), {"ranknum": start}


def _parts_from_peft(
    parts: Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """A module whose directions are all pruned gets one of zeros: ΔW is the same, and not empty."""
    if parts["singular"].shape[0]:
        return dict(parts)
    down, up = parts["down"], parts["up"]
    return {
        "down": down.new_zeros(1, down.shape[1]),
        "up": up.new_zeros(up.shape[0], 1),
        "singular": up.new_zeros(1, 1),
    }


def _for_peft(factors: Mapping[str, AnyFactors]) -> dict[str, AnyFactors]:
    """State all modules with one alpha and one first rank, the rest folded into the singular values."""
    from pipelines.adapter import Factors

    start = float(max(factor.rank for factor in factors.values()))
    alpha = next(iter(factors.values())).alpha or 1.0
    ready: dict[str, AnyFactors] = {}
    for path, factor in factors.items():
        ratio = _scale(factor) * (start + _EPSILON) / abs(alpha)
        parts = {**factor.parts, "singular": factor.parts["singular"].float() * ratio}
        ready[path] = Factors(method="adalora", parts=parts, alpha=abs(alpha), options={"ranknum": start})
    return ready


def _fields(factors: Mapping[str, AnyFactors]) -> dict[str, Any]:
    """Pruned modules are named in `rank_pattern`, a mask over the first rank."""
    first = next(iter(factors.values()))
    start = int(first.options["ranknum"])
    pruned = {
        f"{path}.lora_E": [index < factor.rank for index in range(start)] for path, factor in factors.items()
    }
    mixed = any(factor.rank != start for factor in factors.values())
    return {
        "init_r": start,
        "target_r": start,
        "r": start,
        "lora_alpha": first.alpha,
        "total_step": 1,
        "rank_pattern": pruned if mixed else None,
    }


def adalora_config(
    rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0
) -> PeftConfig:
    """AdaLoRA from rank 1.5·r down to r; singular values start at zero: identity.

    rank, alpha, dropout: as LoRA's. Training must call `update_and_allocate` each step and set
    `total_step`; the one here is a placeholder of 1,000.
    """
    from peft import AdaLoraConfig

    return AdaLoraConfig(
        init_r=max(rank + 1, rank * 3 // 2),
        target_r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        total_step=1000,
        orth_reg_weight=0.1,
        target_modules=list(target_modules),
    )


ADALORA = Method(
    id="adalora",
    label="AdaLoRA",
    paper="https://arxiv.org/abs/2303.10512",
    parts=(
        Part(name="down", peft="lora_A"),
        Part(name="up", peft="lora_B"),
        Part(name="singular", peft="lora_E"),
    ),
    formats=("peft", "pigment"),
    delta=_delta,
    shape=lambda factors: None,
    rank=lambda factors: int(factors.parts["down"].shape[0]),
    misfit=misfit,
    matrices=_matrices,
    peft_type="ADALORA",
    peft_config=adalora_config,
    peft_fields=_fields,
    from_peft=_from_peft,
    parts_from_peft=_parts_from_peft,
    for_peft=_for_peft,
    tunings=(
        Tuning(
            id="adalora",
            label="AdaLoRA",
            paper="https://arxiv.org/abs/2303.10512",
            summary="LoRA that gives its ranks to the modules that need them",
            peft_config=tuned(adalora_config),
            by_block=False,
            no_decay=("down", "up"),
            allocates_rank=True,
            replayable=False,
            learning_rate=2e-3,
        ),
    ),
)
