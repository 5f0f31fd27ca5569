"""A layer of our own, put in a module's place while its method is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from pipelines.adapter import AnyFactors


class OwnLayer(nn.Module):
    """What stands in a module's place in training: the module's own answer with a change.

    base_layer: the module, untouched. enabled: False gives the module's own answer, bit for bit.
    alpha: as the adapter's file will state it. A subclass gives `changed`; the parameters that it sets on
    itself are what is trained: fp32, on the module's device, at first such that nothing changes. Initial
    numbers are drawn from torch's global generator, which the caller seeds and gives back.
    """

    alpha: float = 1.0

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.enabled = True

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return what the module answers, changed unless switched off."""
        if not self.enabled:
            return self.base_layer(*inputs, **named)
        return self.changed(*inputs, **named)

    def changed(self, *inputs: Any, **named: Any) -> Any:
        """Return the module's answer with the change."""
        raise NotImplementedError

    @property
    def weight(self) -> Any:
        """The module's own weight, for callers that ask a layer for its dtype or device."""
        return self.base_layer.weight

    @property
    def bias(self) -> Any:
        """The module's own bias."""
        return self.base_layer.bias

    def trained(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by name."""
        return dict(self.named_parameters(recurse=False))

    def parts(self) -> dict[str, torch.Tensor]:
        """Return copies of the tensors that the adapter keeps, by part name: usually what is trained."""
        return {name: value.detach().clone() for name, value in self.trained().items()}

    def options(self) -> dict[str, Any]:
        """Return what the method needs to know besides (see `Factors.options`)."""
        return {}

    def factors(self, method: str) -> AnyFactors:
        """Return what the adapter keeps of this layer. method: the key of METHODS that it's kept as."""
        from pipelines.adapter import Factors, LowRank

        parts = self.parts()
        if method == LowRank.method:
            return LowRank(down=parts["down"], up=parts["up"], alpha=self.alpha)
        return Factors(method=method, parts=parts, alpha=self.alpha, options=self.options())

    def extra(self) -> dict[str, torch.Tensor]:
        """Return the numbers that aren't trained but that a resume needs; the names never change."""
        return {}

    def load_extra(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write what `extra` returned back."""

    def after_step(self, step: int, total: int) -> None:
        """Do what the method does after each optimizer step. step: from 1 to `total`."""

    def restore(self) -> None:
        """Put back what the method changed in the module itself, bit for bit: as a rule nothing."""


def own(layer: nn.Module, value: torch.Tensor) -> nn.Parameter:
    """Return a parameter to train beside a layer: fp32, where the layer's own numbers are."""
    home = next(layer.parameters()).device
    return nn.Parameter(value.detach().to(home, torch.float32))
