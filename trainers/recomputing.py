"""Parts of the forward pass computed a second time in the backward pass, instead of being kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn

from pipelines.base import Base


def every_block(unet: nn.Module) -> list[nn.Module]:
    """All blocks of layers, as diffusers' own checkpointing takes them."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    return [m for m in unet.modules() if isinstance(m, BasicTransformerBlock | ResnetBlock2D)]


def _large_blocks(unet: nn.Module) -> list[nn.Module]:
    """The feed-forward layers, and the blocks at the latents' full size: most bytes for least work.

    Per sample in bf16 with LoRA of rank 16 on attention this keeps 0.31 GiB of SD 1.x's 0.76 at 512
    pixels (all: 0.14) and 2.9 GiB of SDXL's 5.3 at 1024 (all: 0.42); counted on meta tensors.
    """
    from diffusers.models.attention import FeedForward

    full = [m for block in _full_size(unet) for m in every_block(block)]
    inside = {id(m) for block in full for m in block.modules()}
    others = [m for m in unet.modules() if isinstance(m, FeedForward) and id(m) not in inside]
    return full + others


def _full_size(unet: Any) -> list[nn.Module]:
    """The UNet's blocks whose layers work on latents of the full size."""
    return [unet.down_blocks[0], unet.up_blocks[-1]]


def _no_block(unet: nn.Module) -> list[nn.Module]:
    return []


CHECKPOINTING: dict[str, Callable[[nn.Module], list[nn.Module]]] = {
    "none": _no_block,
    "selective": _large_blocks,
    "all": every_block,
}
"""Which modules of a UNet are computed again in the backward pass; "auto" is the fewest with which a run fits
(see `trainers.fitting`)."""


def modules_of(base: Base, mode: str, trained: Collection[str] = ()) -> list[nn.Module]:
    """Return what is recomputed in a base under a key of CHECKPOINTING.

    trained: component names of the text encoders that learn; their layers are recomputed under "all".
    """
    modules = CHECKPOINTING[mode](base.unet)
    if mode == "all":
        modules += text_layers(base, trained)
    return modules


def text_layers(base: Base, trained: Collection[str]) -> list[nn.Module]:
    """Return the layers of the text encoders that learn."""
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer

    encoders = [base.component(name) for name in base.text_encoders() if name in trained]
    return [m for encoder in encoders for m in encoder.modules() if isinstance(m, CLIPEncoderLayer)]


@contextmanager
def recomputed(modules: Collection[nn.Module]) -> Iterator[None]:
    """Compute modules again in the backward pass, for a while; the gradients are those without it."""
    before = [(module, module.__dict__.get("forward")) for module in modules]
    for module in modules:
        module.forward = _twice(module)
    try:
        yield
    finally:
        for module, forward in before:
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _twice(module: nn.Module) -> Callable[..., Any]:
    forward, inside = module.forward, list(module.modules())

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # Only adapters that drop out are in training mode. Else nothing is drawn, and generators, which
        # can't be asked for their state while a CUDA graph is recorded, are left alone.
        drawing = any(one.training for one in inside)
        return torch.utils.checkpoint.checkpoint(
            forward, *args, use_reentrant=False, preserve_rng_state=drawing, **kwargs
        )

    return run
