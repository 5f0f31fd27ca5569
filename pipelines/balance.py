"""Weights at which adapters have the same effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipelines.adapter import Adapter
from pipelines.deltas import delta_of, layers_of
from pipelines.effects import effects
from pipelines.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pipelines.base import Base

MEASURES = {
    "norm": "the size of the change, ‖ΔW‖",
    "effect": "the change of the prediction, measured on fixed latents and prompts",
}
MAX_BALANCED = 3.0


def balanced_weights(
    adapters: Mapping[str, Adapter], base: Base | None = None, *, measure: str = "norm"
) -> dict[str, float]:
    """Propose weights at which the adapters have the same effect, with 1 as the mean weight.

    measure: a key of MEASURES. "norm" equalises wᵢ‖ΔWᵢ‖_F over all modules; "effect" needs a base and
    equalises wᵢ times the change that each adapter alone causes at weight 1 (see `effects`), as if
    that grew in proportion to the weight, which holds in first order only. Weights are clipped to at
    most 3, and then their mean is below 1. Adapters without any effect keep 1 and stand aside.

    Raises: ConfigError for an unknown measure or a missing base; AdapterError for adapters that don't
    fit the base.
    """
    if measure not in MEASURES:
        raise ConfigError(f"unknown measure {measure!r}{nearest(measure, MEASURES)}")
    if measure == "effect":
        if base is None:
            raise ConfigError("the effect of adapters is measured on a base; give one, or measure by 'norm'")
        sizes = effects(adapters, base)
    else:
        layers = layers_of(base, adapters.values())
        sizes = {
            name: sum(delta_of(adapter, module, layers).norm() ** 2 for module in adapter.factors) ** 0.5
            for name, adapter in adapters.items()
        }
    shares = {name: 1 / size for name, size in sizes.items() if size > 0}
    mean = sum(shares.values()) / max(1, len(shares))
    return {name: min(MAX_BALANCED, shares[name] / mean) if name in shares else 1.0 for name in adapters}
