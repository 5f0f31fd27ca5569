"""Whole differences: of a layer's weight and bias, and of a normalisation's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.methods.method import Method, Part
from pipelines.methods.tensors import misfit, shaped, take

if TYPE_CHECKING:
    import torch

    from pipelines.adapter import AnyFactors


def _row(id: str, label: str, weight_part: Part, bias_part: Part) -> Method:
    def delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
        """Return ΔW as it is kept; a 1×1 convolution's may lack its last sides."""
        return shaped(take(factors, weight)[weight_part.name], weight)

    def bias_delta(factors: AnyFactors, bias: torch.Tensor) -> torch.Tensor | None:
        change = take(factors, bias).get(bias_part.name)
        return None if change is None else shaped(change, bias)

    return Method(
        id=id,
        label=label,
        paper="https://arxiv.org/abs/2309.14859",
        parts=(weight_part, bias_part),
        formats=("lycoris", "pigment"),
        delta=delta,
        bias_delta=bias_delta,
        shape=lambda factors: tuple(int(side) for side in factors.parts[weight_part.name].shape),
        rank=lambda factors: 0,
        misfit=misfit,
    )


FULL = _row(
    "full",
    "Full difference",
    Part(name="diff", lycoris="diff"),
    Part(name="diff_b", lycoris="diff_b", optional=True),
)

NORM = _row(
    "norm",
    "Norm difference",
    Part(name="w_norm", lycoris="w_norm"),
    Part(name="b_norm", lycoris="b_norm", optional=True),
)
