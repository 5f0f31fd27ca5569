"""Prefix vectors: keys and values that every layer of a text encoder can read besides the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.methods.method import Method, Part, Shape
from pipelines.methods.tuning import Size, Tuning

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipelines.adapter import AnyFactors
    from pipelines.methods.layers import PrefixLayer
    from pipelines.methods.method import Terms


def prefix(
    queries: torch.Tensor,
    total: torch.Tensor,
    mixed: torch.Tensor,
    parts: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """Return what prefixes add to the attention of h heads over a text, before its output layer, fp32.

    queries: (B, h, L, d), scaled. total: (B, h, L, 1), the log of the sum of exp(scores) over the text.
    mixed: (B, h, L, d), what attention makes of the text alone. Every position sees every prefix.

    With a gate of 1 the softmax over prefixes and text together comes out, as in prefix tuning: its result
    is (1 − λ) · Attn(text) + λ · Attn(prefixes), where λ is the prefixes' share of the softmax; the gate,
    one number per head that starts at 0, multiplies λ, so that at first nothing changes.

    Source: Liu et al. 2021 (P-Tuning v2), https://arxiv.org/abs/2110.07602, section 3.2, and Li and Liang
    2021, https://arxiv.org/abs/2101.00190, equation 3; λ as He et al. 2021,
    https://arxiv.org/abs/2110.04366, equation 7; a gate from zero as Zhang et al. 2023,
    https://arxiv.org/abs/2303.16199, equation 6. Prefixes are learned themselves, without the MLP that the
    second paper puts before them.
    """
    heads = queries.shape[1]
    keys, values = (
        parts[name].unflatten(-1, (heads, -1)).transpose(0, 1) for name in ("prefix_k", "prefix_v")
    )  # (h, n, d)
    scores = queries @ keys.transpose(-1, -2)  # (B, h, L, n)
    share = (scores.logsumexp(dim=-1, keepdim=True) - total).sigmoid()  # λ
    read = scores.softmax(dim=-1) @ values  # (B, h, L, d)
    change: torch.Tensor = parts["prefix_gate"].reshape(-1, 1, 1) * share * (read - mixed)
    return change


def attend(attention: Any, terms: Terms) -> list[Any]:
    """Let a text encoder's self-attention see prefixes; returns the hooks' handles.

    What the text alone gives is taken from the attention itself, whatever computes it, and changed on the
    way to its output layer: (B, L, h · d).
    """
    import torch

    seen: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    def look(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        mask = named.get("attention_mask", inputs[1] if len(inputs) > 1 else None)
        seen[:] = [(named["hidden_states"] if "hidden_states" in named else inputs[0], mask)]

    def change(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        (hidden, mask), mixed = seen.pop(), inputs[0]
        acting = terms()
        if not acting:
            return None
        by_head = (attention.num_heads, attention.head_dim)
        queries, keys, own = (
            part.float().unflatten(-1, by_head).transpose(1, 2)  # (B, h, L, d)
            for part in (attention.q_proj(hidden), attention.k_proj(hidden), mixed)
        )
        queries = queries * attention.scale
        scores = _masked(queries @ keys.transpose(-1, -2), mask)  # (B, h, L, L)
        total = scores.logsumexp(dim=-1, keepdim=True)
        added = torch.stack([weight * prefix(queries, total, own, parts) for weight, parts in acting])
        flat = added.sum(dim=0).transpose(1, 2).flatten(-2)  # (B, L, h · d)
        return (mixed + flat.to(mixed.dtype), *inputs[1:])

    return [
        attention.register_forward_pre_hook(look, with_kwargs=True),
        attention.out_proj.register_forward_pre_hook(change),
    ]


def _masked(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Leave out what a position mustn't see. mask: what is added, or True where it may; None: the past."""
    import torch

    if mask is None:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(future, float("-inf"))
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, float("-inf"))
    return scores + mask


def _misfit(factors: AnyFactors, shape: Shape) -> str | None:
    """shape: the attention's heads and the width of each."""
    keys, values, gate = (
        tuple(int(side) for side in factors.parts[part.name].shape) for part in PREFIX.parts
    )
    heads, width = shape
    if len(keys) == 2 and keys == values and keys[1] == heads * width and gate == (heads,):
        return None
    return f"it is keys {keys}, values {values}, gate {gate}; the base has {heads} heads of {width}"[:200]


def _layer(module: nn.Module, size: Size) -> PrefixLayer:
    from pipelines.methods.layers import PrefixLayer

    return PrefixLayer(module, size)


PREFIX = Method(
    id="prefix",
    label="Prefix vectors (P-Tuning v2)",
    paper="https://arxiv.org/abs/2110.07602",
    parts=(Part(name="prefix_k"), Part(name="prefix_v"), Part(name="prefix_gate")),
    formats=("pigment",),
    delta=None,
    no_delta="prefix vectors are read besides the text",
    attach=attend,
    on_attention=True,
    shape=lambda factors: None,
    rank=lambda factors: int(factors.parts["prefix_k"].shape[0]),
    misfit=_misfit,
    linear_only=True,
    tunings=(
        Tuning(
            id="prefix",
            label="Prefix vectors (P-Tuning v2)",
            paper="https://arxiv.org/abs/2110.07602",
            summary="learned vectors, as many as the rank, that every layer of the text encoder reads",
            layer=_layer,
            sits_on=("attention",),
            components=("text",),
            uses=frozenset({"rank"}),
            learning_rate=1e-2,
        ),
    ),
)
