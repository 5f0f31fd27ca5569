"""Parameters and gradients in few large buffers, so that clipping and stepping are few large operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

_OF_ALL = ("step",)
"""What an optimizer keeps as one number for a whole parameter; everything else is as large as that."""


def reached(loss: torch.Tensor) -> set[int]:
    """Return the `id` of every parameter that a gradient of `loss` gets to, by the graph alone."""
    found: set[int] = set()
    seen: set[Any] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:  # of AccumulateGrad nodes
            found.add(id(leaf))
        waiting += [following for following, _ in node.next_functions]
    return found


@dataclass(frozen=True, eq=False)
class Run:
    """One group's parameters in one buffer.

    whole: the buffer, (N,), with its gradient. members: the parameters, views of it.
    """

    whole: nn.Parameter
    members: tuple[nn.Parameter, ...]

    @property
    def sizes(self) -> list[int]:
        """How many numbers each member has."""
        return [member.numel() for member in self.members]

    def views(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Cut a tensor like the buffer, (N,), into the members' shapes."""
        parts = tensor.split(self.sizes)
        return [part.view_as(member) for part, member in zip(parts, self.members, strict=True)]


class Flat:
    """The buffers of an optimizer's groups, and the optimizer as it would be without them.

    Made once the parameters and whatever the optimizer keeps for them stand as they are to be: the parameters
    stay the objects that they were, with their numbers and gradients in the buffers from now on, and the
    optimizer steps on the buffers. Parameters that no gradient reaches stay by themselves, so that they don't
    decay. Numbers agree with an optimizer without buffers up to the rounding of vector instructions.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, learning: set[int]) -> None:
        """learning: `id` of the parameters that gradients get to; those of one group need one dtype."""
        self._optimizer = optimizer
        self._runs: list[Run] = []
        self._given: list[list[nn.Parameter]] = [list(group["params"]) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            members = [one for one in group["params"] if id(one) in learning]
            if not members:
                continue
            run = _run(members)
            self._runs.append(run)
            rest = [one for one in group["params"] if id(one) not in learning]
            group["params"] = [run.whole, *rest]
            _gather(optimizer, run)
        self._by_whole = {id(run.whole): run for run in self._runs}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The buffers: what the optimizer steps on."""
        return [run.whole for run in self._runs]

    def state(self) -> list[torch.Tensor]:
        """Every tensor that a step changes, beside the gradients."""
        kept = [value for run in self._runs for value in self._optimizer.state.get(run.whole, {}).values()]
        return [run.whole.data for run in self._runs] + [v for v in kept if isinstance(v, torch.Tensor)]

    def zero(self) -> None:
        """Clear the gradients where they are."""
        for run in self._runs:
            assert run.whole.grad is not None
            run.whole.grad.zero_()

    def spread(self) -> Any:
        """Return what `optimizer_state` reads of an optimizer, by the parameters as they were."""
        return SimpleNamespace(
            kind=type(self._optimizer).__name__,
            state=dict(self._spread_state()),
            param_groups=[
                {**group, "params": given}
                for group, given in zip(self._optimizer.param_groups, self._given, strict=True)
            ],
        )

    def _spread_state(self) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        for one, kept in self._optimizer.state.items():
            run = self._by_whole.get(id(one))
            if run is None:
                yield one, kept
                continue
            cut = {name: _cut(run, name, value) for name, value in kept.items()}
            for index, member in enumerate(run.members):
                yield member, {name: values[index] for name, values in cut.items()}


def _run(members: Sequence[nn.Parameter]) -> Run:
    """Move parameters, and the gradients that they have, into one buffer."""
    whole = nn.Parameter(torch.cat([one.detach().reshape(-1) for one in members]))
    whole.grad = torch.zeros_like(whole)
    run = Run(whole, tuple(members))
    views = zip(members, run.views(whole.data), run.views(whole.grad), strict=True)
    for member, numbers, gradient in views:
        if member.grad is not None:
            gradient.copy_(member.grad)
        member.data = numbers
        member.grad = gradient
    return run


def _gather(optimizer: torch.optim.Optimizer, run: Run) -> None:
    """Put together what an optimizer keeps of each member; what is one number of all of them stays one."""
    kept = [optimizer.state.pop(member, {}) for member in run.members]
    if not any(kept):
        return
    first = kept[0]
    assert all(one.keys() == first.keys() for one in kept), "some parameters have been stepped on, some not"
    optimizer.state[run.whole] = {
        name: first[name] if name in _OF_ALL else torch.cat([one[name].reshape(-1) for one in kept])
        for name in first
    }


def _cut(run: Run, name: str, value: Any) -> list[Any]:
    return [value] * len(run.members) if name in _OF_ALL else list(run.views(value))
