"""Recordings on a CPU that behave as CUDA graphs do: operators at fixed addresses, without Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainers.stepping.replay import Tensors


class _Notes(TorchDispatchMode):
    """Notes every operator with the very tensors that it took and gave, and what was written over."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []
        self.overwritten: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        aliases = [argument.alias_info for argument in func._schema.arguments]
        writes = any(alias is not None and alias.is_write for alias in aliases)
        if writes:
            given = [*args, *kwargs.values()]
            for tensor in _tensors(given):
                whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                self.overwritten.setdefault(whole.data_ptr(), (whole, whole.clone()))
        found = func(*args, **kwargs)
        views = any(one.alias_info is not None for one in func._schema.returns)
        if writes or not (views or func._schema.name.startswith("aten::empty")):
            self.calls.append((func, args, kwargs, [] if writes else _tensors([found])))
        return found

    def undo(self) -> None:
        """Give back what was written over: nothing is done while it is noted."""
        for whole, value in self.overwritten.values():
            whole.copy_(value)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [one for part in value for one in _tensors(part)] if isinstance(value, list | tuple) else []


class Noted:
    """A `Recorder` for a CPU."""

    def aside(self, call: Callable[[], Tensors]) -> Tensors:
        return call()

    def record(self, call: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], None]]:
        random = torch.get_rng_state()
        with _Notes() as notes:
            found = call()
        with torch.no_grad():
            notes.undo()
        torch.set_rng_state(random)

        def again() -> None:
            with torch.no_grad():
                for func, args, kwargs, results in notes.calls:
                    fresh = _tensors([func(*args, **kwargs)])
                    for kept, value in zip(results, fresh if results else (), strict=True):
                        kept.copy_(value)

        return found, again

    def random_state(self) -> Any:
        return torch.get_rng_state()

    def set_random_state(self, state: Any) -> None:
        torch.set_rng_state(state)

    def give_up(self) -> None:
        pass
