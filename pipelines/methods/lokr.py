"""LoKr: ΔW as the Kronecker product of a small and a larger matrix, each full or in two factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.methods.loha import alpha_from_peft, lycoris_config
from pipelines.methods.lokr_peft import lokr_fields, lokr_for_peft
from pipelines.methods.method import Method, Part, Shape
from pipelines.methods.peft_config import number, pattern_value
from pipelines.methods.tensors import misfit, shaped, take, tucker
from pipelines.methods.tuning import Size, Tuning

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from pipelines.adapter import AnyFactors

_NAMES = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")


def _rank(factors: AnyFactors) -> int:
    """The rank of the factored half; 0 where both are full."""
    for name in ("lokr_w1_b", "lokr_w2_b"):
        if name in factors.parts:
            return int(factors.parts[name].shape[0])
    return 0


def lokr_scale(factors: AnyFactors) -> float:
    """Return what the product is multiplied by.

    alpha / r as everywhere; but where both halves are full there is no r in the file: LyCORIS and
    ComfyUI then take 1, PEFT alpha / r with the r of its configuration (kept in options as "rank").
    """
    stated = float(factors.options.get("rank", 0))
    rank = _rank(factors) or stated
    return factors.alpha / rank if rank else 1.0


def _halves(parts: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return w1 (a, c) and w2 (b, d·kh·kw)."""
    if (w1 := parts.get("lokr_w1")) is None:
        w1 = parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if (w2 := parts.get("lokr_w2")) is not None:
        return w1, w2.flatten(1)
    if (core := parts.get("lokr_t2")) is not None:
        return w1, tucker(core, parts["lokr_w2_a"], parts["lokr_w2_b"]).flatten(1)
    return w1, parts["lokr_w2_a"] @ parts["lokr_w2_b"].flatten(1)


def _delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
    """Return ΔW = scale · w1 ⊗ w2, out first, (a·b, c·d·kh·kw) or the weight's shape.

    w1: (a, c) or (a, r)·(r, c). w2: (b, d[, kh, kw]), or (b, r)·(r, d·kh·kw), or with a core
    t2 (r, r, kh, kw) and w2_a (r, b), w2_b (r, d).
    Source: Yeh et al. 2023 (LyCORIS), https://arxiv.org/abs/2309.14859, section 3.3. The scale counts
    once, as in LyCORIS' forward, PEFT and ComfyUI; LyCORIS 4.1's own merge squares it.
    """
    import torch

    w1, w2 = _halves(take(factors, weight))
    return shaped(torch.kron(w1, w2) * lokr_scale(factors), weight, _shape(factors))


def _shape(factors: AnyFactors) -> Shape | None:
    """Only an unflattened second half tells."""
    parts = factors.parts
    if "lokr_t2" in parts:
        kernel = parts["lokr_t2"].shape[2:]
        second = (int(parts["lokr_w2_a"].shape[1]), int(parts["lokr_w2_b"].shape[1]))
    elif "lokr_w2" in parts and parts["lokr_w2"].ndim == 4:
        kernel = parts["lokr_w2"].shape[2:]
        second = (int(parts["lokr_w2"].shape[0]), int(parts["lokr_w2"].shape[1]))
    else:
        return None
    if "lokr_w1" in parts:
        first = tuple(parts["lokr_w1"].shape)
    else:
        first = (parts["lokr_w1_a"].shape[0], parts["lokr_w1_b"].shape[1])
    return (int(first[0]) * second[0], int(first[1]) * second[1], *map(int, kernel))


def _from_peft(
    config: Mapping[str, Any], path: str, parts: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, Any]]:
    alpha, _ = alpha_from_peft(config, path, parts)
    rank = number(pattern_value(config.get("rank_pattern"), path, config.get("r", 8)), "r")
    full = "lokr_w1" in parts and "lokr_w2" in parts
    return alpha, {"rank": int(rank)} if full else {}


def _for_lycoris(factors: AnyFactors) -> dict[str, torch.Tensor]:
    """Fold a scale that LyCORIS wouldn't apply, that of two full halves, into the first."""
    parts = dict(factors.parts)
    if not _rank(factors) and (scale := lokr_scale(factors)) != 1.0:
        parts["lokr_w1"] = parts["lokr_w1"].float() * scale
    return parts


def lokr_config(
    rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0, module_dropout: float = 0.0
) -> PeftConfig:
    """LoKr; w1 starts at zero, so that it is identity. dropout: share of ΔW's rows dropped, [0, 1).

    module_dropout: share of passes in which the module's whole change is left out, [0, 1).
    """
    return lycoris_config("LoKrConfig", rank, alpha, target_modules, dropout, module_dropout)


def _tuned(size: Size, targets: Sequence[str]) -> PeftConfig:
    return lokr_config(size.rank, size.alpha, targets, size.dropout, size.module_dropout)


LOKR = Method(
    id="lokr",
    label="LoKr",
    paper="https://arxiv.org/abs/2309.14859",
    parts=tuple(Part(name=name, peft=name, lycoris=name, optional=True) for name in _NAMES),
    formats=("lycoris", "peft", "pigment"),
    delta=_delta,
    shape=_shape,
    rank=_rank,
    misfit=misfit,
    peft_type="LOKR",
    peft_config=lokr_config,
    peft_fields=lokr_fields,
    from_peft=_from_peft,
    for_peft=lokr_for_peft,
    for_lycoris=_for_lycoris,
    tunings=(
        Tuning(
            id="lokr",
            label="LoKr",
            paper="https://arxiv.org/abs/2309.14859",
            summary="a Kronecker product: very small files",
            peft_config=_tuned,
            uses=frozenset({"rank", "alpha", "dropout", "module_dropout"}),
            learning_rate=1e-3,
        ),
    ),
)
