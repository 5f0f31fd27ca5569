"""A mix folded into a base's own weights, tensor by tensor: W = W₀ + Σ wᵢ·ΔWᵢ, summed once, in fp32.

W₀ comes from the source's files, so nothing that a mixer wrote into a loaded base is folded a second time,
and a whole model is never in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.adapter import Adapter, AnyFactors
from pipelines.bases.source import Source
from pipelines.errors import AdapterError
from pipelines.families import block_of
from pipelines.methods import METHODS
from pipelines.mixing.weights import Weight, Weights, resolve

Mix = Mapping[str, tuple[Adapter, Weight]]
"""Adapters by their name in the mix, with their weights (see `pipelines.mixing.weights`)."""


@dataclass(frozen=True, eq=False)
class Fold:
    """What is added to a source's tensors.

    parts: by canonical module name, the factors that reach it with their weight there (never 0).
    weights: as they were asked for, by adapter name.
    """

    parts: Mapping[str, tuple[tuple[AnyFactors, float], ...]] = field(default_factory=dict)
    weights: Mapping[str, Weights] = field(default_factory=dict)

    def changes(self, part: str, key: str) -> bool:
        """Whether something may be added to a tensor of a part."""
        return _module_of(part, key) in self.parts

    def value(self, part: str, key: str, own: torch.Tensor) -> torch.Tensor:
        """Return a tensor with the mix in it, fp32; `own` itself where nothing is added.

        part: "unet", "vae" or a text encoder. key: the tensor's name in that part's module.
        """
        reaching = self.parts.get(_module_of(part, key), ())
        if not reaching:
            return own
        base = own.to(torch.float32)
        total = None
        for factors, weight in reaching:
            if key.endswith(".bias"):
                delta = factors.bias_delta(base)
            else:
                delta = factors.delta(base) if factors.has_delta else None
            if delta is not None:
                total = base.clone() if total is None else total
                total.add_(delta.to(torch.float32).reshape(base.shape), alpha=weight)
        return own if total is None else total


def plan_fold(source: Source, mix: Mix) -> Fold:
    """Check a mix against a base that isn't loaded, and return what is to be added where.

    Raises: AdapterError for an adapter that doesn't fit, for weights out of bounds, and for what weights
    can't hold: a weight that changes with the steps, learned words.
    """
    skeleton = _skeleton(source)
    blocks = tuple(dict.fromkeys(block_of(module) for module in skeleton.weighted()))
    encoders = tuple(skeleton.text_encoders())
    parts: dict[str, list[tuple[AnyFactors, float]]] = {}
    settled = {}
    for name, (adapter, weight) in mix.items():
        adapter.check(skeleton)
        weights = settled[name] = resolve(name, weight, blocks, encoders)
        if not weights.steady:
            raise AdapterError(
                f"the weight of {name!r} changes with the steps, which a folded base can't hold; leave "
                f"@{weights.begin:g}-{weights.end:g} out, or keep the adapter beside the base"
            )
        row = dict(zip(blocks, weights.row(blocks, encoders, None), strict=True))
        words = [word for word, vectors in adapter.tokens.items() if any(row[one] for one in vectors)]
        if words:
            raise AdapterError(
                f"adapter {name!r} brings learned words ({', '.join(words[:3])}), which a folded base can't "
                f"hold; fold it with text weight 0 and keep its file beside the base for its words"
            )
        for module, factors in adapter.factors.items():
            if row[block_of(module)]:
                _refuse_hooks(name, factors)
                _refuse_new_bias(name, module, factors, skeleton.weighted()[module])
                parts.setdefault(module, []).append((factors, row[block_of(module)]))
    return Fold({module: tuple(found) for module, found in parts.items()}, settled)


def _module_of(part: str, key: str) -> str:
    return f"{part}.{key.rpartition('.')[0].removeprefix('text_model.')}"


def _skeleton(source: Source) -> Any:
    """The base without numbers, to check adapters against."""
    from pipelines.base import Base
    from pipelines.bases.loading import load_networks

    meta, parts = torch.device("meta"), source.networks
    networks: Any = load_networks(source, dict.fromkeys(parts, meta), dict.fromkeys(parts, torch.float32))
    absent: Any = None
    return Base(
        ref=source.ref, path=source.path, family=source.family, tokenizer=absent, scheduler=absent,
        device=meta, dtype=torch.float32, **networks,
    )  # fmt: skip


def _refuse_hooks(name: str, factors: AnyFactors) -> None:
    """Refuse what works beside the weights."""
    method = METHODS[factors.method]
    if method.attach is not None:
        raise AdapterError(
            f"adapter {name!r} can't be folded into a base: {method.no_delta} and have no ΔW; keep its file "
            "beside the base"
        )


def _refuse_new_bias(name: str, module: str, factors: AnyFactors, layer: Any) -> None:
    """Refuse a bias where the base has none, as a mixer does."""
    if getattr(layer, "bias", None) is not None:
        return
    delta = factors.bias_delta(torch.zeros(layer.weight.shape[0]))
    if delta is not None and bool(delta.any()):
        raise AdapterError(
            f"adapter {name!r} changes the bias of {module}, which has none in this base; choose the base it "
            "was made for"
        )
