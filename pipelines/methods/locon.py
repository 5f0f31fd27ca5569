"""LoCon: LoRA of a convolution in Tucker's form, with a small kernel between down and up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.methods.method import Method, Part, Shape
from pipelines.methods.tensors import misfit, shaped, take, tucker

if TYPE_CHECKING:
    import torch

    from pipelines.adapter import AnyFactors


def _delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
    """Return ΔW = (alpha / r) · up ×₁ mid ×₂ down, (out, in, kh, kw).

    down: (r, in, 1, 1). mid: (r, r, kh, kw). up: (out, r, 1, 1).
    Source: Yeh et al. 2023 (LyCORIS), https://arxiv.org/abs/2309.14859, section 3.1 and appendix
    (Tucker decomposition): the three convolutions after one another.
    """
    parts = take(factors, weight)
    up, down = parts["up"].flatten(1), parts["down"].flatten(1)
    scale = factors.alpha / down.shape[0]
    return shaped(tucker(parts["mid"], up.T, down) * scale, weight)


def _matrices(factors: AnyFactors) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    parts = take(factors, None)
    up, down = parts["up"].flatten(1), parts["down"].flatten(1)
    inner = torch.einsum("ijkl,jr->irkl", parts["mid"], down).flatten(1)  # (r, in·kh·kw)
    return up * (factors.alpha / down.shape[0]), inner


def _shape(factors: AnyFactors) -> Shape:
    parts = factors.parts
    return (int(parts["up"].shape[0]), int(parts["down"].shape[1]), *map(int, parts["mid"].shape[2:]))


LOCON = Method(
    id="locon",
    label="LoCon (Tucker)",
    paper="https://arxiv.org/abs/2309.14859",
    parts=(
        Part(name="down", lycoris="lora_down.weight"),
        Part(name="mid", lycoris="lora_mid.weight"),
        Part(name="up", lycoris="lora_up.weight"),
    ),
    formats=("lycoris", "pigment"),
    delta=_delta,
    shape=_shape,
    rank=lambda factors: int(factors.parts["down"].shape[0]),
    misfit=misfit,
    matrices=_matrices,
)
