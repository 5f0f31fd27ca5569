"""MoRA: ΔW from one square matrix between a fixed way into few numbers and a fixed way out of them."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

from pipelines.methods.method import Method, Part, Shape
from pipelines.methods.tensors import misfit, shaped, take
from pipelines.methods.tuning import Size, Tuning

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipelines.adapter import AnyFactors
    from pipelines.methods.layers import MoRALayer


def side_for(rank: int, inner: int, out: int) -> int:
    """Return the side of the square that holds as many numbers as LoRA of a rank: even, 2 at least.

    Source: Jiang et al. 2024, https://arxiv.org/abs/2405.12130, section 3: r̂ = ⌊√((d + k) r)⌋; even, as
    the rotation takes numbers in pairs.
    """
    return max(2, isqrt((inner + out) * rank) // 2 * 2)


def mora(x: torch.Tensor, square: torch.Tensor, out: int) -> torch.Tensor:
    """Return what MoRA adds to a linear layer's output: x (…, in), square (r̂, r̂) → (…, out).

    The input is cut into pieces of r̂ numbers, the last one filled up from the input's beginning. Piece i
    is rotated by i positions as rotary embeddings are, and goes through the square; the results stand one
    after another, cut or repeated to `out`.

    Source: Jiang et al. 2024, https://arxiv.org/abs/2405.12130, equations 7 and 9 (rotation, which the
    paper recommends for small ranks such as 8; sharing, equation 6, is its choice for ranks over 100).
    """
    import torch

    inner, side = x.shape[-1], square.shape[0]
    pieces = -(-inner // side)
    into = torch.arange(pieces * side, device=x.device) % inner
    cut = x.index_select(-1, into).unflatten(-1, (pieces, side))  # (…, pieces, r̂)
    speeds = 10_000.0 ** -(torch.arange(0, side, 2, device=x.device, dtype=torch.float32) / side)
    places = torch.arange(pieces, device=x.device, dtype=torch.float32)
    angles = torch.outer(places, speeds).repeat(1, 2)  # (pieces, r̂)
    turned = torch.cat([-cut[..., side // 2 :], cut[..., : side // 2]], dim=-1)
    rotated = cut * angles.cos().to(x.dtype) + turned * angles.sin().to(x.dtype)
    made = torch.nn.functional.linear(rotated, square).flatten(-2)  # (…, pieces · r̂)
    return made.index_select(-1, torch.arange(out, device=x.device) % (pieces * side))


def _delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
    """Return ΔW (out, in): what `mora` makes of each single input."""
    import torch

    square = take(factors, weight)["mora_m"]
    assert weight is not None
    if weight.ndim != 2:
        raise ValueError("MoRA sits on linear layers only")
    if square.ndim != 2 or square.shape[0] != square.shape[1] or square.shape[0] % 2:
        raise ValueError("its matrix isn't square, of an even side")
    if (stated := _shape(factors)) not in (None, tuple(weight.shape)):
        raise ValueError(f"it is {stated} and the base has {tuple(weight.shape)}")
    out, inner = (int(side) for side in weight.shape)
    each = torch.eye(inner, device=square.device, dtype=torch.float32)
    return shaped(mora(each, square, out).T, weight)


def _shape(factors: AnyFactors) -> Shape | None:
    """As the options `in_features` and `out_features` say, if they do."""
    options = factors.options
    if not {"in_features", "out_features"} <= options.keys():
        return None
    return int(options["out_features"]), int(options["in_features"])


def _layer(module: nn.Module, size: Size) -> MoRALayer:
    from pipelines.methods.layers import MoRALayer

    return MoRALayer(module, size)


MORA = Method(
    id="mora",
    label="MoRA",
    paper="https://arxiv.org/abs/2405.12130",
    parts=(Part(name="mora_m"),),
    formats=("pigment",),
    delta=_delta,
    shape=_shape,
    rank=lambda factors: int(factors.parts["mora_m"].shape[0]),
    misfit=misfit,
    needs_weight=True,
    linear_only=True,
    tunings=(
        Tuning(
            id="mora",
            label="MoRA",
            paper="https://arxiv.org/abs/2405.12130",
            summary="as many numbers as LoRA, in a change of high rank: for much that is new",
            layer=_layer,
            sits_on=("linear",),
            uses=frozenset({"rank"}),
            learning_rate=3e-4,
        ),
    ),
)
