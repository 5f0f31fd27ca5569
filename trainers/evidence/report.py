"""The report of a run: one HTML file with everything in it, that asks nothing of any network.

It holds no script. Pictures are inside it, small; the record is inside it as JSON to be saved.
"""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path

from pipelines.errors import StudioError
from pipelines.files import file_sha256, write_atomic
from trainers.evidence import report_facts as facts
from trainers.evidence import report_parts as parts
from trainers.evidence.record import RECORD_NAME, REPORT_NAME, Record, read_record
from trainers.evidence.report_curves import curves
from trainers.evidence.report_pictures import SIZES, Pictures
from trainers.run_folder import ADAPTER_NAME

LIMIT = 5_000_000
"""Bytes of a report; pictures are made smaller until it fits."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What a browser may do for a report: show what is in it."""

_MARK = (
    '<svg viewBox="0 0 44 32" aria-hidden="true"><circle cx="14" cy="13" r="11" fill="#e4572e"/>'
    '<circle cx="28" cy="13" r="11" fill="#3f45bd" fill-opacity=".82"/>'
    '<circle cx="21" cy="21" r="10" fill="#f2b134" fill-opacity=".82"/></svg>'
)


def write_report(folder: Path) -> Path:
    """Write report.html of what lies in a run's folder; return its path.

    Raises: StudioError where nothing was measured, or evidence.json can't be read; OSError.
    """
    folder = Path(folder)
    record = read_record(folder)
    if record is None:
        raise StudioError(f"{folder.name!r} has no {RECORD_NAME}; measure it: pigment judge ADAPTER")
    path = folder / REPORT_NAME
    write_atomic(path, [report(record, folder).encode()])
    return path


def report(record: Record, folder: Path) -> str:
    """The page of a record, with pictures from a run's folder, as large as `LIMIT` allows."""
    page = ""
    for size in SIZES:
        page = _page(record, Pictures(folder, size))
        if len(page.encode()) <= LIMIT:
            break
    return page


def _page(record: Record, pictures: Pictures) -> str:
    adapter = pictures.folder / ADAPTER_NAME
    body = [
        _head(record, pictures),
        parts.section("As it learned", parts.strips(record, pictures)),
        parts.section(
            "Against the base", parts.against_base(record, pictures), "The same prompts and seeds."
        ),
        parts.section("Copies", parts.memorisation(record.memorisation, pictures)),
        parts.section("Curves", curves(record)),
        parts.section("What it changed", parts.anatomy(record.anatomy)),
        parts.section(
            "How it was made",
            facts.settings(record)
            + facts.origin(record, file_sha256(adapter) if adapter.is_file() else "")
            + _saved(record),
        ),
    ]
    return document(_name(record), "".join(body))


def document(title: str, body: str) -> str:
    """A whole page in the style of reports."""
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,">'
        f"<style>{style}</style></head><body><main>{body}</main>"
        f"<footer>{_MARK}Made by Pigment. Everything in this file was measured.</footer></body></html>\n"
    )


def _name(record: Record) -> str:
    return str(record.run.get("name") or record.run.get("trigger") or "Adapter")


def _head(record: Record, pictures: Pictures) -> str:
    """Name, pictures, verdict and choice."""
    chips = "".join(f"<span>{escape(one)}</span>" for one in _about(record))
    told = f'<div class="told">{parts.verdict(record)}{parts.choice(record)}</div>'
    shown = parts.hero(record, pictures)
    return (
        f'<header><h1>{escape(_name(record))}</h1><p class="chips">{chips}</p></header>'
        f'<div class="top{"" if shown else " bare"}">{shown}{told}</div>{parts.figures(record)}'
    )


def _about(record: Record) -> list[str]:
    """What it is, in a few words each."""
    run = record.run
    held = f", {run['held_out']} kept unseen" if run.get("held_out") else ""
    known = [
        run.get("kind"),
        f"“{run['trigger']}”" if run.get("trigger") else "",
        f"{run['pictures']} pictures{held}" if run.get("pictures") else "",
        f"{run['steps']:,} steps" if isinstance(run.get("steps"), int) else run.get("steps"),
        record.setting("adapter", "method"),
        f"rank {record.setting('adapter', 'rank')}" if record.setting("adapter", "rank") else "",
        run.get("base"),
    ]
    return [str(one) for one in known if one]


def _saved(record: Record) -> str:
    """The record as a file to be saved."""
    text = json.dumps(record.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    data = base64.b64encode(text.encode()).decode()
    return (
        f'<p><a class="save" download="{RECORD_NAME}" href="data:application/json;base64,{data}">'
        "Save all figures (JSON)</a></p>"
    )
