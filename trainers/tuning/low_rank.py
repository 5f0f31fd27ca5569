"""LoRA in one piece, in the place of PEFT's: the same parameters, start and change in fewer calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pipelines.methods.own_layer import OwnLayer
from trainers.tuning import low_rank_calls
from trainers.tuning.low_rank_products import ConvProduct, LinearProduct, warm_up
from trainers.tuning.probing import is_quantised


class LowRankLayer(OwnLayer):
    """What stands in the place of a linear layer or a convolution: base(x) + alpha/rank · up(down(x)).

    down, up: as PEFT's `lora_A` and `lora_B`, fp32: (r, in) and (out, r), of a convolution (r, in, kh, kw)
    and (out, r, 1, 1). dropout: share of the inputs of `down` that is left out while `training`.
    lent: both in the base's 16 bits, see `Lending`; None: cast at each call.

    in_one: in one function with both passes written out, as on cards, or in few calls of torch's. The former
    adds the gradients to the parameters' where these have some already, else hands them to autograd: so
    `torch.autograd.grad` sees them only while `parameter.grad` is None.

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685, equation 3.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        down: nn.Parameter,
        up: nn.Parameter,
        *,
        alpha: float,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(base_layer)
        self.down, self.up, self.alpha, self.dropout = down, up, alpha, dropout
        self.scale = alpha / down.shape[0]
        self.lent: tuple[torch.Tensor, torch.Tensor] | None = None
        self.in_one = down.device.type != "cpu"
        convolution = isinstance(base_layer, nn.Conv2d)
        self._product = ConvProduct if convolution else LinearProduct
        self._calls = low_rank_calls.convolution if convolution else low_rank_calls.linear
        # The base's own product is part of ours where it's no more than that.
        self._whole = type(base_layer) in (nn.Linear, nn.Conv2d) and not is_quantised(base_layer)
        if down.is_cuda:
            warm_up(down.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layer answers, (…, in) → (…, out) or (B, C, h, w), changed unless switched off."""
        learned: Any = self._parameters  # nn.Module looks attributes up slowly
        if not self.enabled:
            return self.base_layer(x)
        if not self.in_one:
            return self._calls(self, x, learned["down"], learned["up"])
        answer = None if self.owns_base() else self.base_layer(x)
        return self._product.apply(x, learned["down"], learned["up"], answer, self)

    def owns_base(self) -> bool:
        """Whether the base does what its class does, with a weight that doesn't learn."""
        base: Any = self._modules["base_layer"]
        return self._whole and not (
            base._forward_hooks
            or base._forward_pre_hooks
            or base._parameters["weight"].requires_grad
            or "forward" in base.__dict__
        )

    def parts(self) -> dict[str, torch.Tensor]:
        """Return copies of both factors, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.trained().items()}


class Lending:
    """Copies of all factors in the precision of their bases, made together: two casts a layer fewer."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        low_rank = (layer for layer in layers if isinstance(layer, LowRankLayer))
        self._layers = [layer for layer in low_rank if layer.in_one and _narrow(layer)]
        self._own: list[torch.Tensor] = [part for one in self._layers for part in (one.down, one.up)]
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Lend them as they are now: nobody may write to the factors until the end."""
        if not self._layers:
            yield
            return
        if not self._pairs:
            dtypes: list[Any] = [layer.base_layer.weight.dtype for layer in self._layers]
            self._pairs = [
                (torch.empty_like(layer.down, dtype=dtype), torch.empty_like(layer.up, dtype=dtype))
                for layer, dtype in zip(self._layers, dtypes, strict=True)
            ]
        with torch.no_grad():
            torch._foreach_copy_([copy for pair in self._pairs for copy in pair], self._own)
        # Not through nn.Module's attributes, which take a millisecond for SDXL's layers.
        for layer, pair in zip(self._layers, self._pairs, strict=True):
            vars(layer)["lent"] = pair
        try:
            yield
        finally:
            for layer in self._layers:
                vars(layer)["lent"] = None


def _narrow(layer: LowRankLayer) -> bool:
    """Whether the base's weight is in 16 bits."""
    return layer.base_layer.weight.dtype in (torch.float16, torch.bfloat16)


def fits(module: nn.Module) -> bool:
    """Whether a `LowRankLayer` can stand in a module's place."""
    if isinstance(module, nn.Conv2d):
        plain = module.groups == 1 and tuple(module.dilation) == (1, 1)
        return plain and isinstance(module.padding, tuple) and module.padding_mode == "zeros"
    return isinstance(module, nn.Linear)


def fresh_layer(module: nn.Module, rank: int, alpha: float, dropout: float) -> LowRankLayer:
    """Make a layer that changes nothing yet: `down` is random, `up` is zero.

    The numbers are those that PEFT's "gaussian" start draws from torch's global generator, of standard
    deviation 1/rank, in the precision of the base's weight. What it draws for its layers' usual start and
    throws away is drawn here too, so that the next layer's numbers are the same as well.
    """
    base: Any = module
    if isinstance(module, nn.Conv2d):
        down = torch.empty(rank, base.in_channels, *base.kernel_size)
        up = torch.empty(base.out_channels, rank, 1, 1)
    else:
        down, up = torch.empty(rank, base.in_features), torch.empty(base.out_features, rank)
    for thrown_away in (down, up):
        thrown_away.uniform_()
    down.normal_(std=1 / rank)
    home, precision = base.weight.device, base.weight.dtype
    down = down.to(home, precision if precision.is_floating_point else None).float()
    up = up.zero_().to(home)
    return LowRankLayer(module, nn.Parameter(down), nn.Parameter(up), alpha=alpha, dropout=dropout)
