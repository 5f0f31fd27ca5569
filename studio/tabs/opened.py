"""One adapter of the library with everything known of it, and what is being made of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pipelines.errors import StudioError
from pipelines.formats import FORMATS
from studio import exporting, markup
from studio.amending import stated
from studio.context import Context
from studio.entries import ORIGINS, Entry
from studio.jobs import Job
from studio.markup import text
from studio.tabs.opened_evidence import section
from studio.tabs.shelf import cover, family_label, method_label, working

SHOWN_VALUE = 400  # characters of a metadata value
EXPORTS = 3  # that are shown of an adapter


def pieces(context: Context, key: str) -> dict[str, str]:
    """The part "adapter"; key: its id, empty while none is chosen."""
    if not key:
        return {
            "none": markup.empty("Nothing chosen", "Choose an adapter to see it whole, mix or export it.")
        }
    try:
        entry = context.library.get(key)
    except StudioError as error:
        gone = markup.button("Remove it from the list", "trash", key, style="small")
        return {"gone": f'<div class="pg-note">{text(error)}</div><div class="pg-row">{gone}</div>'}
    if entry.trashed is not None:
        back = markup.button("Bring it back", "restore", entry.id, style="main")
        said = f"<h3>{text(entry.name)}</h3><p>It is in the trash.</p>"
        return {"thrown": f'<div class="lib-thrown">{said}<div class="pg-row">{back}</div></div>'}
    exports = _of(context, "export", entry)
    return {
        "head": _head(context, entry),
        "work": "".join(working(job) for job in exports if job.state != "done"),
        "report": _report(context, exports),
        "evidence": section(context, entry),
        "facts": _facts(context, entry),
    }


def _of(context: Context, kind: str, entry: Entry) -> list[Job]:
    """The newest jobs of a kind about an adapter, those that failed before a good one left out."""
    about = [job for job in context.jobs.find(kind=kind, limit=40) if job.details.get("adapter") == entry.id]
    newest: list[Job] = []
    for job in about:
        newest.append(job)
        if job.state == "done":
            break
    return newest[:EXPORTS]


def _head(context: Context, entry: Entry) -> str:
    words = "".join(f'<span class="pg-chip">{text(word)}</span> ' for word in entry.triggers)
    said = f'<p class="lib-say">Say {words}</p>' if words else ""
    tags = "".join(f'<span class="lib-tag">{text(tag)}</span> ' for tag in entry.tags)
    notes = f'<p class="lib-notes">{text(entry.notes)}</p>' if entry.notes else ""
    mix = markup.button("Mix it", "mix", entry.id, style="main")
    export = (
        f'<button type="button" class="pg-btn" id="export" data-act="export" data-id="{text(entry.id)}">'
        "Export…</button>"
    )
    link = markup.download("Download", markup.url("adapter", entry.id), entry.file_name)
    more = "".join(
        markup.button(label, act, entry.id, style="small")
        for label, act in (
            ("Edit…", "edit"), ("Cover…", "cover"), ("Resize…", "resize"), ("Convert…", "convert"),
            ("Move to trash", "trash"),
        )
    )  # fmt: skip
    return (
        '<button type="button" class="lib-x lib-close" data-act="close" aria-label="Close">✕</button>'
        f'<div class="lib-head">{cover(context, entry)}<div><h3>{text(entry.name)}</h3>{said}'
        f'<p class="lib-words">{tags}</p>{notes}</div></div>'
        f'<div class="pg-row lib-acts">{mix}{export}{link}</div><div class="pg-row lib-more">{more}</div>'
    )


def _report(context: Context, exports: list[Job]) -> str:
    """The newest finished export: what was measured, and the file."""
    job = next((job for job in exports if job.state == "done"), None)
    if job is None:
        return ""
    path = exporting.exported(context.workspace, job)
    report: Mapping[str, Any] = job.result.get("report") or {}
    row = FORMATS.get(str(report.get("format")))
    rows = "".join(f"<dt>{label}</dt><dd>{text(said)}</dd>" for label, said in _measured(report, job).items())
    if path is None:
        link = '<p class="pg-sub">Its file was cleared away; export it again to download it.</p>'
    else:
        label = f"Download {path.name} ({markup.size(path.stat().st_size)})"
        link = markup.download(label, markup.url("export", job.id), path.name, style="main")
    title = f"Exported as {row.label}" if row else "Exported"
    return (
        f'<div class="pg-card lib-report" id="export-report" data-job="{text(job.id)}"><h4>{text(title)}</h4>'
        f'<p class="pg-sub">for {text(row.readers if row else "")}</p>'
        f'<div class="pg-row">{link}</div><dl class="pg-facts">{rows}</dl>'
        f"<details><summary>The whole report</summary>"
        f'<div class="pg-report">{text(job.result.get("text", ""))}</div></details></div>'
    )


def _measured(report: Mapping[str, Any], job: Job) -> dict[str, str]:
    """The findings of a report by what they are about."""
    found = {
        "Keys": f"{report.get('keys_matched')}/{report.get('keys_expected')} read back",
        "ΔW": f"{_off(report.get('delta_error'))} in the worst module ({report.get('dtype')})",
    }
    if report.get("lora_error") is not None:
        found["Plain LoRA"] = f"{_off(report['lora_error'])} the original in all"
    if report.get("left_out"):
        found["Left out"] = f"biases or norms of {report['left_out']} modules"
    if report.get("psnr_db") is not None:
        same = "identical" if report["psnr_db"] == "inf" else f"{float(report['psnr_db']):.0f} dB"
        found["Picture"] = (
            f"{same} through {report.get('loaded_by')}, {report.get('loaded_modules')}/"
            f"{report.get('modules')} modules"
        )
    elif job.result.get("note"):
        found["Picture"] = f"not compared: {job.result['note']}"
    return found


def _off(value: Any) -> str:
    """A relative error in words."""
    percent = 100 * float(value or 0)
    if percent == 0:
        return "identical"
    return f"{percent:.2g}% off" if percent >= 0.001 else "under 0.001% off"


def _facts(context: Context, entry: Entry) -> str:
    info = entry.info
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created))
    shape = f"{info.get('modules', 0)} layers of {', '.join(map(str, info.get('components') or ()))}"
    rank = f", rank {entry.rank}" if entry.rank else ""
    alpha = f", alpha {info['alpha']:g}" if isinstance(info.get("alpha"), int | float) else ""
    methods = ", ".join(method_label(one) for one in info.get("methods") or [entry.method])
    known = {
        "For": family_label(entry.family),
        "Method": methods + rank + alpha,
        "Sits on": shape if info.get("modules") else "",
        "Learned words": ", ".join(map(str, info.get("tokens") or ())),
        "File": f"{info.get('format', '')}, {info.get('dtype', '')}, {markup.size(entry.bytes)}",
        "From": f"{ORIGINS.get(entry.origin, '')}, {made}",
        "SHA-256": entry.sha256,
    }
    rows = "".join(f"<dt>{label}</dt><dd>{text(value)}</dd>" for label, value in known.items() if value)
    return f'<dl class="pg-facts lib-facts">{rows}</dl>{_metadata(entry)}'


def _metadata(entry: Entry) -> str:
    """What the file says about itself, behind a fold."""
    try:
        said = stated(entry).get("metadata") or {}
    except StudioError as error:
        return f'<div class="pg-note">{text(error)}</div>'
    if not said:
        return ""
    rows = "".join(
        f"<dt>{text(key)}</dt><dd>{text(value[:SHOWN_VALUE])}{'…' if len(value) > SHOWN_VALUE else ''}</dd>"
        for key, value in sorted((str(key), str(value)) for key, value in said.items())
    )
    return (
        f"<details class='lib-fold'><summary>What the file says ({len(said)})</summary>"
        f'<dl class="pg-facts">{rows}</dl></details>'
    )
