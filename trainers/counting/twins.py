"""Networks on tensors without memory ("meta"): what they would call and keep, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from trainers.counting.shapes import META as META

# ── Weights


@contextmanager
def weightless(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Hold tensors without memory in the place of networks' own, for a while.

    What learns has a gradient to be added to from the start. A layer of fewer bits answers as a plain one
    whose weight is there only while it is used.
    """
    twins: dict[int, Any] = {}
    undo: list[Callable[[], object]] = []
    try:
        for module in {id(one): one for root in networks for one in root.modules()}.values():
            if _few_bits(module):
                was = dict(module.__dict__)
                undo.append(lambda module=module, was=was: _put_back(module, was))  # type: ignore[misc]
                _answer_plainly(module)
            for parameter in module._parameters.values():
                if parameter is not None and parameter.device == META and parameter.requires_grad:
                    undo.append(lambda one=parameter, was=parameter.grad: setattr(one, "grad", was))  # type: ignore[misc]
                    parameter.grad = torch.empty_like(parameter)
            for held in (module._parameters, module._buffers, module.__dict__):
                own = {name: value for name, value in held.items() if _has_tensors(value)}
                undo.append(lambda held=held, own=own: held.update(own))  # type: ignore[misc]
                held.update({name: _twin(value, twins) for name, value in own.items()})
        yield
    finally:
        for step in reversed(undo):
            step()


def _has_tensors(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.device != META
    return isinstance(value, tuple) and any(_has_tensors(one) for one in value)


def _twin(value: Any, twins: dict[int, Any]) -> Any:
    """Return a tensor's like without memory, the same one for the same tensor; of a tuple one by one."""
    if isinstance(value, tuple):
        return tuple(_twin(one, twins) for one in value)
    if not isinstance(value, torch.Tensor):
        return value
    if id(value) not in twins:
        made: Any = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=META)
        if isinstance(value, nn.Parameter):
            made = nn.Parameter(made, requires_grad=value.requires_grad)
            if value.requires_grad:
                made.grad = torch.empty_like(made)
        twins[id(value)] = made
    return twins[id(value)]


def _few_bits(module: nn.Module) -> bool:
    from trainers.tuning.probing import is_quantised

    return is_quantised(module)


def _put_back(module: nn.Module, attributes: dict[str, Any]) -> None:
    module.__dict__.clear()
    module.__dict__.update(attributes)


class _Passing(torch.autograd.Function):
    """A product with a weight that is unpacked for it, in the forward and again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, width: int) -> torch.Tensor:
        ctx.shape = (width, x.shape[-1])
        return functional.linear(x, x.new_empty(ctx.shape))

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        return torch.matmul(g, g.new_empty(ctx.shape)), None


def _answer_plainly(module: Any) -> None:
    """Let a packed linear layer hold no weight to be looked at, and answer as if it were unpacked."""
    width, bias = module.out_features, module.bias
    module.__dict__["_parameters"] = {
        "weight": nn.Parameter(torch.empty(width, module.in_features, device=META), requires_grad=False),
        "bias": None if bias is None else nn.Parameter(torch.empty(width, device=META), requires_grad=False),
    }
    module.__dict__["forward"] = lambda x: _Passing.apply(x, width)


# ── Functions

_HALVED = frozenset(
    (functional.linear, functional.conv2d, torch.conv2d, torch.matmul, torch.bmm, torch.mm, torch.addmm,
     torch.baddbmm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.bmm, torch.Tensor.mm,
     functional.scaled_dot_product_attention)
)  # fmt: skip
"""What autocast runs in 16 bits on every device."""
_WIDENED = frozenset((functional.layer_norm, functional.group_norm, functional.softmax, torch.softmax))
"""What autocast runs in fp32 on a graphics card."""


class AsOn(TorchFunctionMode):
    """Lets functions of tensors without memory do what they would do on a device.

    card: whether that is a graphics card. half: what autocast would run products in, or None. Attention runs
    in one piece, as it does on any device; without this it would take itself apart.
    """

    def __init__(self, *, card: bool, half: torch.dtype | None = None) -> None:
        super().__init__()
        self.card, self.half = card, half

    @contextmanager
    def changed(self, half: torch.dtype | None) -> Iterator[None]:
        """Run products in another precision, or with None as they come, for a while."""
        before, self.half = self.half, half
        try:
            yield
        finally:
            self.half = before

    def wide(self) -> AbstractContextManager[None]:
        """Run products as they come, which they do in backward passes."""
        return self.changed(None)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.card and func == _IS_CUDA:
            return True
        if func == _TRUTH and args[0].device == META:
            return True  # whoever tries something out is told that it works
        if self.half is not None and func in _HALVED:
            args, kwargs = _cast((args, kwargs), self.half)
        elif self.half is not None and self.card and func in _WIDENED:
            args, kwargs = _cast((args, kwargs), torch.float32)
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


_IS_CUDA: Any = torch.Tensor.is_cuda.__get__  # type: ignore[attr-defined]
_TRUTH: Any = torch.Tensor.__bool__


def _cast(nested: Any, dtype: torch.dtype) -> Any:
    """Return nested arguments with their floating-point tensors in `dtype`."""
    from torch.utils._pytree import tree_map_only

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return tree_map_only(torch.Tensor, cast, nested)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> torch.Tensor:
    """Return what a fused kernel answers, (B, heads, L, D); it keeps these, its inputs and (B, heads, L).

    A mask is widened to every query and head, as CUDA's kernel for masks wants it.
    """
    found: Any
    if attn_mask is None:
        found = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )
        return found[0]
    bias = attn_mask if attn_mask.is_floating_point() else attn_mask.to(query.dtype)
    bias = bias.to(query.dtype).expand(*query.shape[:3], key.shape[2])
    found = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, dropout_p, is_causal, scale=scale
    )
    return found[0]


@contextmanager
def as_on(*, card: bool, half: torch.dtype | None = None) -> Iterator[AsOn]:
    """Enter `AsOn`, and answer for "meta" what layers ask of autocast; goes round a whole step.

    The backward pass is entered in `AsOn.wide`; what is recomputed there is computed as at first.
    """
    mode = AsOn(card=card, half=half)
    recomputing: Any = torch.utils.checkpoint.checkpoint

    def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        now = mode.half

        def again(*args: Any, **kwargs: Any) -> Any:
            with mode.changed(now), mode:  # PyTorch leaves modes in backward passes
                return function(*args, **kwargs)

        return recomputing(again, *args, **{**kwargs, "preserve_rng_state": False})

    remembering = mock.patch.object(torch.utils.checkpoint, "checkpoint", checkpoint)
    # What the frozen parts keep on a CPU they compute again on a card.
    keeping = mock.patch("trainers.frozen.blocks.keeps", lambda device: not card)
    with mock.patch.multiple(torch, **_autocast_of(mode)), remembering, keeping, mode:
        yield mode


def _autocast_of(mode: AsOn) -> dict[str, Any]:
    """Return torch's functions about autocast, which for "meta" are about `mode`."""
    enabled, dtype_of, autocast = torch.is_autocast_enabled, torch.get_autocast_dtype, torch.autocast

    def is_autocast_enabled(device: str | None = None) -> bool:
        return mode.half is not None if device == "meta" else enabled(*(() if device is None else (device,)))

    def get_autocast_dtype(device: str) -> torch.dtype:
        return (mode.half or torch.float32) if device == "meta" else dtype_of(device)

    def entered(device_type: str, dtype: torch.dtype | None = None, enabled: bool = True, **more: Any) -> Any:
        if device_type != "meta":
            return autocast(device_type, dtype=dtype, enabled=enabled, **more)
        return mode.changed((dtype or mode.half) if enabled else None)

    return {
        "is_autocast_enabled": is_autocast_enabled,
        "get_autocast_dtype": get_autocast_dtype,
        "autocast": entered,
    }
