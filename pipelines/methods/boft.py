"""BOFT: OFT with several block-diagonal rotations, shuffled as a butterfly, and a scale per output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from pipelines.methods.method import Method, Part
from pipelines.methods.oft import cayley
from pipelines.methods.peft_config import shared_value
from pipelines.methods.tensors import base_weight, misfit, take
from pipelines.methods.tuning import Size, Tuning, divides, sides, tuned

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import nn

    from pipelines.adapter import AnyFactors


def butterfly(size: int, blocks: int, half: int) -> torch.Tensor:
    """Return the order of `size` positions for one butterfly factor: in each of `blocks` stretches, the
    even groups of `half` positions first, then the odd ones.

    Source: Liu et al. 2023, https://arxiv.org/abs/2311.06243, section 4; PEFT's `block_butterfly_perm`.
    """
    import torch

    groups = torch.arange(size).reshape(blocks, -1, half)  # (stretch, group, position)
    return torch.cat((groups[:, 0::2], groups[:, 1::2]), dim=1).flatten()


def _delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
    """Return ΔW = s · (W₀·Rᵀ) − W₀, R = Rₙ⋯R₁, each Rᵢ = Pᵢ·blockdiag(Cayley(…))·Pᵢᵀ.

    boft_r: (factors, blocks, b, b), of which the skew half is used. boft_s: one number per output.
    Source: Liu et al. 2023, https://arxiv.org/abs/2311.06243, equations 2 and 4, with PEFT's scale.
    """
    import torch

    base = base_weight(weight).flatten(1)  # (out, n)
    parts = take(factors, weight)
    count, blocks, side, _ = parts["boft_r"].shape
    if blocks * side != base.shape[1] or parts["boft_s"].numel() != base.shape[0]:
        raise ValueError(f"{blocks} blocks of {side} and {parts['boft_s'].numel()} scales")
    turned = base
    for index in range(count):
        matrices = parts["boft_r"][index]
        rotation = cayley(0.5 * (matrices - matrices.transpose(1, 2)))
        order = None
        if count > 1:
            order = butterfly(base.shape[1], blocks // 2**index, side // 2).to(base.device)
            # P moves position order[i] to i; Pᵀ on the inputs, then the blocks, then back.
            turned = turned[:, _inverse(order)]
        pieces = turned.reshape(base.shape[0], blocks, side)
        turned = torch.einsum("onb,ncb->onc", pieces, rotation).reshape(base.shape)
        if order is not None:
            turned = turned[:, order]
    change = turned * parts["boft_s"].reshape(-1, 1) - base
    return change.reshape(base_weight(weight).shape)


def _inverse(order: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.argsort(order)


def _from_peft(
    config: Mapping[str, Any], path: str, parts: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, Any]]:
    return 1.0, {}


def _for_peft(factors: Mapping[str, AnyFactors]) -> dict[str, AnyFactors]:
    """PEFT has the scales as (out, 1) for linear layers and (1, out) for convolutions: as they came."""
    for factor in factors.values():
        if factor.parts["boft_r"].shape[0] != 1:
            raise AdapterError(
                "PEFT reads BOFT of several butterfly factors only with its CUDA extension; write it as LoRA"
            )
    return dict(factors)


def _fields(factors: Mapping[str, AnyFactors]) -> dict[str, Any]:
    sides = {path: int(f.parts["boft_r"].shape[-1]) for path, f in factors.items()}
    return {
        "boft_block_size": shared_value(sides, "BOFT block size"),
        "boft_block_num": 0,
        "boft_n_butterfly_factor": 1,
    }


def boft_config(rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0) -> PeftConfig:
    """BOFT in blocks of `rank` inputs, which must divide every layer's; no alpha. It starts as identity.

    dropout: share of blocks left unturned, [0, 1). One butterfly factor: more need PEFT's CUDA extension.
    """
    from peft import BOFTConfig

    return BOFTConfig(
        boft_block_size=rank,
        boft_n_butterfly_factor=1,
        boft_dropout=dropout,
        target_modules=list(target_modules),
    )


def _tuning_misfit(module: nn.Module, size: Size) -> str | None:
    return divides("a block", size.rank, inputs=sides(module)[1])


BOFT = Method(
    id="boft",
    label="BOFT",
    paper="https://arxiv.org/abs/2311.06243",
    parts=(Part(name="boft_r", peft="boft_R"), Part(name="boft_s", peft="boft_s")),
    formats=("peft", "pigment"),
    delta=_delta,
    shape=lambda factors: None,
    rank=lambda factors: int(factors.parts["boft_r"].shape[-1]),
    misfit=misfit,
    needs_weight=True,
    peft_type="BOFT",
    peft_config=boft_config,
    peft_fields=_fields,
    from_peft=_from_peft,
    for_peft=_for_peft,
    tunings=(
        Tuning(
            id="boft",
            label="BOFT",
            paper="https://arxiv.org/abs/2311.06243",
            summary="OFT by exact rotations, with a scale per output",
            peft_config=tuned(boft_config),
            misfit=_tuning_misfit,
            uses=frozenset({"rank", "dropout"}),
            no_decay=("boft_s",),
            learning_rate=1e-3,
        ),
    ),
)
