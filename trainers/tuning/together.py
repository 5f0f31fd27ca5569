"""Low-rank layers that read the same input answer together: queries, keys and values of an attention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pipelines.base import Base
from trainers.tuning.low_rank_products import autocasting, precision_of, wide_product

if TYPE_CHECKING:
    from trainers.tuning.layers import Tuned
    from trainers.tuning.low_rank import LowRankLayer

Tensor = torch.Tensor

_SIBLINGS = (("to_q", "to_k", "to_v"), ("q_proj", "k_proj", "v_proj"))
"""Names within one module; the first reads another input where that looks at a text."""


class Together:
    """K linear layers (in → out) of one rank whose weights lie in one, so that one product gives all answers.

    Whichever layer is asked first answers for the others as well; they find their answers when they are
    asked with the very same input. The weights keep their values, as views of the whole; `part` gives each
    its own memory back. lent: all `down` and `up` in 16 bits, (K·r, in) and (K, out, r); None: cast at
    each call.
    """

    def __init__(self, layers: Sequence[LowRankLayer]) -> None:
        self.layers = tuple(layers)
        self.lent: tuple[Tensor, Tensor] | None = None
        self._bases: list[Any] = [layer.base_layer for layer in layers]
        with torch.no_grad():
            biases = [base.bias for base in self._bases]
            self.bias = None if biases[0] is None else torch.cat(biases)
            self.weight = torch.cat([base.weight for base in self._bases])  # (K·out, in)
            for base, part in zip(self._bases, self.weight.chunk(len(layers)), strict=True):
                base.weight.data = part
        self._places = [base.weight.data_ptr() for base in self._bases]
        self._x: Tensor | None = None
        self._answers: dict[int, Tensor] = {}

    def ready(self) -> bool:
        """Whether all layers are as they were when they were put together."""
        return all(
            layer.enabled and layer.owns_base() and base._parameters["weight"].data_ptr() == place
            for layer, base, place in zip(self.layers, self._bases, self._places, strict=True)
        )

    def answer(self, layer: LowRankLayer, x: Tensor) -> Tensor:
        """Return a layer's answer, (…, in) → (…, out)."""
        if self._x is not x or id(layer) not in self._answers:
            factors = [one._parameters[part] for part in ("down", "up") for one in self.layers]
            found = TogetherProduct.apply(x, self, *factors)
            self._x, self._answers = x, {id(one): y for one, y in zip(self.layers, found, strict=True)}
        answer = self._answers.pop(id(layer))
        if not self._answers:
            self._x = None
        return answer

    def part(self) -> None:
        """Give every layer its weight for itself again."""
        for layer, base in zip(self.layers, self._bases, strict=True):
            layer.together = None
            base.weight.data = base.weight.data.clone()


def put_together(base: Base, tuned: Iterable[Tuned]) -> None:
    """Put layers together that read the same input, where all are alike."""
    from trainers.tuning.low_rank import LowRankLayer

    by_path = {(one.seat.component, one.seat.path): one.layer for one in tuned}
    for component, parent in dict.fromkeys((part, path.rpartition(".")[0]) for part, path in by_path):
        module = base.component(component).get_submodule(parent)
        for siblings in _SIBLINGS:
            names: tuple[str, ...] = siblings
            if getattr(module, "is_cross_attention", False):
                names = names[1:]
            layers = [by_path.get((component, f"{parent}.{name}")) for name in names]
            found = [layer for layer in layers if isinstance(layer, LowRankLayer) and layer.can_join]
            if len(found) == len(names) and len({_kind(layer) for layer in found}) == 1:
                group = Together(found)
                for layer in found:
                    layer.together = group


def _kind(layer: LowRankLayer) -> tuple[object, ...]:
    base: Any = layer.base_layer
    return (layer.down.shape, layer.up.shape, layer.scale, base.weight.dtype, base.bias is None)


class TogetherProduct(torch.autograd.Function):
    """K answers base_k(x) + s·(x A_kᵀ)B_kᵀ; inputs: x, the layers, every A, every B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Together, *factors: nn.Parameter) -> tuple[Tensor, ...]:
        """Return the answers, (…, out) each, as views of one tensor."""
        count, scale = len(group.layers), group.layers[0].scale
        ctx.given, ctx.factors, ctx.scale = x.dtype, factors, scale
        weight, bias = group.weight, group.bias
        if casting := autocasting(x.device):
            x = x.to(torch.get_autocast_dtype(x.device.type))
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        precision = x.dtype if casting else precision_of(x, factors[0])
        down, up = _stacked(group, factors, precision)  # (K·r, in), (K, out, r)
        rows = x.reshape(-1, x.shape[-1])  # (N, in)
        answer = functional.linear(rows, weight, bias)  # (N, K·out)
        z = rows.to(precision)
        inner = torch.mm(z, down.t())  # (N, K·r)
        wide = answer.to(precision)
        by_layer(wide, count).baddbmm_(by_layer(inner, count), up.transpose(1, 2), alpha=scale)
        ctx.save_for_backward(z, inner, weight, down, up)
        return wide.to(answer.dtype).view(*x.shape[:-1], count, -1).unbind(-2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """Return the gradients of x and of those factors that have none yet; add to the others'."""
        z, inner, weight, down, up = ctx.saved_tensors
        count, out, rank = up.shape
        shape = gradients[0].shape[:-1]
        g = torch.cat([one.reshape(-1, out) for one in gradients], dim=1)  # (N, K·out)
        wide = g.to(z.dtype)
        outer = torch.empty_like(inner)  # (N, K·r)
        torch.bmm(by_layer(wide, count), up, out=by_layer(outer, count))
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.mm(g, weight)
            if dx.dtype == outer.dtype:
                dx.addmm_(outer, down, alpha=ctx.scale)
            else:
                dx = torch.add(dx, torch.mm(outer, down), alpha=ctx.scale)
            dx = dx.to(ctx.given).view(*shape, -1)
        product = wide_product(z.device, z.dtype)
        downs = product(outer.t(), z).view(count, rank, -1)  # (K, r, in)
        ups = product(by_layer(wide, count).transpose(1, 2), by_layer(inner, count))  # (K, out, r)
        found = [*downs.unbind(), *ups.unbind()]
        return dx, None, *_handed(ctx.factors, found, ctx.needs_input_grad[2:], ctx.scale)


def by_layer(x: Tensor, count: int) -> Tensor:
    """Look at (N, K·n) as (K, N, n)."""
    return x.view(x.shape[0], count, -1).transpose(0, 1)


def _stacked(group: Together, factors: Sequence[Tensor], precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return all `down` one below the other, and all `up` one behind the other."""
    if group.lent is not None and group.lent[0].dtype == precision:
        return group.lent
    downs, ups = list(factors[: len(group.layers)]), list(factors[len(group.layers) :])
    return torch.cat(downs).to(precision), torch.stack(ups).to(precision)


def _handed(
    factors: Sequence[nn.Parameter], found: Sequence[Tensor], wanted: Sequence[bool], scale: float
) -> Iterator[Tensor | None]:
    """Add scale · found to the gradients that there are, at once; yield the others."""
    triples = list(zip(factors, found, wanted, strict=True))
    kept = [(factor.grad, part) for factor, part, want in triples if want and factor.grad is not None]
    if kept:
        torch._foreach_add_([grad for grad, _ in kept], [part for _, part in kept], alpha=scale)
    for factor, part, want in triples:
        yield (part * scale).to(factor.dtype) if want and factor.grad is None else None
