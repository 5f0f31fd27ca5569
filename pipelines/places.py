"""The modules of a base that adapters may sit on, and the shapes by which they are told to fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.base import Base


def places(base: Base) -> dict[bool, dict[str, Any]]:
    """The modules of a base that factors may sit on, by canonical name: those with weights, and attentions.

    The key is `on_attention` of the factors.
    """
    return {False: dict(base.weighted()), True: dict(base.attentions())}


def weight_shape(layer: Any) -> tuple[int, ...]:
    """The shape of a layer's weight, (out, in) for a linear one however a quantised base packs it.

    A self-attention has none; (heads, width of a head) stands for it.
    """
    if hasattr(layer, "num_heads"):
        return int(layer.num_heads), int(layer.head_dim)
    if hasattr(layer, "in_features"):
        return int(layer.out_features), int(layer.in_features)
    return tuple(int(side) for side in layer.weight.shape)
