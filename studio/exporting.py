"""What the page offers for taking an adapter away: the forms, and a file for each."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.formats import FORMATS
from pipelines.methods import METHODS
from studio.examples import example_sets
from studio.library import Entry
from studio.workspace import Workspace

DEFAULT_RANK = 32
"""Of the plain LoRA that another method is turned into; on the page, a slider changes it."""


def methods_of(entry: Entry) -> list[str]:
    """The methods of an adapter's modules; empty for learned words alone."""
    stated = entry.info.get("methods") or [entry.info.get("method", "lora")]
    return [method for method in stated if method in METHODS]


def holds(format: str, entry: Entry) -> bool:
    """Whether a form keeps the adapter as it is."""
    row, methods = FORMATS[format], methods_of(entry)
    if entry.info.get("tokens"):
        return row.tokens and (row.exact or not entry.info.get("modules"))
    return bool(methods) and all(row.holds(method) for method in methods)


def becomes_lora(format: str, entry: Entry) -> bool:
    """Whether a form takes the adapter only as plain LoRA."""
    return not holds(format, entry) and not entry.info.get("tokens") and FORMATS[format].holds("lora")


def halves(format: str, entry: Entry) -> str:
    """Which half of an adapter of weights and words a form takes, "weights" or "words"; empty: not one."""
    if holds(format, entry) or not (entry.info.get("tokens") and entry.info.get("modules")):
        return ""
    if FORMATS[format].tokens:
        return "words"
    return "weights" if all(FORMATS[format].holds(method) for method in methods_of(entry)) else ""


def choices(entry: Entry) -> list[tuple[str, str]]:
    """(label, form) of what the adapter can be taken away as, exact ones first."""
    exact = [(f"{row.label}: {row.readers}", form) for form, row in FORMATS.items() if holds(form, entry)]
    lora = [
        (f"{row.label}, as plain LoRA: {row.readers}", form)
        for form, row in FORMATS.items()
        if becomes_lora(form, entry)
    ]
    apart = [
        (f"{row.label}, its {half} alone: {row.readers}", form)
        for form, row in FORMATS.items()
        if (half := halves(form, entry))
    ]
    return exact + apart + lora


def file_name(stem: str, format: str) -> str:
    """The name of the file that is downloaded; a form that is a folder comes as a zip."""
    return f"{stem}-{format}{'.safetensors' if FORMATS[format].kind == 'file' else '.zip'}"


def cover_file(workspace: Workspace, entry: Entry) -> Path | None:
    """The picture shown for an adapter, or None where it has none (any more)."""
    kind, *rest = (entry.cover or "").split("/")
    path: Path | None = None
    if kind == "preview" and len(rest) == 2:
        path = workspace.folder("runs", rest[0], "previews", rest[1])
    elif kind == "image" and len(rest) == 1:
        path = workspace.folder("images", f"{rest[0]}.png")
    elif kind == "example" and len(rest) == 2:
        found = [picture for one in example_sets() if one.id == rest[0] for picture in one.pictures]
        path = found[int(rest[1])] if int(rest[1]) < len(found) else None
    return path if path is not None and path.is_file() else None


def with_cover(adapter: Any, cover: Path | None) -> Any:
    """The adapter with its picture among the metadata, for other tools; one that is there already stays."""
    if cover is None or adapter.metadata.get("modelspec.thumbnail"):
        return adapter
    from pipelines.formats.editing import cover_url

    return replace(adapter, metadata={**adapter.metadata, "modelspec.thumbnail": cover_url(cover)})


def write(adapter: Any, target: Path, format: str, base: Any, as_lora: int | None) -> Any:
    """Export an adapter to `target` and return the report; a folder is packed into a zip.

    Raises: StudioError where a check fails; an older file of that name stays then.
    """
    from pipelines.export import export_adapter

    if FORMATS[format].kind == "file":
        return export_adapter(adapter, target, format, base=base, as_lora=as_lora)
    folder = target.with_suffix("")
    try:
        report = export_adapter(adapter, folder, format, base=base, as_lora=as_lora)
        trial = target.with_name(f".{target.name}")
        with zipfile.ZipFile(trial, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder.parent).as_posix())
        trial.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report
