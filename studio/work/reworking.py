"""New adapters out of those in the library: resized, in another form, merged; the result joins them."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from studio.covers import cover_file, set_cover
from studio.entries import Entry
from studio.jobs import Jobs
from studio.library import NAME_LENGTH, Library
from studio.reworking import ConvertRequest, MergeRequest, ResizeRequest
from studio.whole import read_whole
from studio.work import Ended
from studio.work.following import stopped
from studio.work.job import Job
from studio.work.loading import load_weights, need_weights
from studio.workspace import Workspace


def resize(workspace: Workspace, job: Job, stop: threading.Event) -> Ended:
    """Plain LoRA of another rank."""
    from pipelines.lowrank import RankRule
    from pipelines.tools import resize as resized

    request = ResizeRequest.model_validate(job.config)
    [entry], [adapter] = _read(workspace, job, [request.adapter])
    base = _weights(workspace, job, request, [adapter])
    _tell(workspace, job, 1, "Finding the leading directions of ΔW")
    rule = RankRule(rank=request.rank, energy=request.energy, error=request.error)
    smaller, report = resized(adapter, rule, base, allow_left_out=request.allow_left_out)
    low, high = report.ranks
    ranks = f"rank {high}" if low == high else f"ranks {low}–{high}"
    name = request.name or f"{entry.name} {ranks}"
    return _keep(workspace, job, stop, [entry], smaller, name, "kohya", report.as_text())


def convert(workspace: Workspace, job: Job, stop: threading.Event) -> Ended:
    """The same ΔW in another form or precision."""
    request = ConvertRequest.model_validate(job.config)
    [entry], [adapter] = _read(workspace, job, [request.adapter])
    name = request.name or f"{entry.name} {request.format} {request.dtype}"
    return _keep(workspace, job, stop, [entry], adapter, name, request.format, "")


def merge(workspace: Workspace, job: Job, stop: threading.Event) -> Ended:
    """Several adapters as one, by ΔW."""
    from pipelines.merging import merge_adapters

    request = MergeRequest.model_validate(job.config)
    entries, adapters = _read(workspace, job, [part.id for part in request.parts])
    base = _weights(workspace, job, request, adapters)
    _tell(workspace, job, 1, "Merging module by module")
    pairs = [(part.weight, part.weight if part.text is None else part.text) for part in request.parts]
    name = request.name or " + ".join(entry.name for entry in entries)[:NAME_LENGTH]
    merged, report = merge_adapters(
        adapters, pairs, request.method, rank=request.rank, density=request.density,
        majority_sign=request.majority_sign, seed=request.seed, base=base, name=name,
        allow_left_out=request.allow_left_out,
    )  # fmt: skip
    form = "pigment" if merged.tokens else "kohya"
    return _keep(workspace, job, stop, entries, merged, name, form, report.as_text())


def _read(workspace: Workspace, job: Job, ids: list[str]) -> tuple[list[Entry], list[Any]]:
    _tell(workspace, job, 0, "Reading")
    library = Library(workspace)
    entries = [library.get(one) for one in ids]
    return entries, [
        replace(read_whole(library, entry, family=entry.family or None), name=entry.name) for entry in entries
    ]


def _weights(workspace: Workspace, job: Job, request: Any, adapters: list[Any]) -> Any:
    """The base where some method needs its weights, else None."""
    if not need_weights(adapters):
        return None
    _tell(workspace, job, 0, "Loading the base, whose weights the method needs")
    return load_weights(request.base, request.options)


def _keep(
    workspace: Workspace, job: Job, stop: threading.Event, sources: list[Entry], adapter: Any, name: str,
    format: str, text: str,
) -> Ended:  # fmt: skip
    """Write, prove and add the result; it has the sources' common tags and the first one's cover."""
    from pipelines.export import export_adapter

    if stop.is_set():
        return stopped(workspace, job)
    _tell(workspace, job, 2, "Writing and checking")
    library = Library(workspace)
    with TemporaryDirectory(dir=workspace.folder("cache")) as folder:
        path = Path(folder) / "made.safetensors"
        named = replace(adapter, name=" ".join(name.split())[:NAME_LENGTH])
        report = export_adapter(named, path, format, job.config["dtype"])
        if stop.is_set():
            return stopped(workspace, job)
        entry, new = library.add(path, name=named.name, origin="made", job=job.id)
    # Also where it is there: the process may have been killed before it had its cover.
    if new or (entry.origin == "made" and entry.cover is None):
        library.tag(entry.id, [tag for tag in sources[0].tags if all(tag in one.tags for one in sources)])
        if cover := cover_file(workspace, sources[0]):
            set_cover(library, entry.id, cover)
    lines = [text, report.as_text().replace(path.name, entry.name)]
    return "done", {"adapter": entry.id, "new": new, "text": "\n".join(line for line in lines if line)}


def _tell(workspace: Workspace, job: Job, step: int, message: str) -> None:
    Jobs(workspace).beat(job.id, step=step, total=3, message=message)
