"""A model at rest and in use: bases, adapters, mixing, generating, exporting.

The names below are loaded at first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "load_base": "base",
    "Base": "base",
    "Adapter": "adapter",
    "LowRank": "adapter",
    "read_adapter": "formats",
    "write_adapter": "formats",
    "inspect_adapter": "formats",
    "Mixer": "mixer",
    "GenerationConfig": "generate",
    "export_adapter": "export",
    "StudioError": "errors",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pipelines.{_WHERE[name]}"), name)
