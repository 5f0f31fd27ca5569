"""What jobs load to do their work: a base beside the one that draws, or none where it can't be had."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from studio.bases import BaseOptions


def load_weights(base: str, options: dict[str, Any]) -> Any:
    """A base whose weights alone are wanted: on the CPU, so that the device stays free.

    Raises:
        BaseError: it can't be loaded.
    """
    from pipelines.bases.libraries import load_libraries

    load_libraries()
    return BaseOptions(**{**options, "device": "cpu", "precision": "fp32", "placement": {}}).load(base)


def need_weights(adapters: Iterable[Any]) -> bool:
    """Whether ΔW of some adapter depends on the base's weights (DoRA, IA3 …)."""
    from pipelines.methods import METHODS

    return any(METHODS[method].needs_weight for adapter in adapters for method in adapter.methods)
