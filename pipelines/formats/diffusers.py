"""The diffusers form: `unet.<path>.lora_A.weight` and `.lora_B.weight`.

Alpha has no tensor here. Files written by diffusers may carry it in the metadata
(`lora_adapter_metadata`); without that every reader takes the scale as 1. Files written here fold
the scale into `lora_B`, so that readers which ignore the metadata see the same ΔW.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pipelines.adapter import LowRank
from pipelines.errors import AdapterError
from pipelines.families import Family, with_text_model
from pipelines.formats.keys import DOWN, UP, Role, plain_unet_path

_ROLES: dict[str, Role] = {".lora_A.weight": DOWN, ".lora_B.weight": UP}


def parse_key(key: str, family: Family) -> tuple[str, Role] | None:
    """Return the canonical module name and role of a diffusers key, or None where it is none."""
    for ending, role in _ROLES.items():
        if not key.endswith(ending):
            continue
        component, _, path = key.removesuffix(ending).partition(".")
        if component == "unet":
            return None if plain_unet_path(path) is None else (f"unet.{path}", role)
        if any(encoder.component == component for encoder in family.text_encoders):
            return f"{component}.{path.removeprefix('text_model.')}", role
    return None


def format_key(module: str, role: Role, family: Family) -> str:
    """Return the diffusers key of a canonical module name; the role must be down or up."""
    component, path = module.split(".", 1)
    for encoder in family.text_encoders:
        # Older transformers need the level, newer ones take it away again.
        if encoder.component == component:
            path = with_text_model(path)
    return f"{component}.{path}.{'lora_A' if role == DOWN else 'lora_B'}.weight"


def unscaled(factors: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """State every module's factors with alpha equal to its rank, so that the scale is 1."""
    return {name: factor.with_alpha(float(factor.rank)) for name, factor in factors.items()}


def stated_alpha(module: str, rank: int, metadata: Mapping[str, str], shown: str) -> float:
    """Return the alpha that `lora_adapter_metadata` states for a module; `rank` where it is silent.

    Raises: AdapterError where it isn't readable, or states DoRA.
    """
    raw = metadata.get("lora_adapter_metadata")
    if raw is None:
        return float(rank)
    component, path = module.split(".", 1)
    try:
        stated: dict[str, Any] = json.loads(raw)
        field = {
            key.removeprefix(f"{component}."): value
            for key, value in stated.items()
            if key.startswith(f"{component}.")
        }
        if field.get("use_dora"):
            raise AdapterError(f"{shown!r} states DoRA; expected plain LoRA: resave it as LoRA")
        alpha = field.get("lora_alpha", rank)
        for pattern, value in (field.get("alpha_pattern") or {}).items():
            plain = pattern.lstrip("^").removesuffix("$").replace("\\.", ".").removeprefix("text_model.")
            if path == plain or path.endswith(f".{plain}"):
                alpha = value
        number = float(alpha) * (math.sqrt(rank) if field.get("use_rslora") else 1.0)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise AdapterError(
            f"{shown!r} has a lora_adapter_metadata entry that isn't readable; resave it"
        ) from None
    if not math.isfinite(number):
        raise AdapterError(f"{shown!r} states an alpha that isn't finite for {module}; resave it")
    return number
