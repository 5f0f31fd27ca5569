"""The library's adapters as pieces of HTML: what can be filtered, a page of cards, what is being made."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from pydantic import ValidationError

from pipelines.families import FAMILIES
from pipelines.methods import METHODS
from studio import markup
from studio.context import Context
from studio.covers import address_file
from studio.entries import ORIGINS, Entry
from studio.jobs import Job
from studio.markup import text
from studio.parts import values
from studio.searching import SORTS, Facets, Found, Query
from studio.work import KINDS

COLOURS = ("#c2410c", "#3f45bd", "#9a6700", "#256f46", "#8e4aa8", "#1a6d90")
KINDS_HERE = ("import", "resize", "convert", "merge")
"""Jobs whose result is a new adapter here."""
TOLD = 3600.0  # seconds that a failure, or what was refused of an import, stays to be read
SHOWN_TAGS = 60


def pieces(context: Context, key: str) -> dict[str, str]:
    """The part "adapters"; key: a Query as JSON."""
    try:
        query = Query.model_validate(values(key))
    except ValidationError:
        query = Query()
    facets, found = context.library.facets(), context.library.search(query)
    return {
        "facets": _filters(facets, query),
        "work": "".join(working(job) for job in jobs_here(context)),
        "count": _count(found, facets, query),
        "cards": _cards(context, found, facets, query),
        "pages": _pages(found),
    }


def family_label(family: str) -> str:
    """A family's name for people."""
    return FAMILIES[family].label if family in FAMILIES else family


def method_label(method: str) -> str:
    """A method's name for people."""
    return METHODS[method].label if method in METHODS else method


def jobs_here(context: Context, kinds: tuple[str, ...] = KINDS_HERE) -> list[Job]:
    """Jobs of the library that run, wait, or ended a short while ago with something to say."""
    found = []
    for kind in kinds:
        for job in context.jobs.find(kind=kind, limit=12):
            said = job.state != "done" or bool(job.result.get("refused") or job.result.get("known"))
            recent = (job.finished or 0) > time.time() - TOLD
            if job.active or (said and recent):
                found.append(job)
    return sorted(found, key=lambda job: job.created, reverse=True)


def working(job: Job) -> str:
    """A card for a job that makes an adapter (or a base): how far it is, or what it couldn't do."""
    label = KINDS[job.kind].label
    title = f"<b>{label}</b> {text(job.title)}"
    if job.active:
        waiting = "waiting" if job.state == "queued" else job.message or "starting"
        bar = markup.progress(
            job.step / job.total if job.total and job.step else None, f"{label} {job.title}"
        )
        stop = markup.button("Cancel", "stop-job", job.id, style="small")
        return (
            f'<div class="lib-job" data-state="{job.state}"><span>{title} <span class="pg-sub">'
            f"{text(waiting)}</span></span>{stop}{bar}</div>"
        )
    away = markup.button("✕", "dismiss", job.id, style="small", title=f"Dismiss {label} {job.title}")
    lines = [f"{text(name)}: {text(reason)}" for name, reason in job.result.get("refused") or ()]
    lines += [f"{text(name)} was in the library already" for name in job.result.get("known") or ()]
    if job.state != "done":
        lines = [text(job.error or job.state)]
        if job.kind == "add_base" and job.resumable:
            away = markup.button("Go on", "resume-job", job.id, style="small") + away
    said = "".join(f"<p>{line}</p>" for line in lines)
    good = "" if job.state in ("failed", "interrupted") or job.result.get("refused") else " good"
    return f'<div class="lib-job said{good}" data-state="{job.state}"><span>{title}{said}</span>{away}</div>'


def cover(context: Context, entry: Entry) -> str:
    """The picture of an adapter, or its first letter on a colour of its own."""
    if entry.cover and address_file(context.workspace, entry.cover):
        address = markup.url(*entry.cover.split("/"))
        return f'<img class="cover" src="{address}" alt="" loading="lazy" decoding="async">'
    colour = COLOURS[sum(entry.id.encode()) % len(COLOURS)]
    letter = text(entry.name[:1].upper())
    return f'<span class="cover none" style="background:{colour}" aria-hidden="true">{letter}</span>'


def facts(entry: Entry) -> str:
    """Family, method, rank and size in a line."""
    said = [entry.family.upper(), method_label(entry.method)]
    said += [f"rank {entry.rank}"] if entry.rank else []
    return text(" · ".join([*said, markup.size(entry.bytes)]))


def _choice(name: str, label: str, counted: Mapping[str, int], chosen: str, labels: Mapping[str, str]) -> str:
    """A list to filter by, without one where there is nothing to choose between."""
    if len(counted) < 2 and not chosen:
        return ""
    known = {**counted, **({chosen: 0} if chosen and chosen not in counted else {})}
    options = "".join(
        f'<option value="{text(value)}"{" selected" if value == chosen else ""}>'
        f"{text(labels.get(value, value))} ({number})</option>"
        for value, number in list(known.items())[:SHOWN_TAGS]
    )
    return (
        f'<select class="{"on" if chosen else ""}" data-filter="{name}" aria-label="{label}">'
        f'<option value="">{label}</option>{options}</select>'
    )


def _filters(facets: Facets, query: Query) -> str:
    families = {family: family_label(family) for family in facets.family}
    methods = {method: method_label(method) for method in facets.method}
    choices = [
        _choice("family", "Any family", facets.family, query.family, families),
        _choice("method", "Any method", facets.method, query.method, methods),
        _choice("tag", "Any tag", facets.tag, query.tag, {}),
        _choice("origin", "From anywhere", facets.origin, query.origin, ORIGINS),
    ]
    sorts = "".join(
        f'<option value="{name}"{" selected" if name == query.sort else ""}>{label}</option>'
        for name, (label, _) in SORTS.items()
    )
    order = f'<select data-filter="sort" aria-label="Order">{sorts}</select>'
    clear = ""
    if query.narrowed:
        all_off = {"words": "", "family": "", "method": "", "tag": "", "origin": ""}
        clear = (
            f'<button type="button" class="lib-link" data-set="{text(json.dumps(all_off))}">Show all</button>'
        )
    trash = ""
    if facets.trashed or query.trashed:
        turn = text(json.dumps({"trashed": not query.trashed}))
        label = "Back to the library" if query.trashed else f"Trash ({facets.trashed})"
        trash = (
            f'<button type="button" class="lib-link" id="trash" data-set="{turn}" '
            f'aria-pressed="{str(query.trashed).lower()}">{label}</button>'
        )
    if facets.total < 2 and not query.narrowed:
        return trash
    return "".join([*choices, order, clear, trash])


def _count(found: Found, facets: Facets, query: Query) -> str:
    if query.trashed:
        return f"In the trash: {found.total}"
    if not facets.total:
        return ""
    noun = "adapter" if facets.total == 1 else "adapters"
    return f"{found.total:,} of {facets.total:,} {noun}" if query.narrowed else f"{found.total:,} {noun}"


def _cards(context: Context, found: Found, facets: Facets, query: Query) -> str:
    if not found.entries and query.trashed:
        return markup.empty("The trash is empty", "What you move here can be brought back.")
    if not found.entries and query.narrowed:
        return markup.empty("Nothing like that", "Try fewer words, or “Show all”.")
    if not found.entries:
        return markup.empty("No adapters yet", "Teach one, or drop a .safetensors file above.")
    empty = ""
    if query.trashed and any(entry.origin != "example" for entry in found.entries):
        button = markup.button("Empty the trash…", "empty-trash", "", style="small")
        empty = f'<div class="pg-row lib-empty">{button}</div>'
    card = _thrown if query.trashed else _card
    return (
        empty + f'<div class="pg-adapters">{"".join(card(context, entry) for entry in found.entries)}</div>'
    )


def _card(context: Context, entry: Entry) -> str:
    words = "".join(f'<span class="pg-chip">{text(word)}</span> ' for word in entry.triggers[:3])
    tags = "".join(f'<span class="lib-tag">{text(tag)}</span> ' for tag in entry.tags[:4])
    gone = '<span class="lib-gone">its file is gone</span>' if entry.missing else ""
    key, name = text(entry.id), text(entry.name)
    return (
        f'<article class="pg-adapter" data-id="{key}">{cover(context, entry)}<div class="what">'
        f'<button type="button" class="lib-open" data-act="open" data-id="{key}" title="{name}">'
        f"{name}</button>"
        f'<span class="lib-words">{words}{tags}</span><span class="pg-sub">{facts(entry)}</span>'
        f'<span class="pg-sub">{ORIGINS.get(entry.origin, "")}{gone}</span></div>'
        f'<label class="lib-pick"><input type="checkbox" data-pick="{key}" data-name="{name}" '
        f'aria-label="Choose {name}"></label></article>'
    )


def _thrown(context: Context, entry: Entry) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.trashed or 0))
    back = markup.button("Bring back", "restore", entry.id, style="small", title=f"Bring back {entry.name}")
    return (
        f'<article class="pg-adapter" data-id="{text(entry.id)}">{cover(context, entry)}<div class="what">'
        f'<b>{text(entry.name)}</b><span class="pg-sub">in the trash since {since}</span>'
        f'<span class="pg-row">{back}</span></div></article>'
    )


def _pages(found: Found) -> str:
    if found.pages < 2:
        return ""
    near = {0, 1, found.pages - 2, found.pages - 1, *range(found.page - 2, found.page + 3)}
    shown = sorted(page for page in near if 0 <= page < found.pages)
    out, before = [], -1
    for page in shown:
        if page > before + 1:
            out.append('<span aria-hidden="true">…</span>')
        now = ' aria-current="page"' if page == found.page else ""
        out.append(
            f'<button type="button" data-page="{page}" aria-label="Page {page + 1}"{now}>{page + 1}</button>'
        )
        before = page
    return "".join(out)
