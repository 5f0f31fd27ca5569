"""Adapter files in: recognised by their keys, read whole or refused in one line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.adapter import Adapter, LowRank
from pipelines.errors import AdapterError
from pipelines.families import FAMILIES, Family, foreign_family
from pipelines.files import file_sha256
from pipelines.formats.container import FLOATS, Header, data_sha256, read_header, read_tensors
from pipelines.formats.keys import ALPHA, DOWN, UP, Parsed, fraction, other_method, sort_keys
from pipelines.formats.metadata import is_ours, read_metadata
from pipelines.formats.table import FORMATS, Format

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Recognised:
    """What the header alone says about a file."""

    header: Header
    format: Format
    family: Family
    parsed: Parsed


def read_adapter(path: str | Path) -> Adapter:
    """Read an adapter file in any form of FORMATS, whole.

    Nothing is skipped: every tensor must belong to a pair of factors of matching shapes with finite
    numbers. Whether the modules exist in a base is for `Adapter.check`.

    Raises: AdapterError in one line (damaged, hostile, pickle, another family or method, half pairs).
    """
    path = Path(path)
    found = recognise(path)
    raw = found.header.metadata
    if is_ours(raw) and (stated := raw.get("modelspec.hash_sha256")):
        actual = data_sha256(path, found.header.data_start)
        if stated.removeprefix("0x") != actual:
            raise AdapterError(
                f"{path.name!r} is damaged: its numbers have SHA-256 {actual[:12]}…, it states "
                f"{stated.removeprefix('0x')[:12]}…; fetch it again"
            )
    tensors = read_tensors(path)
    if tensors.keys() != found.header.tensors.keys():
        raise AdapterError(f"{path.name!r} changed while it was read; try again")
    name, triggers, metadata = read_metadata(raw, path.stem)
    adapter = Adapter(
        name=name,
        family=found.family.id,
        factors={module: _factor(module, found, tensors, path.name) for module in found.parsed.parts},
        triggers=triggers,
        metadata=metadata,
        sha256=file_sha256(path),
    )
    adapter.check_factors()
    return adapter


def inspect_adapter(path: str | Path) -> dict[str, Any]:
    """Say what an adapter file is from its header alone; no numbers are read, torch isn't needed.

    Returns: name, title, format, family, method, rank, components, modules (count), tensors (count),
    dtype, bytes, triggers, metadata.
    Raises: AdapterError like `read_adapter`, except for what only the numbers show.
    """
    path = Path(path)
    found = recognise(path)
    name, triggers, metadata = read_metadata(found.header.metadata, path.stem)
    entries = found.header.tensors
    downs = [entries[roles[DOWN]] for roles in found.parsed.parts.values()]
    return {
        "name": name,
        "title": found.header.metadata.get("modelspec.title", name)[:120],
        "format": found.format.id,
        "family": found.family.id,
        "method": "lora",
        "rank": max(entry.shape[0] for entry in downs),
        "components": sorted({module.split(".", 1)[0] for module in found.parsed.parts}),
        "modules": len(found.parsed.parts),
        "tensors": len(entries),
        "dtype": downs[0].dtype,
        "bytes": path.stat().st_size,
        "triggers": list(triggers),
        "metadata": metadata,
    }


def recognise(path: Path) -> Recognised:
    """Tell form and family of a file from its header, and check keys, pairs, shapes and kinds.

    Raises: AdapterError in one line.
    """
    header = read_header(path)
    shown, keys = path.name, list(header.tensors)
    if not keys:
        raise AdapterError(f"{shown!r} is empty: it holds no tensors; expected an adapter")
    if foreign := foreign_family(keys, header.metadata):
        supported = ", ".join(family.label for family in FAMILIES.values())
        raise AdapterError(f"{shown!r} is an adapter for {foreign}; supported: {supported}")
    candidates = [
        Recognised(header, row, family, sort_keys(keys, family, row.read_key))
        for family in FAMILIES.values()
        for row in FORMATS.values()
    ]
    best = min(candidates, key=lambda candidate: len(candidate.parsed.unknown))
    _check_keys(best, shown)
    _check_shapes(best, shown)
    return best


def _check_keys(found: Recognised, shown: str) -> None:
    parsed, tensors = found.parsed, found.header.tensors
    if parsed.unknown:
        if method := other_method(parsed.unknown):
            raise AdapterError(f"{shown!r} holds {method} weights; expected plain LoRA: resave it as LoRA")
        shapes = {key: entry.shape for key, entry in tensors.items()}
        kind = "an adapter" if parsed.parts else "an adapter (it may be a whole model)"
        raise AdapterError(
            f"{shown!r} isn't understood as {kind}: {fraction(shapes, parsed)} known, for instance not "
            f"{parsed.unknown[0][:100]!r}; expected kohya or diffusers LoRA keys"
        )
    if parsed.doubled:
        raise AdapterError(f"{shown!r} names one module twice, at {parsed.doubled[0][:100]!r}; resave it")
    for module, roles in parsed.parts.items():
        if DOWN not in roles or UP not in roles:
            lacking = "down" if DOWN not in roles else "up"
            raise AdapterError(f"{shown!r} is incomplete: {module} has no {lacking} factor; fetch it again")


def _check_shapes(found: Recognised, shown: str) -> None:
    for module, roles in found.parsed.parts.items():
        for role, key in roles.items():
            entry = found.header.tensors[key]
            if role == ALPHA and (entry.shape not in ((), (1,)) or entry.dtype == "BOOL"):
                raise AdapterError(
                    f"{shown!r} has an alpha of shape {entry.shape} at {module}; expected one number"
                )
            if role != ALPHA and entry.dtype not in FLOATS:
                raise AdapterError(
                    f"{shown!r} has {entry.dtype} numbers at {module}; expected F32, F16 or BF16"
                )
        down, up = (found.header.tensors[roles[role]].shape for role in (DOWN, UP))
        fits = len(down) in (2, 4) and len(up) in (2, 4) and 0 not in (*down, *up)
        if not fits or up[1] != down[0] or any(side != 1 for side in up[2:]):
            raise AdapterError(f"{shown!r} has factors that don't fit at {module}: down {down}, up {up}")


def _factor(module: str, found: Recognised, tensors: dict[str, torch.Tensor], shown: str) -> LowRank:
    roles = found.parsed.parts[module]
    down, up = tensors[roles[DOWN]], tensors[roles[UP]]
    if ALPHA in roles:
        alpha = float(tensors[roles[ALPHA]].item())
    else:
        alpha = found.format.stated_alpha(module, int(down.shape[0]), found.header.metadata, shown)
    return LowRank(down=down, up=up, alpha=alpha)
