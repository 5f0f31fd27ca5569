"""Attention kernels for a UNet: the table, the trial before one is taken, and how it is put on.

`set_attention_backend` does nothing on UNet2DConditionModel, whose processor calls PyTorch's kernel
itself, so a small processor of our own goes through diffusers' dispatcher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Attention:
    """One kernel.

    backend: its name in diffusers' `AttentionBackendName`; None is the UNet's own processor, which calls
    PyTorch's fused attention. needs: the package or hardware without which it fails, and how to have it.
    """

    label: str
    backend: str | None
    needs: str


_CUDA_HALF = "a CUDA card with --dtype fp16 or bf16"

ATTENTION: dict[str, Attention] = {
    "sdpa": Attention("PyTorch's fused attention", None, "nothing more"),
    "xformers": Attention(
        "xformers",
        "xformers",
        'xformers (pip install "pigment-studio[cuda]") and a CUDA card',
    ),
    "flash": Attention("FlashAttention 2", "flash", f"flash-attn (pip install flash-attn) and {_CUDA_HALF}"),
    "flash3": Attention("FlashAttention 3", "_flash_3", f"flash-attn 3, a Hopper card, and {_CUDA_HALF}"),
    "sage": Attention(
        "SageAttention (8 bits)", "sage", f"sageattention (pip install sageattention) and {_CUDA_HALF}"
    ),
    "native_flash": Attention("PyTorch's flash kernel", "_native_flash", f"a CPU, or {_CUDA_HALF}"),
    "native_efficient": Attention("PyTorch's memory-efficient kernel", "_native_efficient", "a CUDA card"),
    "native_cudnn": Attention("cuDNN's kernel", "_native_cudnn", f"an Ampere card or newer, {_CUDA_HALF}"),
    "native_math": Attention("PyTorch's plain products", "_native_math", "nothing more"),
}


class DispatchedProcessor:
    """diffusers' `AttnProcessor2_0` with the product left to the dispatcher: the same numbers otherwise.

    Source: diffusers 0.42 `AttnProcessor2_0`, Apache-2.0; the call is our own.
    """

    def __init__(self, backend: str) -> None:
        from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

        self.backend = backend
        self._name = AttentionBackendName(backend)
        self._dispatch: Callable[..., torch.Tensor] = dispatch_attention_fn

    def product(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The kernel alone: (B, N, heads, D), key and value (B, L, heads, D) → (B, N, heads, D)."""
        return self._dispatch(query, key, value, attn_mask=mask, backend=self._name)

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        **_: object,
    ) -> torch.Tensor:
        """hidden_states: (B, N, D) or (B, C, H, W); encoder_hidden_states: (B, L, D), None for itself."""
        residual, shape = hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # (B, H·W, C)
        length = (hidden_states if encoder_hidden_states is None else encoder_hidden_states).shape[1]
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, length, shape[0])
            attention_mask = attention_mask.view(shape[0], attn.heads, -1, attention_mask.shape[-1])
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            seen = attn.norm_encoder_hidden_states(encoder_hidden_states)
        query, key, value = (
            layer(x).unflatten(-1, (attn.heads, -1))  # (B, N or L, heads, D/heads)
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, seen), (attn.to_v, seen))
        )
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        hidden_states = self.product(query, key, value, attention_mask)
        hidden_states = hidden_states.flatten(2, 3).to(query.dtype)  # (B, N, D)
        hidden_states = attn.to_out[1](attn.to_out[0](hidden_states))
        if len(shape) == 4:
            hidden_states = hidden_states.transpose(-1, -2).reshape(shape)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        return hidden_states / attn.rescale_output_factor


def failure(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Try a kernel on a small tensor; None when it works, else why it doesn't, in one line."""
    row = ATTENTION[name]
    if row.backend is None:
        return None
    import torch
    from diffusers.models import attention_dispatch
    from torch.nn import functional

    backend = attention_dispatch.AttentionBackendName(row.backend)
    made = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 64, 2, 64, generator=made).to(device, dtype) for _ in range(3))
    try:
        attention_dispatch._check_attention_backend_requirements(backend)
        with torch.no_grad():
            found = attention_dispatch.dispatch_attention_fn(q, k, v, backend=backend).float()
            turned = [x.float().transpose(1, 2) for x in (q, k, v)]
            exact = functional.scaled_dot_product_attention(turned[0], turned[1], turned[2]).transpose(1, 2)
    except Exception as error:  # whatever a missing package, kernel or driver makes of it
        return _first_line(error)
    wrong = float((found - exact).norm() / exact.norm())
    return None if wrong < 0.1 else f"its result differs from the exact one by {wrong:.0%}"


def check_attention(name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raises: ConfigError for an unknown kernel, or one that doesn't run here, with what it needs."""
    if name not in ATTENTION:
        raise ConfigError(f"unknown attention {name!r}{nearest(name, ATTENTION)}")
    if (reason := failure(name, device, dtype)) is not None:
        raise ConfigError(
            f"attention {name!r} doesn't run on {device} in {str(dtype)[6:]} ({reason}); it needs "
            f"{ATTENTION[name].needs}, or choose 'sdpa'"
        )


def put_attention(unet: nn.Module, name: str) -> Callable[[], None]:
    """Let a UNet's attention take a kernel; returns what gives it the processors from before.

    A layer whose processor isn't diffusers' plain one (an image prompt's, say) keeps its own.
    """
    from diffusers.models.attention_processor import Attention as Layer
    from diffusers.models.attention_processor import AttnProcessor2_0

    backend = ATTENTION[name].backend
    own: Any = AttnProcessor2_0() if backend is None else DispatchedProcessor(backend)
    others = (DispatchedProcessor,) if backend is None else (AttnProcessor2_0, DispatchedProcessor)
    layers = [m for m in unet.modules() if isinstance(m, Layer) and isinstance(m.processor, others)]
    before = [(layer, layer.processor) for layer in layers]
    for layer in layers:
        layer.processor = own

    def restore() -> None:
        for layer, processor in before:
            if layer.processor is own:
                layer.processor = processor

    return restore


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160].rstrip(".") if text else type(error).__name__
