"""Where gradients stand between the backward pass and the step: three ways, one of which a run takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn


class Gradients(Protocol):
    """What is clipped and stepped on, and how it is cleared."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """What the optimizer steps on."""

    def state(self) -> list[torch.Tensor]:
        """Every tensor that a step changes, beside the gradients."""

    def zero(self) -> None:
        """Clear the gradients."""

    def spread(self) -> Any:
        """Return what `optimizer_state` reads: the optimizer by the parameters that were injected."""


class Loose:
    """As PyTorch has them: made in each backward pass, dropped after each step."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
        self._optimizer = optimizer
        self.parameters = list(parameters)

    def state(self) -> list[torch.Tensor]:
        """See Gradients."""
        kept = [value for one in self.parameters for value in self._optimizer.state.get(one, {}).values()]
        return [one.data for one in self.parameters] + [v for v in kept if isinstance(v, torch.Tensor)]

    def zero(self) -> None:
        """See Gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def spread(self) -> Any:
        """See Gradients."""
        return self._optimizer


class Standing(Loose):
    """Each where it stays from the first step on, as recordings need it; only what a gradient reaches."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], learning: set[int]
    ) -> None:
        """learning: `id` of the parameters that gradients get to."""
        super().__init__(optimizer, [one for one in parameters if id(one) in learning])
        for one in self.parameters:
            if one.grad is None:
                one.grad = torch.zeros_like(one)

    def zero(self) -> None:
        """See Gradients."""
        torch._foreach_zero_([one.grad for one in self.parameters if one.grad is not None])
