"""OFT: a layer's inputs are rotated in blocks, by orthogonal matrices of Cayley's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from pipelines.methods.method import Method, Part
from pipelines.methods.peft_config import number, shared_value
from pipelines.methods.tensors import base_weight, misfit, take
from pipelines.methods.tuning import Size, Tuning, divides, sides, tuned

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import nn

    from pipelines.adapter import AnyFactors


_MOST_TERMS = 100


def skew(vectors: torch.Tensor, block: int) -> torch.Tensor:
    """Return skew-symmetric matrices (n, block, block) of their upper triangles (n, block·(block − 1)/2).

    Raises: ValueError for other shapes, which torch only finds out where there are numbers.
    """
    import torch

    if vectors.ndim != 2 or vectors.shape[1] != block * (block - 1) // 2:
        raise ValueError(f"{tuple(vectors.shape)} are no triangles of side {block}")
    rows, columns = torch.triu_indices(block, block, 1, device=vectors.device)
    matrix = vectors.new_zeros(vectors.shape[0], block, block)
    matrix[:, rows, columns] = vectors
    return matrix - matrix.transpose(1, 2)


def cayley(skewed: torch.Tensor, terms: int = 0) -> torch.Tensor:
    """Return (I − Q)(I + Q)⁻¹ of skew-symmetric Q, or a series for it.

    skewed: (n, b, b). terms: of the Neumann series, as PEFT counts them; 0: exact.
    Source: Qiu et al. 2023, https://arxiv.org/abs/2306.07280, section 3.2 (exact, there with the sign
    of Q turned); Qiu et al. 2025 (OFTv2), https://arxiv.org/abs/2506.19847, equation 3: the series
    I + 2Q + 2Q² + … + Qⁿ approximates (I + Q)(I − Q)⁻¹, the inverse of the exact form's rotation for
    the same Q, which is how PEFT has both.
    """
    import torch

    one = torch.eye(skewed.shape[-1], device=skewed.device, dtype=skewed.dtype)
    if not terms:
        return torch.linalg.solve(one + skewed, one - skewed, left=False)
    result, power = one.expand_as(skewed), one.expand_as(skewed)
    for exponent in range(1, terms):
        power = power @ skewed
        # PEFT's last power counts once, unless it is the first.
        result = result + power * (1.0 if exponent == terms - 1 and exponent > 1 else 2.0)
    return result


def _block(size: int) -> int:
    """Return b of b·(b − 1) / 2 numbers."""
    return round((1 + (1 + 8 * size) ** 0.5) / 2)


def _terms(count: int) -> int:
    """Return a number of terms out of a file, if it is a sensible one."""
    if not 0 <= count <= _MOST_TERMS:
        raise ValueError(f"{count} Cayley-Neumann terms, at most {_MOST_TERMS}")
    return count


def _delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
    """Return ΔW = W₀·Rᵀ − W₀, W₀ (out, in·kh·kw), R block-diagonal.

    oft_r: (blocks, b·(b − 1)/2), the upper triangles; one row where blocks are shared.
    Options: neumann_terms (0: exact), coft (the radius that each block is pulled back to; absent: free).
    Source: Qiu et al. 2023, https://arxiv.org/abs/2306.07280, equation 4; rotating the inputs, as PEFT
    does (the paper and LyCORIS rotate the outputs).
    """
    import torch

    base = base_weight(weight).flatten(1)
    vectors = take(factors, weight)["oft_r"]
    block = _block(int(vectors.shape[1]))
    skewed = skew(vectors, block)
    if radius := factors.options.get("coft"):
        limit = float(radius) / vectors.shape[0] ** 0.5
        norm = skewed.norm(dim=(1, 2), keepdim=True)
        skewed = torch.where(norm <= limit, skewed, skewed * (limit / norm.clamp_min(1e-30)))
    rotation = cayley(skewed, _terms(int(factors.options.get("neumann_terms", 0))))
    pieces = base.reshape(base.shape[0], -1, block)  # (out, blocks, b)
    if vectors.shape[0] not in (1, pieces.shape[1]):
        raise ValueError(f"{vectors.shape[0]} blocks for {pieces.shape[1]} of the base")
    turned = torch.einsum("onb,ncb->onc", pieces, rotation.expand(pieces.shape[1], -1, -1))
    return (turned - pieces).reshape(base_weight(weight).shape)


def _from_peft(
    config: Mapping[str, Any], path: str, parts: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, Any]]:
    series = bool(config.get("use_cayley_neumann", True))
    terms = int(number(config.get("num_cayley_neumann_terms", 5), "num_cayley_neumann_terms"))
    if series and not 1 <= terms <= _MOST_TERMS:
        raise AdapterError(
            f"adapter_config.json has {terms} Cayley-Neumann terms; expected 1 to {_MOST_TERMS}"
        )
    options: dict[str, Any] = {"neumann_terms": terms if series else 0}
    if config.get("coft"):
        options["coft"] = number(config.get("eps", 6e-5), "eps")
    if config.get("block_share"):
        options["block_share"] = True
    return 1.0, options


def _fields(factors: Mapping[str, AnyFactors]) -> dict[str, Any]:
    blocks = {path: _block(int(f.parts["oft_r"].shape[1])) for path, f in factors.items()}
    options = {path: f.options for path, f in factors.items()}
    terms = shared_value({p: int(o.get("neumann_terms", 0)) for p, o in options.items()}, "Cayley form")
    radius = shared_value({p: o.get("coft") for p, o in options.items()}, "COFT radius")
    fields: dict[str, Any] = {
        "r": 0,
        "oft_block_size": shared_value(blocks, "OFT block size"),
        "use_cayley_neumann": bool(terms),
        "block_share": shared_value(
            {p: bool(o.get("block_share")) for p, o in options.items()}, "way of sharing blocks"
        ),
        "coft": radius is not None,
    }
    fields |= {"num_cayley_neumann_terms": terms} if terms else {}
    return fields | ({"eps": radius} if radius is not None else {})


def oft_config(rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0) -> PeftConfig:
    """OFT in blocks of `rank` inputs (PEFT takes the nearest size that divides); no alpha. It starts as
    identity. dropout: share of blocks left unturned, [0, 1)."""
    from peft import OFTConfig

    return OFTConfig(r=0, oft_block_size=rank, module_dropout=dropout, target_modules=list(target_modules))


def _tuning_misfit(module: nn.Module, size: Size) -> str | None:
    """PEFT would take another block size without a word."""
    return divides("a block", size.rank, inputs=sides(module)[1])


OFT = Method(
    id="oft",
    label="OFT",
    paper="https://arxiv.org/abs/2306.07280",
    parts=(Part(name="oft_r", peft="oft_R.weight"),),
    formats=("peft", "pigment"),
    delta=_delta,
    shape=lambda factors: None,
    rank=lambda factors: _block(int(factors.parts["oft_r"].shape[1])),
    misfit=misfit,
    needs_weight=True,
    peft_type="OFT",
    peft_config=oft_config,
    peft_fields=_fields,
    from_peft=_from_peft,
    tunings=(
        Tuning(
            id="oft",
            label="OFT",
            paper="https://arxiv.org/abs/2306.07280",
            summary="turns the inputs in blocks and keeps their lengths: holds on to what the base knows",
            peft_config=tuned(oft_config),
            # PEFT unfolds the input of a wider kernel in another order than it folds the weight's.
            sits_on=("linear", "pointwise"),
            misfit=_tuning_misfit,
            # PEFT makes a layer that drops blocks out and never calls it.
            uses=frozenset({"rank"}),
            learning_rate=1e-3,
        ),
    ),
)
