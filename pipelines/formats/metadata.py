"""What an adapter file says about itself, in the spellings that other tools read.

All values are strings. `ss_*` come from kohya's trainer, `modelspec.*` from the ModelSpec; both
are facts about the adapter and are written anew each time. Everything else that Pigment knows lies
in one JSON text under `pigment`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.adapter import Adapter
from pipelines.families import FAMILIES

PIGMENT_KEY = "pigment"
_FOREIGN = ("ss_", "sshs_", "ssmd_", "modelspec.")
# Stated anew by the writer, or true only of the file they stood in.
_RENEWED = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", "lora_adapter_metadata", "format")


def file_metadata(adapter: Adapter, *, rank: int, alpha: float) -> dict[str, str]:
    """Return the metadata of a file that holds `adapter`.

    rank, alpha: as the file's tensors have them (the writer may have folded alphas). Keys of
    `adapter.metadata` that begin with ss_, ssmd_ or modelspec. stand by themselves, unless they are
    stated here; the others go into the `pigment` JSON.
    """
    family = FAMILIES[adapter.family]
    carried = {k: v for k, v in adapter.metadata.items() if k not in _RENEWED and k != PIGMENT_KEY}
    own = {k: v for k, v in carried.items() if not k.startswith(_FOREIGN)}
    stated = {k: v for k, v in carried.items() if k.startswith(_FOREIGN)}
    stated |= {
        "format": "pt",
        "ss_v2": family.ss_v2,
        "ss_base_model_version": family.base_model_version,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_args": stated.get("ss_network_args", "{}"),
        "ss_output_name": adapter.name,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": family.architecture,
        "modelspec.implementation": "diffusers",
        "modelspec.title": adapter.name,
    }
    if adapter.triggers:
        stated["modelspec.trigger_phrase"] = ", ".join(adapter.triggers)
    about = {
        "version": 1,
        "name": adapter.name,
        "family": adapter.family,
        "method": adapter.method,
        "triggers": list(adapter.triggers),
        "metadata": own,
    }
    stated[PIGMENT_KEY] = json.dumps(about, ensure_ascii=False, sort_keys=True)
    return stated


def read_metadata(raw: Mapping[str, str], fallback_name: str) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Return (name, triggers, metadata) of a file's metadata; what isn't readable counts as absent.

    fallback_name: the name where the file states none.
    """
    about = _about(raw)
    name = about.get("name") or raw.get("ss_output_name") or raw.get("modelspec.title") or fallback_name
    triggers = about.get("triggers")
    if not _texts(triggers):
        phrase = raw.get("modelspec.trigger_phrase", "")
        triggers = [word.strip() for word in phrase.split(",") if word.strip()]
    metadata = {k: v for k, v in raw.items() if k != PIGMENT_KEY and k not in _RENEWED}
    own = about.get("metadata")
    if isinstance(own, dict):
        metadata |= {str(k): v for k, v in own.items() if isinstance(v, str)}
    return _one_line(str(name)) or fallback_name, tuple(triggers or ()), metadata


def is_ours(raw: Mapping[str, str]) -> bool:
    """Whether Pigment wrote the file, so that its stated hash can be held to."""
    return bool(_about(raw))


def _about(raw: Mapping[str, str]) -> dict[str, Any]:
    try:
        about = json.loads(raw.get(PIGMENT_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _texts(value: object) -> bool:
    return (
        isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, str) for v in value)
    )


def _one_line(text: str) -> str:
    """A name for people: one line of printable characters, at most 120."""
    return "".join(c if c.isprintable() else " " for c in text).strip()[:120]
