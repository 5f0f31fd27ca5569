"""Bottleneck adapters: a small layer of their own behind some of the base's, through few numbers and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.methods.method import Method, Part, Shape
from pipelines.methods.tuning import Size, Tuning

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipelines.adapter import AnyFactors
    from pipelines.methods.layers import BottleneckLayer
    from pipelines.methods.method import Terms

# Behind attention and behind the feed-forward layers, in the UNet's and in the text encoders' names.
_BEHIND = ("to_out.0", "ff.net.2", "out_proj", "fc2")


def bottleneck(output: torch.Tensor, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return what is added to a layer's output y (…, d): W_up · gelu(W_down · y + b_down) + b_up, fp32.

    Source: Houlsby et al. 2019, https://arxiv.org/abs/1902.00751, section 2.1 and figure 2, after both
    sub-layers; on the feed-forward layers alone it's near Pfeiffer et al. 2020,
    https://arxiv.org/abs/2005.00247, section 3.2. Up starts at zero, and so as the identity, where the
    first paper draws it small.
    """
    from torch.nn import functional

    y = output.float()
    inner = functional.linear(y, parts["bottleneck_down"], parts["bottleneck_down_b"])
    made = functional.gelu(inner)  # (…, r)
    return functional.linear(made, parts["bottleneck_up"], parts["bottleneck_up_b"])


def _attach(module: nn.Module, terms: Terms) -> list[Any]:
    def add(layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        change = sum(weight * bottleneck(output, parts) for weight, parts in terms())
        return output + change.to(output.dtype) if not isinstance(change, int) else output

    return [module.register_forward_hook(add)]


def _misfit(factors: AnyFactors, shape: Shape) -> str | None:
    down, down_b, up, up_b = (
        tuple(int(side) for side in factors.parts[part.name].shape) for part in BOTTLENECK.parts
    )
    rank = down[0] if len(down) == 2 else 0
    fits = len(shape) == 2 and rank and down == (rank, shape[0]) and up == (shape[0], rank)
    if fits and down_b == (rank,) and up_b == (shape[0],):
        return None
    return f"it is down {down}, up {up}, biases {down_b} and {up_b}, and the base has {shape}"[:200]


def _layer(module: nn.Module, size: Size) -> BottleneckLayer:
    from pipelines.methods.layers import BottleneckLayer

    return BottleneckLayer(module, size)


BOTTLENECK = Method(
    id="bottleneck",
    label="Bottleneck adapter",
    paper="https://arxiv.org/abs/1902.00751",
    parts=(
        Part(name="bottleneck_down"),
        Part(name="bottleneck_down_b"),
        Part(name="bottleneck_up"),
        Part(name="bottleneck_up_b"),
    ),
    formats=("pigment",),
    delta=None,
    no_delta="bottleneck adapters add layers",
    attach=_attach,
    shape=lambda factors: None,
    rank=lambda factors: int(factors.parts["bottleneck_down"].shape[0]),
    misfit=_misfit,
    linear_only=True,
    tunings=(
        Tuning(
            id="bottleneck",
            label="Bottleneck adapter",
            paper="https://arxiv.org/abs/1902.00751",
            summary="small layers behind attention and feed-forward layers, which stay beside the weights",
            layer=_layer,
            sits_on=("linear",),
            endings=_BEHIND,
            uses=frozenset({"rank"}),
            learning_rate=3e-4,
        ),
    ),
)
