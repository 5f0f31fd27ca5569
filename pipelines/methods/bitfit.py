"""BitFit: only biases change."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from pipelines.methods.method import Method, Part, Shape
from pipelines.methods.tensors import shaped, take
from pipelines.methods.tuning import Size, Tuning

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipelines.adapter import AnyFactors
    from pipelines.methods.layers import BiasLayer

# The layers of Stable Diffusion that have biases: queries, keys and values of the UNet have none.
_BIASED = (
    "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
    "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv",
    "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2",
)  # fmt: skip


def _bias_delta(factors: AnyFactors, bias: torch.Tensor) -> torch.Tensor:
    """Return Δb as it is kept, (out,).

    Source: Ben Zaken et al. 2021, https://arxiv.org/abs/2106.10199, section 3.
    """
    return shaped(take(factors, bias)["diff_b"], bias)


def _misfit(factors: AnyFactors, shape: Shape) -> str | None:
    found = tuple(int(side) for side in factors.parts["diff_b"].shape)
    return None if prod(found) == shape[0] else f"its bias is {found} and the base has weights of {shape}"


def _layer(module: nn.Module, size: Size) -> BiasLayer:
    from pipelines.methods.layers import BiasLayer

    return BiasLayer(module)


BITFIT = Method(
    id="bitfit",
    label="BitFit",
    paper="https://arxiv.org/abs/2106.10199",
    parts=(Part(name="diff_b", lycoris="diff_b"),),
    formats=("lycoris", "pigment"),
    delta=None,
    no_delta="BitFit adapters change biases only",
    bias_delta=_bias_delta,
    shape=lambda factors: None,
    rank=lambda factors: 0,
    misfit=_misfit,
    tunings=(
        Tuning(
            id="bitfit",
            label="BitFit",
            paper="https://arxiv.org/abs/2106.10199",
            summary="only biases: a file of some kilobytes, for a light touch",
            layer=_layer,
            endings=_BIASED,
            uses=frozenset(),
            by_block=False,
            learning_rate=2e-3,
        ),
    ),
)
