"""What an adapter file says about itself, in the spellings that other tools read.

All values are strings. `ss_*` come from kohya's trainer, `modelspec.*` from the ModelSpec; both
are facts about the adapter and are written anew each time. Everything else that Pigment knows lies
in one JSON text under `pigment`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.adapter import Adapter
from pipelines.families import FAMILIES
from pipelines.plain_json import parse_json

PIGMENT_KEY = "pigment"
LYCORIS = "lycoris.kohya"
HASHES = ("modelspec.hash_sha256", "sshs_model_hash")
_FOREIGN = ("ss_", "sshs_", "ssmd_", "modelspec.")
# Stated anew by the writer, or true only of the file they stood in.
_RENEWED = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", "lora_adapter_metadata", "format")

# How LyCORIS calls a method in ss_network_args, where that isn't the method's own id.
_LYCORIS_ARGS: dict[str, dict[str, str]] = {
    "lora": {"algo": "locon"},
    "dora": {"algo": "locon", "dora_wd": "True"},
}
# What A1111's and Forge's sidecar files say, by the key that takes it in.
_SIDECAR = {"description": "modelspec.description", "notes": "modelspec.usage_hint",
            "preferred weight": "preferred_weight"}  # fmt: skip
_MAX_SIDECAR_BYTES = 1_000_000


def file_metadata(
    adapter: Adapter,
    *,
    rank: int,
    alpha: float,
    module: str = "networks.lora",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the metadata of a file that holds `adapter`.

    rank, alpha: as the file's tensors have them (the writer may have folded alphas). module: what
    `ss_network_module` says; LyCORIS' has the method in `ss_network_args`. extra: what else the
    `pigment` JSON says. Keys of `adapter.metadata` that begin with ss_, ssmd_ or modelspec. stand by
    themselves, unless they are stated here; the others go into the `pigment` JSON.
    """
    family = FAMILIES[adapter.family]
    carried = {k: v for k, v in adapter.metadata.items() if k not in _RENEWED and k != PIGMENT_KEY}
    own = {k: v for k, v in carried.items() if not k.startswith(_FOREIGN)}
    stated = {k: v for k, v in carried.items() if k.startswith(_FOREIGN)}
    args = stated.get("ss_network_args", "{}")
    if module == LYCORIS:
        args = json.dumps(_LYCORIS_ARGS.get(adapter.method, {"algo": adapter.method}), sort_keys=True)
    stated |= {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": family.architecture,
        "modelspec.implementation": "diffusers",
        "modelspec.title": adapter.name,
    }
    if adapter.factors:
        stated |= {
            "ss_v2": family.ss_v2,
            "ss_base_model_version": family.base_model_version,
            "ss_network_module": module,
            "ss_network_dim": str(rank),
            "ss_network_alpha": f"{alpha:g}",
            "ss_network_args": args,
            "ss_output_name": adapter.name,
        }
    else:
        stated["modelspec.architecture"] = f"{family.architecture.split('/')[0]}/textual-inversion"
    if adapter.triggers:
        stated["modelspec.trigger_phrase"] = ", ".join(adapter.triggers)
    about = {
        "version": 1,
        "name": adapter.name,
        "family": adapter.family,
        "method": adapter.method,
        "triggers": list(adapter.triggers),
        "metadata": own,
        **(extra or {}),
    }
    stated[PIGMENT_KEY] = json.dumps(about, ensure_ascii=False, sort_keys=True)
    return stated


def read_metadata(raw: Mapping[str, str], path: Path) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Return (name, triggers, metadata) of a file's metadata; what isn't readable counts as absent.

    path: the file, by whose name it is called where it states none. What it doesn't say of itself is
    taken from `<name>.json` beside it, the sidecar that A1111 and Forge write.
    """
    about = about_of(raw)
    name = about.get("name") or raw.get("ss_output_name") or raw.get("modelspec.title") or path.stem
    triggers = about.get("triggers")
    if not _texts(triggers):
        triggers = _words(raw.get("modelspec.trigger_phrase", ""))
    metadata = {k: v for k, v in raw.items() if k != PIGMENT_KEY and k not in _RENEWED}
    own = about.get("metadata")
    if isinstance(own, dict):
        metadata |= {str(k): v for k, v in own.items() if isinstance(v, str)}
    beside = _sidecar(path)
    if not triggers:
        triggers = _words(str(beside.get("activation text") or ""))
    for field, key in _SIDECAR.items():
        if key not in metadata and isinstance(beside.get(field), str | int | float) and beside[field] != "":
            metadata[key] = str(beside[field])
    return _one_line(str(name)) or path.stem, tuple(triggers or ()), metadata


def is_ours(raw: Mapping[str, str]) -> bool:
    """Whether Pigment wrote the file, so that its stated hash can be held to."""
    return bool(about_of(raw))


def about_of(raw: Mapping[str, str]) -> dict[str, Any]:
    """Return what the `pigment` JSON says; empty where there is none or it isn't readable."""
    if PIGMENT_KEY not in raw:
        return {}
    try:
        about = parse_json(raw[PIGMENT_KEY])
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def _sidecar(path: Path) -> dict[str, Any]:
    beside = path.with_suffix(".json")
    try:
        if beside.stat().st_size > _MAX_SIDECAR_BYTES:
            return {}
        found = parse_json(beside.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _words(phrase: str) -> list[str]:
    return [word.strip() for word in phrase.split(",") if word.strip()]


def _texts(value: object) -> bool:
    return (
        isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, str) for v in value)
    )


def _one_line(text: str) -> str:
    """A name for people: one line of printable characters, at most 120."""
    return "".join(c if c.isprintable() else " " for c in text).strip()[:120]
