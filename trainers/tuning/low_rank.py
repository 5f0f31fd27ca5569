"""LoRA in one piece, in the place of PEFT's: the same parameters, start and change in fewer calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pipelines.methods.own_layer import OwnLayer
from trainers.tuning import low_rank_calls
from trainers.tuning.low_rank_products import ConvProduct, LinearProduct, warm_up
from trainers.tuning.probing import is_quantised
from trainers.tuning.together import Together


class LowRankLayer(OwnLayer):
    """What stands in the place of a linear layer or a convolution: base(x) + alpha/rank · up(down(x)).

    down, up: as PEFT's `lora_A` and `lora_B`, fp32: (r, in) and (out, r), of a convolution (r, in, kh, kw)
    and (out, r, 1, 1). dropout: share of the inputs of `down` that is left out while `training`.
    lent: both in the base's 16 bits, see `Lending`; None: cast at each call. together: the layers that answer
    with it in one, or None.

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
        self.together: Together | None = None
        convolution = isinstance(base_layer, nn.Conv2d)
        self._product = ConvProduct if convolution else LinearProduct
        self._calls = low_rank_calls.convolution if convolution else low_rank_calls.linear
        # The base's own product is part of ours where it's no more than that.
        self._whole = type(base_layer) in (nn.Linear, nn.Conv2d) and not is_quantised(base_layer)
        self._settle()

    def _settle(self) -> None:
        """Take the way that suits the device."""
        self.in_one = self.down.device.type != "cpu"
        if self.down.is_cuda:
            warm_up(self.down.device)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Also when a module is moved with what is in it, as text encoders are that learn on a card."""
        super()._apply(fn, recurse)
        self._settle()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layer answers, (…, in) → (…, out) or (B, C, h, w), changed unless switched off."""
        learned: Any = self._parameters  # nn.Module looks attributes up slowly
        if not self.enabled:
            return self.base_layer(x)
        if (together := self.together) is not None and together.ready():
            return together.answer(self, x)
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

    @property
    def can_join(self) -> bool:
        """Whether it may be put together with others: a linear layer on a card that drops nothing out.

        On a CPU it took more time than it saved: 0.995 of PEFT's step where layers alone take 0.934.
        """
        return (
            self.in_one and isinstance(self.base_layer, nn.Linear) and self.owns_base() and not self.dropout
        )

    def restore(self) -> None:
        """Part from the layers that it was put together with."""
        if self.together is not None:
            self.together.part()

    def parts(self) -> dict[str, torch.Tensor]:
        """Return copies of both factors, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.trained().items()}


class Lending:
    """Copies of all factors in the precision of their bases, made together: two casts a layer fewer."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self._low_rank = [layer for layer in layers if isinstance(layer, LowRankLayer) and _narrow(layer)]
        self._made = False
        self._own: list[torch.Tensor] = []
        self._copies: list[torch.Tensor] = []
        self._lent: list[tuple[LowRankLayer | Together, tuple[torch.Tensor, torch.Tensor]]] = []

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Lend them as they are now: nobody may write to the factors until the end."""
        if not self._made:
            self._make([layer for layer in self._low_rank if layer.in_one])
        if not self._copies:
            yield
            return
        with torch.no_grad():
            torch._foreach_copy_(self._copies, self._own)
        # Not through nn.Module's attributes, which take a millisecond for SDXL's layers.
        for borrower, copies in self._lent:
            vars(borrower)["lent"] = copies
        try:
            yield
        finally:
            for borrower, _ in self._lent:
                vars(borrower)["lent"] = None

    def _make(self, borrowers: Sequence[LowRankLayer]) -> None:
        """Make room for the copies: those of layers that are together in one piece, as they are used."""
        self._made = True  # at the first use, when all is where it is to be
        rooms: dict[LowRankLayer, tuple[torch.Tensor, torch.Tensor]] = {}
        for group in dict.fromkeys(layer.together for layer in borrowers):
            if group is not None:
                downs, ups = _room(group.layers[0], len(group.layers))
                parts = zip(group.layers, downs.unbind(), ups.unbind(), strict=True)
                rooms |= {layer: (down, up) for layer, down, up in parts}
                self._lent.append((group, (downs.flatten(0, 1), ups)))
        for layer in borrowers:
            if layer not in rooms:
                downs, ups = _room(layer, 1)
                rooms[layer] = downs[0], ups[0]
        self._lent += [(layer, rooms[layer]) for layer in borrowers]
        self._own = [part for one in borrowers for part in (one.down, one.up)]
        self._copies = [copy for layer in borrowers for copy in rooms[layer]]


def _room(layer: LowRankLayer, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return room for the factors of so many such layers, (count, …) each, in the base's precision."""
    base: Any = layer.base_layer
    made = (part.new_empty((count, *part.shape), dtype=base.weight.dtype) for part in (layer.down, layer.up))
    downs, ups = (one.detach() for one in made)
    return downs, ups


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
