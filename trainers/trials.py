"""Short trials on a base's own layers and shapes: how long a kernel takes forwards and backwards."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from pipelines.attention import ATTENTION, DispatchedProcessor, put_attention

if TYPE_CHECKING:
    from pipelines.base import Base

_WARM, _TIMED = 2, 5
_SIDE = 32
"""Of the latents that blocks are tried on at most, so that a trial takes about a second."""
_LENGTH = 77
"""Of a prompt in tokens."""
_PACKAGES = ("torch", "diffusers", "xformers", "flash-attn")


class Trial:
    """Measures on one base at one shape; each figure takes a few passes.

    batch: pictures at once. side: of the latents.
    """

    def __init__(self, base: Base, batch: int, side: int) -> None:
        self._base, self._batch, self._side = base, batch, side
        self._made = torch.Generator().manual_seed(0)

    def _random(self, *shape: int) -> torch.Tensor:
        numbers = torch.randn(*shape, generator=self._made)
        return numbers.to(self._base.device, self._base.unet.dtype)

    def attention(self, name: str) -> float:
        """Seconds of attention at the UNet's largest shape, to itself and to a prompt, both ways."""
        layer, side = self._widest()
        width, total = layer.inner_dim, 0.0
        undo = put_attention(self._base.unet, name)
        try:
            for length in (side * side, _LENGTH):
                query = self._random(self._batch, side * side, width)
                seen = self._random(self._batch, length, width)
                total += self._both_ways(lambda q, s: _attend(layer, q, s), query, seen)
        finally:
            undo()
        return total

    def _widest(self) -> tuple[Any, int]:
        """The attention to itself at the largest latents, and their side."""
        from diffusers.models.attention import BasicTransformerBlock

        unet: Any = self._base.unet
        for level, block in enumerate(unet.down_blocks):
            for module in block.modules():
                if isinstance(module, BasicTransformerBlock):
                    return module.attn1, max(1, self._side >> level)
        module = next(m for m in unet.mid_block.modules() if isinstance(m, BasicTransformerBlock))
        return module.attn1, max(1, self._side >> (len(unet.down_blocks) - 1))

    def convolutions(self, last: bool) -> float:
        """Seconds of one convolution of every level, forwards and to its input."""
        unet: Any = self._base.unet
        how = torch.channels_last if last else torch.contiguous_format
        total = 0.0
        for level, block in enumerate(unet.down_blocks):
            layer = block.resnets[-1].conv2
            weight = layer.weight.detach().contiguous(memory_format=how)
            side = max(1, self._side >> level)
            values = self._random(self._batch, weight.shape[1], side, side).contiguous(memory_format=how)
            total += self._both_ways(lambda x, w=weight: torch.conv2d(x, w, padding=1), values)
        return total

    def block(self, half: bool = False) -> float:
        """Seconds of the first residual block and the first layer of attention with its feed-forward."""
        from diffusers.models.attention import BasicTransformerBlock

        unet: Any = self._base.unet
        resnet = unet.down_blocks[0].resnets[0]
        layer = next(m for m in unet.modules() if isinstance(m, BasicTransformerBlock))
        shrink = max(1, self._side // _SIDE)
        outer, side = self._side // shrink, max(1, self._widest()[1] // shrink)
        told = self._random(self._batch, _LENGTH, unet.config["cross_attention_dim"])
        time_embedding = self._random(self._batch, resnet.time_emb_proj.in_features)
        values = self._random(self._batch, resnet.in_channels, outer, outer)
        tokens = self._random(self._batch, side * side, layer.norm1.normalized_shape[0])
        kind = self._base.device.type
        with torch.autocast(kind, torch.bfloat16) if half else nullcontext():
            return self._both_ways(lambda x: resnet(x, time_embedding), values) + self._both_ways(
                lambda x: layer(x, encoder_hidden_states=told), tokens
            )

    def _both_ways(self, call: Callable[..., torch.Tensor], *values: torch.Tensor) -> float:
        """Seconds of a call and its gradient, the median of some."""
        inputs = [value.detach().requires_grad_() for value in values]
        cuda = self._base.device.type == "cuda"
        taken = []
        for _ in range(_WARM + _TIMED):
            began = time.perf_counter()
            with torch.enable_grad():
                found = call(*inputs)
                torch.autograd.grad(found, inputs, torch.ones_like(found))
            if cuda:
                torch.cuda.synchronize(self._base.device)
            taken.append(time.perf_counter() - began)
        return median(taken[_WARM:])


def _attend(layer: Any, query: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """A layer's kernel alone, without its projections."""
    processor = layer.processor
    parts = [x.unflatten(-1, (layer.heads, -1)) for x in (query, seen, seen)]  # (B, N, heads, D)
    if isinstance(processor, DispatchedProcessor):
        return processor.product(*parts)
    turned = [part.transpose(1, 2) for part in parts]
    return torch.nn.functional.scaled_dot_product_attention(*turned).transpose(1, 2)


def attention_of(base: Base) -> str:
    """The kernel that a UNet's attention takes now, a key of ATTENTION."""
    for module in base.unet.modules():
        if isinstance(processor := getattr(module, "processor", None), DispatchedProcessor):
            return next(name for name, row in ATTENTION.items() if row.backend == processor.backend)
    return "sdpa"


def is_channels_last(base: Base) -> bool:
    """Whether a UNet's convolutions lie with channels last."""
    unet: Any = base.unet
    weight = unet.down_blocks[0].resnets[0].conv1.weight
    return bool(weight.is_contiguous(memory_format=torch.channels_last))


def has_half_units() -> bool:
    """Whether the processor multiplies matrices in bf16 by units of its own (AMX, or AVX-512's bf16)."""
    found = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return bool(found)


def machine(device: torch.device) -> list[str]:
    """What a measured time depends on: the processor, the card, versions, threads."""
    if device.type == "cuda":
        names = [torch.cuda.get_device_name(device), str(torch.version.cuda)]
    else:
        names = [_processor(), str(torch.get_num_threads())]
    return [*names, *(f"{package} {_version(package)}" for package in _PACKAGES)]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
