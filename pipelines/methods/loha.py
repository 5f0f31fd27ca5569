"""LoHa: ΔW as the elementwise product of two low-rank matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.methods.method import Method, Part
from pipelines.methods.peft_config import common_and_patterns, number, pattern_value
from pipelines.methods.tensors import misfit, shaped, take
from pipelines.methods.tuning import Size, Tuning

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from pipelines.adapter import AnyFactors


def _half(parts: Mapping[str, torch.Tensor], half: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one half's two matrices, (out, r) and (r, in·kh·kw), Tucker's core folded into the second."""
    import torch

    left, right = parts[f"hada_w{half}_a"], parts[f"hada_w{half}_b"]
    core = parts.get(f"hada_t{half}")
    if core is None:
        return left, right.flatten(1)
    return left.T, torch.einsum("ijkl,jr->irkl", core, right).flatten(1)


def _scale(factors: AnyFactors) -> float:
    return factors.alpha / _rank(factors)


def _rank(factors: AnyFactors) -> int:
    return int(factors.parts["hada_w1_b"].shape[0])


def _delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
    """Return ΔW = (alpha / r) · (w1_a·w1_b) ∘ (w2_a·w2_b), out first.

    w_a: (out, r), w_b: (r, in·kh·kw); with cores t (r, r, kh, kw): w_a (r, out), w_b (r, in).
    Source: Hyeon-Woo et al. 2021 (FedPara), https://arxiv.org/abs/2108.06098, proposition 1 and, for
    convolutions, proposition 3; the scale is LyCORIS' and PEFT's, the paper has none. It counts once, as
    in LyCORIS' forward, PEFT and ComfyUI; LyCORIS 4.1's own merge squares it.
    """
    parts = take(factors, weight)
    (a1, b1), (a2, b2) = _half(parts, "1"), _half(parts, "2")
    return shaped((a1 @ b1) * (a2 @ b2) * _scale(factors), weight, _shape(factors))


def _matrices(factors: AnyFactors) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the products of all pairs of columns and rows, rank r²; None where that isn't small."""
    parts = take(factors, None)
    (a1, b1), (a2, b2) = _half(parts, "1"), _half(parts, "2")
    rank = b1.shape[0] * b2.shape[0]
    if rank > min(a1.shape[0], b1.shape[1]) / 2:
        return None
    up = (a1[:, :, None] * a2[:, None, :]).reshape(a1.shape[0], rank)
    down = (b1[:, None, :] * b2[None, :, :]).reshape(rank, b1.shape[1])
    return up * _scale(factors), down


def _shape(factors: AnyFactors) -> tuple[int, ...] | None:
    """Only Tucker's form tells: the other is flattened."""
    core = factors.parts.get("hada_t1")
    if core is None:
        return None
    left, right = factors.parts["hada_w1_a"], factors.parts["hada_w1_b"]
    return (int(left.shape[1]), int(right.shape[1]), *map(int, core.shape[2:]))


def lycoris_config(
    config_class: str,
    rank: int,
    alpha: float,
    target_modules: Sequence[str],
    dropout: float,
    module_dropout: float,
) -> PeftConfig:
    """A configuration of one of PEFT's LyCORIS tuners, by its class's name; see `loha_config`."""
    import peft

    made: PeftConfig = getattr(peft, config_class)(
        r=rank,
        alpha=alpha,
        rank_dropout=dropout,
        module_dropout=module_dropout,
        target_modules=list(target_modules),
    )
    return made


def loha_config(
    rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0, module_dropout: float = 0.0
) -> PeftConfig:
    """LoHa; w2_b starts at zero, so that it is identity. dropout: share of ΔW's rows dropped, [0, 1).

    module_dropout: share of passes in which the module's whole change is left out, [0, 1).
    """
    return lycoris_config("LoHaConfig", rank, alpha, target_modules, dropout, module_dropout)


def _tuned(size: Size, targets: Sequence[str]) -> PeftConfig:
    return loha_config(size.rank, size.alpha, targets, size.dropout, size.module_dropout)


def alpha_from_peft(
    config: Mapping[str, Any], path: str, parts: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, Any]]:
    """Return a module's alpha of the configuration of PEFT's LyCORIS tuners."""
    return number(pattern_value(config.get("alpha_pattern"), path, config.get("alpha", 8)), "alpha"), {}


def _fields(factors: Mapping[str, AnyFactors]) -> dict[str, Any]:
    rank, ranks = common_and_patterns({path: f.rank for path, f in factors.items()})
    alpha, alphas = common_and_patterns({path: f.alpha for path, f in factors.items()})
    cored = {path: "hada_t1" in f.parts for path, f in factors.items()}
    # A flattened 1×1 convolution or linear layer can't be told from a flattened wider one here. Where
    # both kinds stand side by side, PEFT's own loader says so: it wants a core for each wider one.
    effective = any(cored.values())
    return {
        "r": rank,
        "rank_pattern": ranks,
        "alpha": alpha,
        "alpha_pattern": alphas,
        "use_effective_conv2d": effective,
    }


LOHA = Method(
    id="loha",
    label="LoHa",
    paper="https://arxiv.org/abs/2108.06098",
    parts=(
        *(Part(name=name, peft=name, lycoris=name)
          for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")),
        Part(name="hada_t1", peft="hada_t1", lycoris="hada_t1", optional=True),
        Part(name="hada_t2", peft="hada_t2", lycoris="hada_t2", optional=True),
    ),
    formats=("lycoris", "peft", "pigment"),
    delta=_delta,
    shape=_shape,
    rank=_rank,
    misfit=misfit,
    matrices=_matrices,
    peft_type="LOHA",
    peft_config=loha_config,
    peft_fields=_fields,
    from_peft=alpha_from_peft,
    tunings=(
        Tuning(
            id="loha",
            label="LoHa",
            paper="https://arxiv.org/abs/2108.06098",
            summary="two LoRAs multiplied number by number: higher rank for the same size",
            peft_config=_tuned,
            uses=frozenset({"rank", "alpha", "dropout", "module_dropout"}),
            learning_rate=1e-3,
        ),
    ),
)  # fmt: skip
