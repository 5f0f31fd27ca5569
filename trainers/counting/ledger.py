"""Following a computation: the operators that it calls, their FLOPs, and the bytes that are alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from trainers.counting import shapes


@dataclass(frozen=True)
class Work:
    """What has run: operator calls that compute or copy, and FLOPs (two per multiply-add).

    What fused attention computes a second time within its backward pass isn't among the FLOPs.
    """

    kernels: int = 0
    flops: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.kernels + other.kernels, self.flops + other.flops)

    def __sub__(self, other: Work) -> Work:
        return Work(self.kernels - other.kernels, self.flops - other.flops)


# Answers that are made on the host, or of memory that is handed out: nothing is launched for them.
_LAUNCHES_NOTHING = {
    "aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided",
    "aten::detach", "aten::lift_fresh", "aten::_unsafe_view", "aten::_local_scalar_dense",
    "aten::_reshape_alias", "aten::resize_", "aten::set_", "aten::record_stream", "prim::device",
}  # fmt: skip


_PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}


class Ledger(TorchDispatchMode):
    """Counts what runs while it is entered, on tensors of any device, those without memory ("meta") too.

    work: the operators below autograd: views and mere allocations don't count. live: bytes of the storages
    that were made since it was entered and are alive. peak: their most so far. What an operator takes for
    itself while it runs isn't seen. Storages are followed until they go, also after leaving; entering a
    second time goes on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = shapes.answer(func, args, kwargs)
        if out is None:
            out = func(*args, **kwargs)
        if not func.is_view and func.name().partition(".")[0] not in _LAUNCHES_NOTHING:
            self.add(Work(1, _flops(func, args, kwargs, out)))
        fresh = [one for one in tree_iter(out) if isinstance(one, torch.Tensor)] if not func.is_view else []
        for tensor in fresh:
            self._follow(tensor)
        return out

    def add(self, work: Work) -> None:
        """Count work that ran somewhere else."""
        self.work = self.work + work

    def hold(self, *tensors: torch.Tensor) -> None:
        """Follow tensors that were made while this wasn't entered."""
        for tensor in tensors:
            self._follow(tensor)

    def forget_peak(self) -> int:
        """Let the peak begin anew with what is alive; returns that."""
        self.peak = self.live
        return self.live

    def passing(self, size: int) -> None:
        """Take note of `size` bytes more that were alive for a moment."""
        self.peak = max(self.peak, self.live + size)

    def _follow(self, tensor: torch.Tensor) -> None:
        storage: Any = _storage(tensor)
        if storage is None:
            return
        # The object stands for the storage as long as that is alive, whoever asks for it.
        key, size = id(storage), int(storage.nbytes())
        if (known := self._known.get(key)) is not None and known() is storage:
            return

        def gone(reference: Any) -> None:
            self.live -= size
            if self._known.get(key) is reference:
                del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def _storage(tensor: torch.Tensor) -> Any:
    try:
        return tensor.untyped_storage()
    except NotImplementedError:  # tensors that only wrap others, which are followed themselves
        return None


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    formula = _formulas().get(func.overloadpacket)
    if formula is None:
        return 0
    name = func.name()
    if name.partition(".")[0] in _PRODUCTS:  # some are told an answer's dtype as well
        args, kwargs = tuple(one for one in args if isinstance(one, torch.Tensor)), {}
    found = int(formula(*args, **kwargs, out_val=out))
    # Of five products of one size, one is the forward pass's own.
    return found * 4 // 5 if "_attention_" in name and "backward" in name else found


def _formulas() -> dict[Any, Callable[..., Any]]:
    """PyTorch's own table: products, convolutions and attention, forward and backward."""
    from torch.utils.flop_counter import flop_registry

    return flop_registry
