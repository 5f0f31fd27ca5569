"""Lets a UNet's frozen parts be computed in one piece, and takes that back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from trainers.frozen import winograd
from trainers.frozen.blocks import FeedForward, Residual, ResnetParts
from trainers.frozen.convolving import Convolution, Convolve, has_tiles, is_plain
from trainers.tuning.low_rank import LowRankLayer

if TYPE_CHECKING:
    from pipelines.base import Base

_BUDGET = 512 * 2**20
"""Bytes that Winograd's weights may take in all, those for the way back included."""

Call = Callable[..., Any]
Instead = Callable[[Any], Call | None]


@contextmanager
def in_one_piece(base: Base, enabled: bool = True) -> Iterator[None]:
    """Let the UNet's frozen parts be computed in one piece while gradients are wanted.

    The numbers are those of the plain UNet up to rounding: on a card in the same kernels, on a CPU in
    others. Enter it after the adapter is in, and before `memory.checkpointing`. Without gradients (previews,
    evaluation), under autocast, and where a part's own weights learn, the UNet computes as it did.
    """
    put: list[tuple[nn.Module, str]] = []
    try:
        if enabled:
            _put(base.unet, put)
        yield
    finally:
        for module, name in put:
            module.__dict__.pop(name, None)


def _put(unet: nn.Module, put: list[tuple[nn.Module, str]]) -> None:
    from diffusers.models.attention import FeedForward as Feeding
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    if any(isinstance(m, nn.GroupNorm) and _learns(m) for m in unet.modules()):
        # PyTorch 2.13 on a CPU ends the process in the gradient of a group norm's weights where its input
        # is channels last, as these convolutions give it, and needs no gradient itself.
        return
    convolutions = _convolutions(unet)
    # On a card they compute their base's answer with their own, in fewer calls.
    owned = {id(m.base_layer) for m in unet.modules() if isinstance(m, LowRankLayer) and m.in_one}
    rows: tuple[tuple[type, str, Instead], ...] = (
        (nn.Conv2d, "forward", lambda module: _convolution(module, convolutions)),
        (ResnetBlock2D, "forward", lambda module: _residual(module, convolutions)),
        (Feeding, "forward", _feeding),
        (Attention, "forward", _attention),
        (Transformer2DModel, "_operate_on_continuous_inputs", _entering),
        (Transformer2DModel, "_get_output_for_continuous_inputs", _leaving),
    )
    for module in unet.modules():
        for kind, name, instead in rows if id(module) not in owned else ():
            if type(module) is not kind or name in module.__dict__ or _watched(module):
                continue
            if (call := instead(module)) is not None:
                setattr(module, name, call)
                put.append((module, name))


def _watched(module: nn.Module) -> bool:
    """Whether somebody wants to be told of what is computed inside."""
    return any(bool(m._forward_hooks or m._forward_pre_hooks) for m in module.modules())


def _convolutions(unet: nn.Module) -> dict[int, Convolution]:
    """A UNet's convolutions by their module's id; the smallest ones get Winograd's weights first."""
    found: list[Any] = [m for m in unet.modules() if is_plain(m) and not _learns(m)]
    room = _BUDGET
    tiled: set[int] = set()
    tiling = [m for m in found if has_tiles(m)]
    for module in sorted(tiling, key=lambda m: winograd.weight_bytes(m.weight)):
        room -= 2 * winograd.weight_bytes(module.weight)
        if room >= 0:
            tiled.add(id(module))
    return {id(m): Convolution(m, id(m) in tiled) for m in found}


def _learns(*modules: nn.Module) -> bool:
    """Whether a module's own weights do, not counting those of modules inside."""
    weights = (p for module in modules for p in module._parameters.values() if p is not None)
    return any(weight.requires_grad for weight in weights)


def _idle(values: torch.Tensor, *modules: nn.Module) -> bool:
    """Whether modules are to be computed in one piece: gradients are wanted, of others than their weights."""
    kind = values.device.type
    if not torch.is_grad_enabled() or (kind != "meta" and torch.is_autocast_enabled(kind)):
        return False
    return not _learns(*modules)


def _applied(function: Any, *arguments: Any) -> torch.Tensor:
    """An autograd function, which is untyped, called."""
    found: torch.Tensor = function.apply(*arguments)
    return found


def _drops(*modules: Any) -> bool:
    """Whether a dropout does anything."""
    return any(type(m) is not nn.Dropout or (m.training and m.p > 0) for m in modules)


def _convolution(module: nn.Conv2d, convolutions: dict[int, Convolution]) -> Call | None:
    """A convolution that keeps nothing."""
    if id(module) not in convolutions:
        return None
    plain, own = module.forward, convolutions[id(module)]

    def forward(values: torch.Tensor) -> torch.Tensor:
        if not _idle(values, module):
            return plain(values)
        return _applied(Convolve, values, own)

    return forward


def _residual(block: Any, convolutions: dict[int, Convolution]) -> Call | None:
    """A residual block in one piece, after its time is projected."""
    known = block.time_embedding_norm == "default" and block.time_emb_proj is not None
    known = known and block.upsample is None and block.downsample is None
    shortcut = [] if block.conv_shortcut is None else [block.conv_shortcut]
    norms, convs = [block.norm1, block.norm2], [block.conv1, block.conv2, *shortcut]
    usual = all(type(m) is nn.GroupNorm and m.affine for m in norms)
    if (
        not known
        or not usual
        or any(id(m) not in convolutions for m in convs)
        or type(block.nonlinearity) is not nn.SiLU
    ):
        return None
    plain, parts = block.forward, ResnetParts(block, convolutions)

    def forward(values: torch.Tensor, temb: torch.Tensor | None, *more: Any, **named: Any) -> torch.Tensor:
        if more or named or _drops(block.dropout) or not _idle(values, *norms, *convs):
            found: torch.Tensor = plain(values, temb, *more, **named)
            return found
        shift = block.time_emb_proj(temb if block.skip_time_act else block.nonlinearity(temb))  # (B, O)
        return _applied(Residual, values, shift, parts)

    return forward


def _feeding(layer: Any) -> Call | None:
    """A feed-forward layer in one piece."""
    from diffusers.models.activations import GEGLU

    if type(layer.net[0]) is not GEGLU:
        return None
    plain, linear, dropouts = layer.forward, (layer.net[0].proj, layer.net[2]), (layer.net[1], *layer.net[3:])
    if any(type(m) is not nn.Linear or type(m.weight) is not nn.Parameter for m in linear):
        return None

    def forward(values: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        if more or named or _drops(*dropouts) or not _idle(values, *linear):
            return plain(values, *more, **named)
        return _applied(FeedForward, values, *linear)

    return forward


def _attention(attention: Any) -> Call | None:
    """diffusers' attention without looking at its processor's signature at every call."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    extras = (attention.spatial_norm, attention.group_norm, attention.norm_q, attention.norm_k)
    other = any(m is not None for m in (*extras, attention.norm_cross)) or attention.residual_connection
    if other or attention.rescale_output_factor != 1.0:
        return None
    plain, heads = attention.forward, attention.heads

    def forward(
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **named: Any,
    ) -> torch.Tensor:
        told = hidden_states.dim() != 3 or attention_mask is not None or bool(named)
        if told or type(attention.processor) is not AttnProcessor2_0 or not torch.is_grad_enabled():
            return plain(hidden_states, encoder_hidden_states, attention_mask, **named)
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(x).unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, heads, N or L, D/heads)
            for layer, x in ((attention.to_q, hidden_states), (attention.to_k, seen), (attention.to_v, seen))
        )
        found = functional.scaled_dot_product_attention(query, key, value)
        found = attention.to_out[0](found.transpose(1, 2).flatten(2))  # (B, N, D)
        return attention.to_out[1](found) if _drops(attention.to_out[1]) else found

    return forward


def _entering(transformer: Any) -> Call | None:
    """Norm and projection into tokens, in the layout that a CPU's convolutions give."""
    weight = _projection(transformer.proj_in)
    if weight is None or type(transformer.norm) is not nn.GroupNorm:
        return None
    plain = transformer._operate_on_continuous_inputs

    def enter(hidden_states: torch.Tensor) -> tuple[torch.Tensor, int]:
        if hidden_states.device.type != "cpu" or not _idle(hidden_states, transformer.proj_in):
            return plain(hidden_states)
        values = transformer.norm(hidden_states).permute(0, 2, 3, 1).flatten(1, 2)  # (B, H·W, C)
        tokens = functional.linear(values, weight(), transformer.proj_in.bias)
        return tokens, tokens.shape[-1]

    return enter


def _leaving(transformer: Any) -> Call | None:
    """Projection back into latents, and what went past."""
    weight = _projection(transformer.proj_out)
    if weight is None:
        return None
    plain = transformer._get_output_for_continuous_inputs

    def leave(*, hidden_states: torch.Tensor, residual: torch.Tensor, **named: Any) -> torch.Tensor:
        if hidden_states.device.type != "cpu" or not _idle(hidden_states, transformer.proj_out):
            return plain(hidden_states=hidden_states, residual=residual, **named)
        values = functional.linear(hidden_states, weight(), transformer.proj_out.bias)
        return values.unflatten(1, residual.shape[2:]).permute(0, 3, 1, 2) + residual

    return leave


def _projection(module: nn.Module) -> Callable[[], torch.Tensor] | None:
    """What gives a projection's weight (O, I), be it linear or a convolution; None for another module."""
    if type(module) is nn.Linear and type(module.weight) is nn.Parameter:
        return lambda: module.weight
    if is_plain(module) and module.kernel_size == module.stride == (1, 1):
        convolution: Any = module
        return lambda: convolution.weight.flatten(1)
    return None
