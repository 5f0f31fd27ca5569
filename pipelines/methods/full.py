"""Whole differences: of a layer's weight and bias, and of a normalisation's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.methods.method import Method, Part
from pipelines.methods.tensors import misfit, shaped, take
from pipelines.methods.tuning import Size, Tuning

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipelines.adapter import AnyFactors
    from pipelines.methods.layers import FullLayer


def _layer(module: nn.Module, size: Size) -> FullLayer:
    from pipelines.methods.layers import FullLayer

    return FullLayer(module)


_TUNING = Tuning(
    id="full",
    label="Full fine-tuning",
    paper="https://arxiv.org/abs/2208.12242",
    summary="every number of the chosen layers, as DreamBooth: large files and much memory",
    layer=_layer,
    uses=frozenset(),
    by_block=False,
    learning_rate=2e-5,
)


def _row(id: str, label: str, weight_part: Part, bias_part: Part, tunings: tuple[Tuning, ...] = ()) -> Method:
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
        tunings=tunings,
    )


FULL = _row(
    "full",
    "Full difference",
    Part(name="diff", lycoris="diff"),
    Part(name="diff_b", lycoris="diff_b", optional=True),
    (_TUNING,),
)

NORM = _row(
    "norm",
    "Norm difference",
    Part(name="w_norm", lycoris="w_norm"),
    Part(name="b_norm", lycoris="b_norm", optional=True),
)
