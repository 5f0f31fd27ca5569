"""DoRA: another method's ΔW, after which every output (or input) of the weight gets a learned length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from pipelines.methods.lora import LORA, lora_fields, lora_from_peft
from pipelines.methods.method import Method, Part
from pipelines.methods.tensors import base_weight, misfit
from pipelines.methods.tuning import Tuning, tuned

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from pipelines.adapter import AnyFactors

_MAGNITUDE = Part(name="magnitude", peft="lora_magnitude_vector", lycoris="dora_scale")


def magnitude_axis(magnitude: torch.Tensor, options: Mapping[str, Any]) -> str:
    """Return "output" or "input": what a magnitude belongs to, by its options or else its shape.

    LyCORIS writes (out, 1, …) or (1, in, …); a flat vector is per output.
    """
    if stated := options.get("axis"):
        return str(stated)
    flat = magnitude.ndim < 2 or magnitude.shape[0] > 1 or magnitude.shape[1] == 1
    return "output" if flat else "input"


def decomposed(
    weight: torch.Tensor, change: torch.Tensor, magnitude: torch.Tensor, axis: str
) -> torch.Tensor:
    """Return m · (W₀ + ΔW) / ‖W₀ + ΔW‖ − W₀, fp32.

    weight, change: (out, in) or (out, in, kh, kw). magnitude: `out` or `in` numbers, by `axis`.
    Source: Liu et al. 2024, https://arxiv.org/abs/2402.09353, equation 5. The paper's norm runs over
    each column of a (d, k) weight; PEFT and LyCORIS take it over each output ("output"), kohya's first
    version over each input channel. LyCORIS adds the smallest fp32 step to the norm, PEFT nothing;
    here only a norm of zero is lifted to it.
    """
    import torch

    total = weight + change
    kept = 0 if axis == "output" else 1
    others = [d for d in range(total.ndim) if d != kept]
    norm = torch.linalg.vector_norm(total, dim=others, keepdim=True)
    if magnitude.numel() != norm.numel():
        raise ValueError(f"{magnitude.numel()} magnitudes for {norm.numel()} {axis}s")
    scale = magnitude.reshape(norm.shape) / norm.clamp_min(torch.finfo(torch.float32).eps)
    return total * scale - weight


def with_magnitude(row: Method, id: str, label: str) -> Method:
    """Return the row of a method followed by DoRA's magnitude."""

    def plain(factors: AnyFactors) -> AnyFactors:
        from pipelines.adapter import Factors, LowRank

        parts = {name: part for name, part in factors.parts.items() if name != "magnitude"}
        if row.id == "lora":
            return LowRank(down=parts["down"], up=parts["up"], alpha=factors.alpha)
        return Factors(method=row.id, parts=parts, alpha=factors.alpha, options=factors.options)

    def delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
        base = base_weight(weight)
        change = plain(factors).delta(base).to(base.device)
        if change.shape != base.shape:
            raise ValueError(f"it is {tuple(change.shape)} and the base has {tuple(base.shape)}")
        magnitude = factors.parts["magnitude"].detach().to(base)
        return decomposed(base, change, magnitude, magnitude_axis(magnitude, factors.options))

    return replace(
        row,
        id=id,
        label=label,
        paper="https://arxiv.org/abs/2402.09353",
        parts=(*row.parts, _MAGNITUDE),
        formats=("lycoris", "pigment"),
        delta=delta,
        shape=lambda factors: row.shape(plain(factors)),
        rank=lambda factors: row.rank(plain(factors)),
        misfit=misfit,
        needs_weight=True,
        matrices=None,
        peft_type="",
        peft_config=None,
        peft_fields=None,
        from_peft=None,
        for_peft=None,
        parts_from_peft=None,
        tunings=(),
    )


def dora_config(rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0) -> PeftConfig:
    """LoRA with a magnitude per output, which starts as the base's own norms: identity.

    rank, alpha, dropout: as LoRA's.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        init_lora_weights="gaussian",
        target_modules=list(target_modules),
        use_dora=True,
    )


def _from_peft(
    config: Mapping[str, Any], path: str, parts: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, Any]]:
    alpha, options = lora_from_peft(config, path, parts)
    return alpha, {**options, "axis": "output"}


def _parts_from_peft(
    parts: Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """PEFT has (out,) for linear layers and (1, out, 1, 1) for convolutions; (out, 1, …) here."""
    out, ones = -1, [1] * (parts["down"].ndim - 1)
    return {**parts, "magnitude": parts["magnitude"].reshape(out, *ones)}


def _for_peft(factors: Mapping[str, AnyFactors]) -> dict[str, AnyFactors]:
    from pipelines.adapter import Factors

    ready: dict[str, AnyFactors] = {}
    for path, factor in factors.items():
        magnitude = factor.parts["magnitude"]
        if magnitude_axis(magnitude, factor.options) != "output":
            raise AdapterError("PEFT's DoRA has magnitudes per output, these are per input; write it as LoRA")
        linear = factor.parts["down"].ndim == 2
        flat = magnitude.reshape(-1) if linear else magnitude.reshape(1, -1, 1, 1)
        parts = {**factor.parts, "magnitude": flat}
        ready[path] = Factors(method="dora", parts=parts, alpha=factor.alpha, options=factor.options)
    return ready


DORA = replace(
    with_magnitude(LORA, "dora", "DoRA"),
    formats=("lycoris", "peft", "pigment"),
    peft_type="LORA",
    peft_config=dora_config,
    peft_fields=lambda factors: {**lora_fields(factors), "use_dora": True},
    from_peft=_from_peft,
    parts_from_peft=_parts_from_peft,
    for_peft=_for_peft,
    tunings=(
        Tuning(
            id="dora",
            label="DoRA",
            paper="https://arxiv.org/abs/2402.09353",
            summary="LoRA that learns length and direction apart: closer to full training at small ranks",
            peft_config=tuned(dora_config),
            no_decay=("magnitude",),
        ),
    ),
)
