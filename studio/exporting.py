"""Taking an adapter away: which form suits a tool, what is asked of an export, and the file it makes."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.errors import AdapterError, ConfigError, nearest
from pipelines.files import sync_folder, sync_tree
from pipelines.formats import FORMATS
from pipelines.methods import METHODS
from studio.covers import cover_file as cover_file
from studio.library import Entry

if TYPE_CHECKING:
    from studio.context import Context
    from studio.work.job import Job
    from studio.workspace import Workspace

DEFAULT_RANK = 32
"""Of the plain LoRA that another method is turned into; a person may ask for another."""

TOOLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "comfyui": ("ComfyUI", ("kohya", "lycoris", "embedding")),
    "a1111": ("AUTOMATIC1111", ("kohya", "embedding")),
    "forge": ("Forge", ("kohya", "lycoris", "embedding")),
    "invokeai": ("InvokeAI", ("kohya", "diffusers", "lycoris", "embedding")),
    "diffusers": ("diffusers", ("diffusers", "kohya", "embedding")),
    "peft": ("PEFT", ("peft",)),
    "pigment": ("Pigment", ("pigment",)),
}
"""The tools that files are made for, and the forms that each reads, the likeliest first."""


class ExportRequest(BaseModel):
    """What is asked of an export.

    adapter: its id. as_lora: turn the method into plain LoRA (or cut plain LoRA to another rank) by `rank`,
    `energy` or `error`, see `pipelines.lowrank.RankRule`; needed where the form can't hold the method. only:
    the half of an adapter of weights and words, where the form takes one. allow_left_out: of biases and
    norms, which plain LoRA can't hold. picture: also compare a picture through diffusers. base, options:
    what that is drawn with (fields of BaseOptions).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: str
    format: str = "kohya"
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    as_lora: bool = False
    rank: int | None = Field(default=None, ge=1, le=1024)
    energy: float | None = Field(default=None, gt=0, le=1)
    error: float | None = Field(default=None, ge=0, lt=1)
    only: Literal["", "weights", "words"] = ""
    allow_left_out: bool = False
    picture: bool = True
    base: str = "pocket"
    options: dict[str, Any] = {}


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


def suited(tool: str, entry: Entry) -> list[str]:
    """The forms that a tool reads an adapter in, the best first: exact ones, halves, then plain LoRA.

    Raises:
        ConfigError: an unknown tool.
    """
    if tool not in TOOLS:
        raise ConfigError(f"unknown tool {tool!r}{nearest(tool, TOOLS)}")
    forms = TOOLS[tool][1]
    ways = (holds, halves, becomes_lora)
    return list(dict.fromkeys(form for way in ways for form in forms if way(form, entry)))


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


def checked(request: ExportRequest, entry: Entry) -> ExportRequest:
    """A request with what follows from its form filled in.

    Raises:
        AdapterError: the form doesn't take the adapter.
    """
    if request.format not in FORMATS:
        raise AdapterError(f"unknown format {request.format!r}{nearest(request.format, FORMATS)}")
    row = FORMATS[request.format]
    half = halves(request.format, entry)
    if not (holds(request.format, entry) or half or becomes_lora(request.format, entry)):
        raise AdapterError(f"{entry.name!r} can't be exported as {row.label}; choose another form")
    as_lora = request.as_lora or becomes_lora(request.format, entry)
    if as_lora and (entry.info.get("tokens") or not row.holds("lora")):
        raise AdapterError(f"{row.label} can't hold {entry.name!r} as plain LoRA; leave “as plain LoRA” out")
    stated = (request.rank, request.energy, request.error) != (None, None, None)
    if stated and not as_lora:
        raise ConfigError("rank, energy and error belong to “as plain LoRA”; turn it on, or leave them out")
    changes: dict[str, Any] = {"as_lora": as_lora, "only": request.only or half}
    if as_lora and not stated:
        changes["rank"] = DEFAULT_RANK
    return request.model_copy(update=changes)


def start(context: Context, request: ExportRequest) -> Job:
    """Queue an export; its job's result holds the report, `exported` is its file.

    Raises:
        StudioError: what is wrong with the request; nothing has been queued.
    """
    entry = context.library.get(request.adapter)
    ready = checked(request, entry)
    config = ready.model_dump(mode="json") | {"base": context.base, "options": asdict(context.options)}
    details = {"adapter": entry.id, "format": ready.format}
    job = context.jobs.submit("export", entry.name, config, details=details)
    context.runner.wake()
    return job


def folder_of(workspace: Workspace, job: Job) -> Path:
    """Where the file of an export is kept for download."""
    return workspace.folder("cache", "exports", job.id)


def exported(workspace: Workspace, job: Job) -> Path | None:
    """The file that an export made; None where it isn't done, or the file was cleared away."""
    name = str(job.result.get("file", ""))
    if job.kind != "export" or job.state != "done" or Path(name).name != name or not name:
        return None
    path = folder_of(workspace, job) / name
    return path if path.is_file() else None


def file_name(stem: str, format: str) -> str:
    """The name of the file that is downloaded; a form that is a folder comes as a zip."""
    return f"{stem}-{format}{'.safetensors' if FORMATS[format].kind == 'file' else '.zip'}"


def with_cover(adapter: Any, cover: Path | None) -> Any:
    """The adapter with its picture among the metadata, for other tools; one that is there already stays."""
    if cover is None or adapter.metadata.get("modelspec.thumbnail"):
        return adapter
    from pipelines.formats.editing import cover_url

    return replace(adapter, metadata={**adapter.metadata, "modelspec.thumbnail": cover_url(cover)})


def write(
    adapter: Any, target: Path, format: str, base: Any, as_lora: Any = None, *, dtype: str = "fp16",
    allow_left_out: bool = False,
) -> Any:  # fmt: skip
    """Export an adapter to `target` and return the report; a folder is packed into a zip.

    as_lora: a rank or a RankRule; None keeps the method.

    Raises: StudioError where a check fails; an older file of that name stays then.
    """
    from pipelines.export import export_adapter

    settings: dict[str, Any] = {"dtype": dtype, "base": base, "as_lora": as_lora}
    settings["allow_left_out"] = allow_left_out
    if FORMATS[format].kind == "file":
        return export_adapter(adapter, target, format, **settings)
    folder = target.with_suffix("")
    try:
        report = export_adapter(adapter, folder, format, **settings)
        trial = target.with_name(f".{target.name}")
        with zipfile.ZipFile(trial, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder.parent).as_posix())
        sync_tree(trial)
        trial.replace(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report
