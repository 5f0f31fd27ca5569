"""The diffusers form: `unet.<path>.lora_A.weight` and `.lora_B.weight`.

Alpha has no tensor here. Files written by diffusers may carry it in the metadata
(`lora_adapter_metadata`); without that every reader takes the scale as 1. Files written here fold
the scale into `lora_B`, so that readers which ignore the metadata see the same ΔW. Older diffusers
wrote `unet.<path>.processor.to_q_lora.down.weight`; that is read as well.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pipelines.adapter import AnyFactors, LowRank
from pipelines.errors import AdapterError
from pipelines.families import Family, with_text_model
from pipelines.formats.keys import DOWN, UP, ending_of, peft_endings, plain_unet_path
from pipelines.formats.kohya import restated
from pipelines.methods.peft_config import pattern_value

_OLD = re.compile(
    r"(?:\.processor\.(to_q|to_k|to_v|to_out)_lora|\.(to_q|to_k|to_v|to_out)_lora|\.lora|\.lora_linear_layer)"
    r"\.(down|up)\.weight$"
)
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_OLD_UNET = {"to_out": "to_out.0"}


def read_key(key: str, family: Family) -> tuple[str, str] | None:
    """Return the canonical module name and part of a diffusers key, or None where it is none."""
    component, _, rest = key.partition(".")
    if component != "unet" and component not in family.components:
        return None
    split = _split(rest, component)
    if split is None:
        return None
    path, part = split
    if component == "unet":
        return None if plain_unet_path(path) is None else (f"unet.{path}", part)
    return f"{component}.{path.removeprefix('text_model.')}", part


def _split(rest: str, component: str) -> tuple[str, str] | None:
    """Split what follows the component into a module's path and a part name."""
    if old := _OLD.search(rest):
        layer, names = old[1] or old[2], _OLD_UNET if component == "unet" else _OLD_TEXT
        path = rest[: old.start()] + (f".{names.get(layer, layer)}" if layer else "")
        return path, DOWN if old[3] == "down" else UP
    endings = peft_endings("LORA")
    pieces = rest.split(".")
    for count in (3, 2, 1):
        part = endings.get(".".join(pieces[-count:]))
        if part and len(pieces) > count:
            return ".".join(pieces[:-count]), part
    return None


def write_key(module: str, part: str, family: Family) -> str:
    """Return the diffusers key of a canonical module name and part."""
    component, path = module.split(".", 1)
    if component != "unet":
        # Older transformers need the level, newer ones take it away again.
        path = with_text_model(path)
    return f"{component}.{path}.{ending_of(part, 'peft')}"


def unscaled(factors: Mapping[str, AnyFactors]) -> dict[str, AnyFactors]:
    """State every module's factors with alpha equal to its rank, so that the scale is 1."""
    return {
        name: restated(factor, float(factor.rank))
        if isinstance(factor, LowRank) or UP in factor.parts
        else factor
        for name, factor in factors.items()
    }


def stated_alpha(module: str, rank: int, metadata: Mapping[str, str], shown: str) -> float:
    """Return the alpha that `lora_adapter_metadata` states for a module; `rank` where it is silent.

    Raises: AdapterError where it isn't readable.
    """
    raw = metadata.get("lora_adapter_metadata")
    if raw is None:
        return float(rank)
    component, path = module.split(".", 1)
    try:
        field = _fields(raw, component)
        alpha = field.get("lora_alpha", rank)
        patterns = field.get("alpha_pattern") or {}
        if patterns:  # names as they are in the model, with the level that canonical ones leave out
            spelled = path if component == "unet" else with_text_model(path)
            alpha = pattern_value(patterns, path, pattern_value(patterns, spelled, alpha))
        number = float(alpha) * (math.sqrt(rank) if field.get("use_rslora") else 1.0)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise AdapterError(
            f"{shown!r} has a lora_adapter_metadata entry that isn't readable; resave it"
        ) from None
    if not math.isfinite(number):
        raise AdapterError(f"{shown!r} states an alpha that isn't finite for {module}; resave it")
    return number


def states_dora(component: str, metadata: Mapping[str, str]) -> bool:
    """Whether `lora_adapter_metadata` says that a component's adapter is DoRA."""
    try:
        return bool(_fields(metadata.get("lora_adapter_metadata", "{}"), component).get("use_dora"))
    except (ValueError, AttributeError, RecursionError):
        return False


@lru_cache(maxsize=8)
def _fields(raw: str, component: str) -> dict[str, Any]:
    """Return what `lora_adapter_metadata` says of one component. Raises: ValueError, AttributeError."""
    stated: dict[str, Any] = json.loads(raw)
    start = f"{component}."
    return {key.removeprefix(start): value for key, value in stated.items() if key.startswith(start)}
