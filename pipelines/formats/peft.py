"""The PEFT form: a folder with one of PEFT's own folders per component."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.adapter import Adapter, AnyFactors, Factors, LowRank
from pipelines.errors import AdapterError, nearest
from pipelines.families import FAMILIES, Family
from pipelines.formats.container import Entry, Header, data_sha256, read_tensors
from pipelines.formats.keys import Parsed
from pipelines.formats.metadata import is_ours, read_metadata
from pipelines.formats.peft_folder import (
    CONFIG,
    MODEL,
    PeftFolder,
    canonical,
    component_of,
    folders_sha256,
    locate,
    open_folder,
)
from pipelines.formats.peft_writing import write_peft
from pipelines.formats.recognition import Clues, Ghost
from pipelines.methods.tensors import UNFIT

if TYPE_CHECKING:
    import torch

__all__ = ["inspect_peft", "is_peft", "read_peft", "write_peft"]


def is_peft(path: str | Path) -> bool:
    """Whether a path is one of PEFT's folders, a folder of them, or the file of tensors in one."""
    return bool(locate(Path(path)))


def read_peft(path: str | Path, *, family: str | None = None) -> Adapter:
    """Read an adapter that PEFT or `write_peft` wrote, whole.

    path: a folder with one of PEFT's folders per component, one such folder, or its
    adapter_model.safetensors with the configuration beside it. family: a key of FAMILIES, used where
    the folder itself doesn't say and its shapes don't tell.

    Raises: AdapterError in one line; nothing is skipped, and a setting that can't be honoured is named.
    """
    path = Path(path)
    folders = _open(path, family)
    factors: dict[str, AnyFactors] = {}
    for component, folder in folders.items():
        raw = folder.header.metadata
        if is_ours(raw) and (stated := raw.get("modelspec.hash_sha256")):
            actual = data_sha256(folder.model, folder.header.data_start)
            if stated.removeprefix("0x") != actual:
                raise AdapterError(
                    f"{folder.shown!r} is damaged: its numbers have SHA-256 {actual[:12]}…, it states "
                    f"{stated.removeprefix('0x')[:12]!r}…; fetch it again"
                )
        tensors = read_tensors(folder.model)
        if tensors.keys() != folder.header.tensors.keys():
            raise AdapterError(f"{folder.shown!r} changed while it was read; try again")
        for module_path in folder.parts:
            factors[f"{component}.{module_path}"] = _factor(folder, module_path, tensors)
    first = next(iter(folders.values()))
    name, triggers, metadata = _metadata(path, first)
    adapter = Adapter(
        name=name,
        family=_family(folders, family).id,
        method=_commonest(factor.method for factor in factors.values()),
        factors=factors,
        triggers=triggers,
        metadata=metadata,
        sha256=folders_sha256({component: folder.model.parent for component, folder in folders.items()}),
    )
    adapter.check_factors()
    return adapter


def inspect_peft(path: str | Path, *, family: str | None = None) -> dict[str, Any]:
    """Say what an adapter of PEFT's is from its headers alone; the fields are `inspect_adapter`'s.

    Raises: AdapterError like `read_peft`, except for what only the numbers show.
    """
    path = Path(path)
    folders = _open(path, family)
    first = next(iter(folders.values()))
    name, triggers, metadata = _metadata(path, first)
    entries = [entry for folder in folders.values() for entry in folder.header.tensors.values()]
    ghosts = [_ghost(folder, module_path) for _, module_path, folder in canonical(folders)]
    return {
        "name": name,
        "title": first.header.metadata.get("modelspec.title", name)[:120],
        "format": "peft",
        "family": _family(folders, family).id,
        "method": _commonest(factor.method for factor in ghosts),
        "methods": sorted({factor.method for factor in ghosts}),
        "rank": max(factor.rank for factor in ghosts),
        "alpha": _commonest(factor.alpha for factor in ghosts),
        "components": sorted(folders),
        "modules": len(ghosts),
        "tokens": [],
        "tensors": len(entries),
        "dtype": _commonest(entry.dtype for entry in entries),
        "bytes": sum(folder.model.stat().st_size for folder in folders.values()),
        "triggers": list(triggers),
        "metadata": metadata,
    }


def _open(path: Path, family: str | None) -> dict[str, PeftFolder]:
    if family is not None and family not in FAMILIES:
        raise AdapterError(f"unknown family {family!r}{nearest(family, FAMILIES)}")
    found = locate(path)
    if not found:
        raise AdapterError(
            f"{path.name!r} is no folder of PEFT's; expected {CONFIG} and {MODEL}, or unet/ and "
            "text_encoder/ with them"
        )
    folders: dict[str, PeftFolder] = {}
    for named, model in found.items():
        folder = open_folder(model)
        folders[component_of(folder, named, family)] = folder
    return folders


def _family(folders: Mapping[str, PeftFolder], hint: str | None) -> Family:
    """Weigh the evidence of all components together, as for files of the other forms."""
    tensors: dict[str, Entry] = {}
    parts: dict[str, dict[str, str]] = {}
    for module, path, folder in canonical(folders):
        for part, key in folder.parts[path].items():
            entry = folder.header.tensors[key]
            # AdaLoRA flattens; in `down` only the number of columns matters to the clues.
            tensors[f"{module}.{part}"] = entry
            parts.setdefault(module, {})[part] = f"{module}.{part}"
    metadata = next(iter(folders.values())).header.metadata
    return Clues(Header(tensors, metadata, 0), Parsed(parts=parts), hint).best()


def _stated(folder: PeftFolder, path: str, parts: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    row = folder.methods[path]
    assert row.from_peft is not None
    try:
        return row.from_peft(folder.config, path, parts)
    except AdapterError as error:
        raise AdapterError(f"{folder.shown!r}: {error}") from None
    except UNFIT:
        raise AdapterError(_unfit(folder, path)) from None


def _unfit(folder: PeftFolder, path: str) -> str:
    return f"{folder.shown!r} has tensors and settings that don't belong together at {path}; fetch it again"


def _factor(folder: PeftFolder, path: str, tensors: Mapping[str, torch.Tensor]) -> AnyFactors:
    row = folder.methods[path]
    parts: Mapping[str, Any] = {part: tensors[key] for part, key in folder.parts[path].items()}
    alpha, options = _stated(folder, path, parts)
    if row.parts_from_peft is not None:
        try:
            parts = row.parts_from_peft(parts, options)
        except UNFIT:
            raise AdapterError(_unfit(folder, path)) from None
        options = {name: value for name, value in options.items() if name not in parts}
    if row.id == LowRank.method:
        return LowRank(down=parts["down"], up=parts["up"], alpha=alpha)
    return Factors(method=row.id, parts=parts, alpha=alpha, options=options)


def _ghost(folder: PeftFolder, path: str) -> AnyFactors:
    row = folder.methods[path]
    entries = folder.header.tensors
    parts: dict[str, Any] = {part: Ghost(entries[key].shape) for part, key in folder.parts[path].items()}
    alpha, options = _stated(folder, path, parts)
    if row.id == LowRank.method:
        return LowRank(down=parts["down"], up=parts["up"], alpha=alpha)
    return Factors(method=row.id, parts=parts, alpha=alpha, options=options)


def _metadata(path: Path, first: PeftFolder) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Name, triggers and metadata; a folder without a name of its own is called as it is on disk."""
    called = path if path.is_dir() else path.parent
    return read_metadata(first.header.metadata, called.with_name(f"{called.name}.safetensors"))


def _commonest(values: Any) -> Any:
    return Counter(values).most_common(1)[0][0]
