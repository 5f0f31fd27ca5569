"""New adapters out of those in the library: what is asked of a resize, a conversion, a merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.errors import AdapterError, ConfigError, nearest
from pipelines.formats import FORMATS
from pipelines.merging import MERGES
from studio.exporting import becomes_lora, holds

if TYPE_CHECKING:
    from studio.context import Context
    from studio.library import Library
    from studio.work.job import Job

Dtype = Literal["fp16", "bf16", "fp32"]


class _Asked(BaseModel):
    """What all three have. name: of the result, empty: made of the others'. base, options: whose weights are
    looked at where ΔW depends on them (DoRA …)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="", max_length=200)
    dtype: Dtype = "fp16"
    base: str = "pocket"
    options: dict[str, Any] = {}


class ResizeRequest(_Asked):
    """Plain LoRA of another rank: at most `rank`, or as much as keeps `energy` or stays within `error`."""

    adapter: str
    rank: int | None = Field(default=None, ge=1, le=1024)
    energy: float | None = Field(default=None, gt=0, le=1)
    error: float | None = Field(default=None, ge=0, lt=1)
    allow_left_out: bool = False


class ConvertRequest(_Asked):
    """The same ΔW in another form or precision."""

    adapter: str
    format: str = "kohya"


class Part(BaseModel):
    """One adapter of a merge. id: of the library; text: the weight of the text encoders, None: `weight`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    weight: float = Field(default=1.0, ge=-2, le=3)
    text: float | None = Field(default=None, ge=-2, le=3)


class MergeRequest(_Asked):
    """Several adapters as one. method: a key of MERGES; the others are its parameters, None: its defaults."""

    parts: tuple[Part, ...] = Field(min_length=2, max_length=16)
    method: str = "cat"
    rank: int | None = Field(default=None, ge=1, le=1024)
    density: float | None = None
    majority_sign: str | None = None
    seed: int | None = None
    allow_left_out: bool = False


def _check_resize(library: Library, asked: ResizeRequest) -> str:
    entry = library.get(asked.adapter)
    if (asked.rank, asked.energy, asked.error) == (None, None, None):
        raise ConfigError("nothing says how small it should become; give a rank, an energy or an error")
    if not entry.info.get("modules"):
        raise AdapterError(f"{entry.name!r} is learned words alone, which have no rank")
    return f"{entry.name} resized"


def _check_convert(library: Library, asked: ConvertRequest) -> str:
    entry = library.get(asked.adapter)
    if asked.format not in FORMATS:
        raise AdapterError(f"unknown format {asked.format!r}{nearest(asked.format, FORMATS)}")
    row = FORMATS[asked.format]
    if row.kind != "file":
        raise AdapterError(f"{row.label} isn't one file, as the library keeps them; export it instead")
    if not holds(asked.format, entry):
        way = "export or resize it as plain LoRA" if becomes_lora(asked.format, entry) else "export a half"
        raise AdapterError(f"{row.label} can't hold {entry.name!r} as it is; {way}")
    return f"{entry.name} as {asked.format}"


def _check_merge(library: Library, asked: MergeRequest) -> str:
    if asked.method not in MERGES:
        raise ConfigError(f"unknown merge method {asked.method!r}{nearest(asked.method, MERGES)}")
    given = {name: getattr(asked, name) for name in ("rank", "density", "majority_sign", "seed")}
    MERGES[asked.method].resolve(given)
    entries = [library.get(part.id) for part in asked.parts]
    families = {entry.family for entry in entries}
    if len(families) > 1:
        raise AdapterError(f"adapters of {' and '.join(sorted(families))} can't be merged; choose one family")
    return " + ".join(entry.name for entry in entries)


_CHECKS: dict[str, Any] = {"resize": _check_resize, "convert": _check_convert, "merge": _check_merge}


def start(context: Context, kind: str, request: _Asked) -> Job:
    """Queue a resize, a conversion or a merge; its result is a new adapter of the library.

    Raises:
        StudioError: what is wrong with the request; nothing has been queued.
    """
    title = request.name.strip() or _CHECKS[kind](context.library, request)
    if request.name.strip():
        _CHECKS[kind](context.library, request)
    config = request.model_dump(mode="json") | {"base": context.base, "options": asdict(context.options)}
    sources = [part.id for part in getattr(request, "parts", ())] or [getattr(request, "adapter", "")]
    job = context.jobs.submit(kind, title[:80], config, details={"adapters": sources})
    context.runner.wake()
    return job


def merge_parameters() -> Mapping[str, tuple[str, ...]]:
    """What each merge method takes, by its id."""
    return {row.id: tuple(parameter.name for parameter in row.parameters) for row in MERGES.values()}
