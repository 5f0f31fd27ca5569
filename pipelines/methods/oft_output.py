"""OFT and BOFT as LyCORIS and kohya have them: a layer's outputs are rotated, not its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.methods.method import Method, Part
from pipelines.methods.oft import cayley
from pipelines.methods.tensors import base_weight, misfit, take

if TYPE_CHECKING:
    import torch

    from pipelines.adapter import AnyFactors


def _rotations(factors: AnyFactors, blocks: torch.Tensor, outputs: int) -> torch.Tensor:
    """Return (I + Q)(I − Q)⁻¹ of Q = B − Bᵀ, all of it pulled back to a norm of alpha · outputs.

    An alpha of 0 or less leaves Q free, as in LyCORIS.
    """
    skewed = blocks - blocks.transpose(-1, -2)
    if factors.alpha > 0:
        norm = skewed.norm() + 1e-8
        skewed = skewed * (factors.alpha * outputs / norm).clamp(max=1.0)
    return cayley(-skewed)


def _stage(rows: torch.Tensor, rotation: torch.Tensor, stride: int) -> torch.Tensor:
    """Rotate pairs of groups of rows that lie `stride` apart: one factor of the butterfly.

    rows: (out, n). rotation: (blocks, b, b).
    """
    blocks, side, _ = rotation.shape
    width = rows.shape[1]
    pairs = rows.reshape(-1, 2, stride, width).transpose(1, 2).reshape(blocks, side, width)
    turned = rotation @ pairs
    return turned.reshape(-1, stride, 2, width).transpose(1, 2).reshape(rows.shape)


def _delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
    """Return ΔW = s · R·W₀ − W₀, W₀ (out, in·kh·kw).

    oft_blocks: (blocks, b, b) for OFT, (factors, blocks, b, b) for BOFT. rescale: s, one number per
    output, or absent. alpha: the constraint, see `_rotations`.
    Source: Qiu et al. 2023, https://arxiv.org/abs/2306.07280, equation 4; Liu et al. 2023,
    https://arxiv.org/abs/2311.06243, equation 4. LyCORIS turns OFT's blocks the other way (Rᵀ).
    """
    base = base_weight(weight).flatten(1)
    parts = take(factors, weight)
    rotations = _rotations(factors, parts["oft_blocks"], base.shape[0])
    if rotations.shape[-3] * rotations.shape[-1] != base.shape[0]:
        raise ValueError(f"{rotations.shape[-3]} blocks of {rotations.shape[-1]}")
    turned = base
    if rotations.ndim == 3:
        pieces = base.reshape(rotations.shape[0], rotations.shape[1], -1)
        turned = (rotations.transpose(1, 2) @ pieces).reshape(base.shape)
    else:
        for index, rotation in enumerate(rotations):
            turned = _stage(turned, rotation, 2**index * (rotations.shape[-1] // 2))
    if (scale := parts.get("rescale")) is not None:
        turned = turned * scale.reshape(-1, 1)
    return (turned - base).reshape(base_weight(weight).shape)


OFT_OUTPUT = Method(
    id="oft_output",
    label="OFT on outputs (LyCORIS)",
    paper="https://arxiv.org/abs/2306.07280",
    parts=(
        Part(name="oft_blocks", lycoris="oft_blocks"),
        Part(name="rescale", lycoris="rescale", optional=True),
    ),
    formats=("lycoris", "pigment"),
    delta=_delta,
    shape=lambda factors: None,
    # Not the block size: what the file calls alpha isn't to be divided by anything.
    rank=lambda factors: 0,
    misfit=misfit,
    needs_weight=True,
)
