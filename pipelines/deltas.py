"""ΔW of an adapter's modules as tools need it: two thin factors where the method has them, or a matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.adapter import Adapter, AnyFactors
from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.families import block_of
from pipelines.lowrank import RankRule, Truncation, product_norm, product_svd, svd, truncate, truncate_product
from pipelines.methods import METHODS


@dataclass(frozen=True, eq=False, kw_only=True)
class Delta:
    """ΔW of one module, fp32.

    shape: of the weight. Either up (out, r) and down (r, in·kh·kw), whose product it is, or matrix
    (out, in·kh·kw).
    """

    shape: tuple[int, ...]
    up: torch.Tensor | None = None
    down: torch.Tensor | None = None
    matrix: torch.Tensor | None = None

    @property
    def factors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(up, down), or None where there is only the matrix."""
        return None if self.up is None or self.down is None else (self.up, self.down)

    def dense(self) -> torch.Tensor:
        """Return it as (out, in·kh·kw)."""
        if self.factors is not None:
            return self.factors[0] @ self.factors[1]
        assert self.matrix is not None
        return self.matrix

    def norm(self) -> float:
        """Return ‖ΔW‖_F."""
        if self.factors is not None:
            return product_norm(*self.factors)
        return float(torch.linalg.norm(self.dense().double()))

    def svd(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return U (out, n), σ (n,), Vᵀ (n, in·kh·kw) in fp64; n is r at most where there are factors."""
        return svd(self.dense()) if self.factors is None else product_svd(*self.factors)

    def values(self) -> torch.Tensor:
        """Return the singular values (n,) in fp64, falling."""
        if self.factors is None:
            return torch.linalg.svdvals(self.dense().double())
        return product_svd(*self.factors)[1]

    def truncate(self, rule: RankRule) -> Truncation:
        """Return the leading part of it that `rule` keeps."""
        return truncate(self.dense(), rule) if self.factors is None else truncate_product(*self.factors, rule)


def delta_of(adapter: Adapter, module: str, layers: Mapping[str, Any] | None) -> Delta:
    """Return ΔW of one module at weight 1.

    layers: the base's modules (see `layers_of`), or None without a base.
    Raises: AdapterError where the method needs the base's weight and there is none, and for numbers
    that aren't finite.
    """
    factor = adapter.factors[module]
    pair = factor.matrices()
    if pair is not None:
        shape = factor.weight_shape
        if shape is None and layers is not None:
            shape = tuple(int(size) for size in layers[module].weight.shape)
        if shape is None:
            raise AdapterError(
                f"the shape of {module} isn't told by adapter {adapter.name!r}; give the base it is for"
            )
        delta = Delta(shape=shape, up=pair[0].detach(), down=pair[1].detach())
        sound = bool(pair[0].isfinite().all()) and bool(pair[1].isfinite().all())
    else:
        weight = None if layers is None else layers[module].weight.detach().to(_device_of(factor))
        values = factor.delta(weight).detach().float()
        matrix = values.flatten(1) if values.ndim > 1 else values[:, None]
        delta = Delta(shape=tuple(int(size) for size in values.shape), matrix=matrix)
        sound = bool(values.isfinite().all())
    if not sound:
        raise AdapterError(f"ΔW of adapter {adapter.name!r} isn't finite at {module}; fetch it again")
    return delta


def beyond_lora(adapter: Adapter, layers: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what of an adapter plain LoRA can't hold: by module, "bias" or "norm weight"."""
    found = {}
    for module, factor in adapter.factors.items():
        shape = factor.weight_shape if layers is None else tuple(layers[module].weight.shape)
        if shape is not None and len(shape) < 2:
            found[module] = "norm weight"
        elif bias_delta_norm(factor, module, layers) > 0:
            found[module] = "bias"
    return found


def bias_delta_norm(factor: AnyFactors, module: str, layers: Mapping[str, Any] | None) -> float:
    """Return ‖Δ bias‖ of one module, 0 where the bias is left alone.

    Without a base the bias counts as 0: methods that scale biases need the base for ΔW anyway.
    """
    bias = None if layers is None else getattr(layers[module], "bias", None)
    if bias is None:
        shape = factor.weight_shape if layers is None else tuple(layers[module].weight.shape)
        if not shape:
            return 0.0
        bias = torch.zeros(shape[0])
    change = factor.bias_delta(bias.detach().to(_device_of(factor)))
    return 0.0 if change is None else float(torch.linalg.norm(change.double()))


def layers_of(base: Base | None, adapters: Iterable[Adapter]) -> dict[str, Any] | None:
    """Return the base's modules with their own weights, after checking that the adapters fit it.

    Raises: AdapterError where one doesn't fit or has modules without ΔW, or where adapters are mixed into
    the base now.
    """
    adapters = list(adapters)
    for adapter in adapters:
        refuse_without_delta(adapter)
    check_on(base, adapters)
    return None if base is None else dict(base.weighted())


def check_on(base: Base | None, adapters: Iterable[Adapter]) -> None:
    """Make sure that adapters are sound, and fit a base that holds no mix.

    Raises: AdapterError where one doesn't fit, or where adapters are mixed into the base now.
    """
    if base is not None and base.holder is not None:
        raise AdapterError(f"adapters are mixed into base {base.ref!r} now; restore it first")
    for adapter in adapters:
        if base is None:
            adapter.check_factors()
        else:
            adapter.check(base)


def refuse_without_delta(adapter: Adapter) -> None:
    """Raises: AdapterError where a method of the adapter has no ΔW, naming it."""
    for method in adapter.methods:
        if METHODS[method].delta is None:
            raise AdapterError(
                f"adapter {adapter.name!r} can't be used here: {METHODS[method].no_delta} and have no ΔW; "
                "mix it as it is, or write it in the pigment form"
            )


_ORDER = ("conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block", "up_blocks")


def in_model_order(blocks: Iterable[str]) -> list[str]:
    """Sort block names (see `families.block_of`) as data flows: UNet in, down, mid, up, out; then text."""

    def place(block: str) -> tuple[int, int, str]:
        kind, _, index = block.partition(".")
        if block.startswith("text_encoder"):
            return len(_ORDER) + 1, 0, block
        return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER)), int(index or 0), block

    return sorted(set(blocks), key=place)


def modules_by_block(modules: Iterable[str]) -> dict[str, list[str]]:
    """Return the modules of each block, blocks in the model's order."""
    found: dict[str, list[str]] = {}
    for module in modules:
        found.setdefault(block_of(module), []).append(module)
    return {block: found[block] for block in in_model_order(found)}


def _device_of(factor: AnyFactors) -> torch.device:
    return next(iter(factor.parts.values())).device
