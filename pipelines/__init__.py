"""A model at rest and in use: bases, adapters, mixing, generating, exporting.

The names below are loaded at first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Adapter": "adapter",
    "Base": "base",
    "ControlUse": "generation",
    "Factors": "adapter",
    "GenerationConfig": "generation",
    "ImagePromptUse": "generation",
    "Inputs": "generation",
    "LowRank": "adapter",
    "Mixer": "mixer",
    "PictureUse": "generation",
    "Recipe": "recipe",
    "StudioError": "errors",
    "Weights": "mixer",
    "as_lora": "tools",
    "balanced_weights": "interference",
    "edit_metadata": "formats",
    "export_adapter": "export",
    "extract": "tools",
    "find_adapters": "recipe",
    "index_folder": "index",
    "inspect_adapter": "formats",
    "load_base": "base",
    "merge_adapters": "merging",
    "read_adapter": "formats",
    "read_part": "formats",
    "read_recipe": "recipe",
    "resize": "tools",
    "write_adapter": "formats",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pipelines.{_WHERE[name]}"), name)
