"""Weights that visit the device only while they work, for cards that don't hold a whole base.

A module's tensors stay where they are, and what they are: before its forward pass copies take their
places in it, after it the tensors themselves are back, also after an error. A mixer that writes into
them, through views of its own, finds them untouched, and its next move acts on the next visit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

_Place = tuple[dict[str, Any], str]
"""Where a module keeps a tensor: its table of parameters or buffers, and the name there."""


class Offload:
    """Hooks on the modules whose tensors visit a device.

    resident, peak: bytes of the copies that are there now, and the most there ever were at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.resident = self.peak = 0
        self._handles: list[Any] = []
        self._modules: set[nn.Module] = set()
        self._visits: dict[int, list[tuple[_Place, torch.Tensor, int]]] = {}
        self._there: set[tuple[int, str]] = set()

    def add(self, module: nn.Module) -> None:
        """Let a module's tensors, and those of the modules in it, visit the device while it runs.

        What already visits with a module around it is left alone, and so is a module that was added before.
        """
        if module in self._modules:
            return
        self._modules.add(module)
        self._handles += [
            module.register_forward_pre_hook(self._enter),
            module.register_forward_hook(self._leave, always_call=True),
        ]

    def add_blocks(self, module: nn.Module) -> None:
        """Let a module's blocks visit one after the other: its children, and those of its lists.

        Looked for anew at each pass, since an image prompt, say, brings layers of its own.
        """

        def look(module: nn.Module, inputs: object) -> None:
            for block in blocks(module):
                self.add(block)

        look(module, None)
        self._handles.append(module.register_forward_pre_hook(look))

    def add_whole(self, module: nn.Module) -> None:
        """Let a module visit as one, and by itself each layer in it that is called from outside."""
        self.add(module)
        for layer in module.modules():
            if any(True for _ in layer.parameters(recurse=False)):
                self.add(layer)

    def remove(self) -> None:
        """Take the hooks off; every tensor is in its place."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._modules.clear()
        for key in list(self._visits):
            self._restore(key)

    def _enter(self, module: nn.Module, inputs: object) -> None:
        self._restore(id(module))  # a visit that a person broke off
        visit = self._visits[id(module)] = []
        copies: dict[int, torch.Tensor] = {}
        for table, name in _places(module):
            own, key = table[name], (id(table), name)
            if own is None or key in self._there:
                continue
            if id(own) not in copies:
                copies[id(own)] = _copy(own, self.device)
                size = copies[id(own)].nbytes
                self.resident += size
                self.peak = max(self.peak, self.resident)
            else:
                size = 0
            visit.append(((table, name), own, size))
            self._there.add(key)
            table[name] = copies[id(own)]

    def _leave(self, module: nn.Module, inputs: object, output: object) -> None:
        self._restore(id(module))

    def _restore(self, key: int) -> None:
        for (table, name), own, size in self._visits.pop(key, []):
            table[name] = own
            self._there.discard((id(table), name))
            self.resident -= size


def blocks(module: nn.Module) -> list[nn.Module]:
    """The children of a module that hold tensors, lists of modules by their members."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            found += blocks(child)
        elif any(True for _ in _tensors(child)):
            found.append(child)
    return found


def _tensors(module: nn.Module) -> Iterable[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _places(module: nn.Module) -> Iterator[_Place]:
    for owner in module.modules():
        for table in (owner._parameters, owner._buffers):
            for name in table:
                yield table, name


def _copy(own: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on the device; of a weight that learns, one that gradients pass through."""
    if own.requires_grad and torch.is_grad_enabled():
        return own.to(device, copy=True)
    if type(own) not in (torch.Tensor, nn.Parameter) or type(own.data) is not torch.Tensor:
        return own.to(device)  # quantised: its kind knows how
    moved = own.detach().to(device, copy=True)
    return nn.Parameter(moved, requires_grad=False) if isinstance(own, nn.Parameter) else moved
