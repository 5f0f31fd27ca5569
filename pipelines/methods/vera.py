"""VeRA: LoRA whose random matrices are one frozen pair for all modules, with two learned vectors each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from pipelines.methods.method import Method, Part, Shape
from pipelines.methods.tensors import misfit, shaped, take
from pipelines.methods.tuning import Tuning, tuned

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from pipelines.adapter import AnyFactors


def _shape(factors: AnyFactors) -> Shape | None:
    """None where the shared matrix may be wider than the module (option `in_features` is absent)."""
    inner = factors.options.get("in_features")
    return None if inner is None else (int(factors.parts["lambda_b"].numel()), int(inner))


def _matrices(factors: AnyFactors) -> tuple[torch.Tensor, torch.Tensor] | None:
    shape = _shape(factors)
    return None if shape is None else _product(factors, None, shape[1])


def _product(
    factors: AnyFactors, weight: torch.Tensor | None, inner: int
) -> tuple[torch.Tensor, torch.Tensor]:
    parts = take(factors, weight)
    up, down, left = parts["vera_b"], parts["vera_a"], parts["lambda_b"].reshape(-1, 1)
    if down.shape[1] < inner or up.shape[0] < left.shape[0]:
        raise ValueError("the shared matrices are too small")
    return left * up[: left.shape[0]], parts["lambda_d"].reshape(-1, 1) * down[:, :inner]


def _delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
    """Return ΔW = Λ_b · B · Λ_d · A, (out, in), of the shared matrices' first rows and columns.

    vera_a: (r, ≥ in). vera_b: (≥ out, r). lambda_b: (out,). lambda_d: (r,).
    Source: Kopiczko et al. 2023, https://arxiv.org/abs/2310.11454, equation 2; sliced as PEFT does.
    """
    assert weight is not None
    if weight.ndim != 2:
        raise ValueError("VeRA sits on linear layers only")
    up, down = _product(factors, weight, int(weight.shape[1]))
    return shaped(up @ down, weight)


def _from_peft(
    config: Mapping[str, Any], path: str, parts: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, Any]]:
    return 1.0, {}


def _longest(matrices: list[torch.Tensor], axis: int) -> torch.Tensor:
    """Return the largest of matrices that must be the beginnings of one another along `axis`."""
    import torch

    longest = max(matrices, key=lambda matrix: matrix.shape[axis])
    for matrix in matrices:
        if matrix is longest:
            continue
        beginning = longest.narrow(axis, 0, matrix.shape[axis])
        if beginning.shape != matrix.shape or not torch.equal(beginning, matrix):
            raise AdapterError("PEFT's VeRA shares its matrices, this adapter's differ; write it as LoRA")
    return longest


def _for_peft(factors: Mapping[str, AnyFactors]) -> dict[str, AnyFactors]:
    from pipelines.adapter import Factors

    shared = {
        "vera_a": _longest([factor.parts["vera_a"] for factor in factors.values()], 1),
        "vera_b": _longest([factor.parts["vera_b"] for factor in factors.values()], 0),
    }
    return {
        path: Factors(method="vera", parts={**factor.parts, **shared}, options=factor.options)
        for path, factor in factors.items()
    }


def _fields(factors: Mapping[str, AnyFactors]) -> dict[str, Any]:
    rank = int(next(iter(factors.values())).parts["vera_a"].shape[0])
    return {"r": rank, "save_projection": True}


def vera_config(rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0) -> PeftConfig:
    """VeRA of the given rank; lambda_b starts at zero: identity. It has no alpha.

    dropout: share of inputs dropped, [0, 1). Only through `get_peft_model`.
    """
    from peft import VeraConfig

    return VeraConfig(r=rank, vera_dropout=dropout, target_modules=list(target_modules))


VERA = Method(
    id="vera",
    label="VeRA",
    paper="https://arxiv.org/abs/2310.11454",
    parts=(
        Part(name="vera_a", peft="vera_A", shared=True),
        Part(name="vera_b", peft="vera_B", shared=True),
        Part(name="lambda_b", peft="vera_lambda_b"),
        Part(name="lambda_d", peft="vera_lambda_d"),
    ),
    formats=("peft", "pigment"),
    delta=_delta,
    shape=_shape,
    rank=lambda factors: int(factors.parts["lambda_d"].numel()),
    misfit=misfit,
    needs_weight=True,
    matrices=_matrices,
    peft_type="VERA",
    peft_config=vera_config,
    peft_fields=_fields,
    from_peft=_from_peft,
    for_peft=_for_peft,
    linear_only=True,
    tunings=(
        Tuning(
            id="vera",
            label="VeRA",
            paper="https://arxiv.org/abs/2310.11454",
            summary="LoRA between fixed random matrices that all modules share: few numbers, high ranks",
            peft_config=tuned(vera_config),
            sits_on=("linear",),
            uses=frozenset({"rank", "dropout"}),
            by_block=False,
            learning_rate=3e-3,
        ),
    ),
)
