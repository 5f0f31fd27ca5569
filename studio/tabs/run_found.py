"""What was found out about a run on its card: faults with what to change, copies, ranks it doesn't use."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from pipelines.errors import AdapterError, StudioError
from studio import again, markup, teaching
from studio.context import Context
from studio.entries import Entry
from studio.jobs import Job
from studio.markup import text
from trainers.evidence.ranks import rank_advice
from trainers.evidence.record import Finding, Pair, Record

SHOWN_COPIES = 4
ALL = "all"
"""In the place of a rule: the changes of all of them."""
_PLACES = {"evidence": "evidence", "previews": "preview"}
"""Kind of address by the folder, in a run's, that a picture lies in."""


def found(context: Context, job: Job, record: Record | None) -> str:
    """The piece; empty where nothing was measured."""
    if record is None:
        return ""
    body = _findings(context, job, record) + copies(job, record) + _rank(context, job, record)
    return f'<div class="pg-card pgt-found">{body}</div>' if body else ""


def changes(record: Record | None, rule: str) -> dict[str, Any]:
    """The settings that a finding wants, by field name; of several the first one's go before the others'.

    rule: a finding's, or `ALL`; empty: nothing is changed.
    """
    merged: dict[str, Any] = {}
    for one in record.verdict if record is not None else ():
        if rule in (one.rule, ALL):
            merged = {**one.changes, **merged}
    return merged


# ── Faults


def _findings(context: Context, job: Job, record: Record) -> str:
    wanting = [one for one in record.verdict if _wanted(context, job, one.changes)]
    cards = "".join(_finding(context, job, one) for one in record.verdict)
    if len(wanting) < 2:
        return cards
    every = _apply(job, ALL, "Apply all and run again", "main")
    return f'{cards}<div class="pg-row">{every}</div>'


def _finding(context: Context, job: Job, one: Finding) -> str:
    chips, button = "", ""
    if wanted := _wanted(context, job, one.changes):
        rows = "".join(
            f"<li>{text(change.label)} <s>{text(change.before)}</s> <b>{text(change.now)}</b></li>"
            for change in wanted
        )
        chips = f'<ul class="pgt-changes">{rows}</ul>'
        button = _apply(job, one.rule, "Apply and run again", "small")
    style = "note" if one.severity == "note" else "problem"
    return (
        f'<section class="pgt-finding {style}"><h4>{text(one.title)}</h4>'
        f"<p>{text(teaching.in_words(one.words))}</p><p>{text(teaching.in_words(one.advice))}</p>"
        f"{chips}{button}</section>"
    )


def _wanted(context: Context, job: Job, wanted: dict[str, Any]) -> tuple[again.Change, ...]:
    """What a finding would change on the form; nothing where it can't."""
    try:
        return again.changes_of(again.config_of(context, job), wanted) if wanted else ()
    except StudioError:
        return ()


def _apply(job: Job, rule: str, said: str, style: str) -> str:
    return (
        f'<button type="button" class="pg-btn {style}" data-act="again" data-id="{text(job.id)}" '
        f'data-rule="{text(rule)}" title="Fills the form; you press start">{text(said)}</button>'
    )


# ── Copies


def copies(job: Job, record: Record) -> str:
    """Drawn pictures beside the ones they copy."""
    flagged = [one for one in (record.memorisation.pairs if record.memorisation else ()) if one.flagged]
    if not flagged:
        return ""
    pairs = "".join(_copy(job, one) for one in flagged[:SHOWN_COPIES])
    more = len(flagged) - SHOWN_COPIES
    rest = f'<p class="pg-sub">and {more} more, in the report</p>' if more > 0 else ""
    return f'<h4>Copies</h4><div class="pgt-copies">{pairs}</div>{rest}'


def _copy(job: Job, one: Pair) -> str:
    picture = PurePosixPath(one.picture)
    drawn = markup.url(_PLACES.get(picture.parent.name, "evidence"), job.id, picture.name)
    name = str(job.details.get("files", {}).get(one.nearest, one.nearest))
    learned = markup.url("taught", job.id, one.nearest)
    said = (("drawn", drawn), (name, learned))
    both = "".join(
        f'<span><img src="{text(address)}" alt="{text(label)}" loading="lazy">'
        f"<small>{text(label)}</small></span>"
        for label, address in said
    )
    return f"<figure>{both}</figure>"


# ── Ranks


def _rank(context: Context, job: Job, record: Record) -> str:
    """What rank would do, with the way to it."""
    advice = rank_advice(record.anatomy) if record.anatomy is not None else None
    entry = _entry(context, job)
    if advice is None or not advice.worth or entry is None:
        return ""
    rank = advice.uses_99
    done = next((one for one in context.jobs.find(kind="resize", limit=40) if _is_it(one, entry, rank)), None)
    if done is None or done.state not in ("queued", "running", "done"):
        way = (
            f'<button type="button" class="pg-btn small" data-act="resize" data-id="{text(job.id)}" '
            f'data-rank="{rank}">Resize to {rank}</button>'
        )
    elif done.active:
        way = '<span class="pg-sub">It is being resized</span>'
    else:
        way = markup.button("Mix the resized one", "mix", done.id, style="small")
    return f'<div class="pgt-rank"><p>It {text(advice.words)}.</p>{way}</div>'


def _entry(context: Context, job: Job) -> Entry | None:
    """A run's adapter in the library; None where it isn't, or no longer."""
    try:
        found = context.library.get(str(job.result.get("adapter") or ""))
    except AdapterError:
        return None
    return found if found.trashed is None else None


def _is_it(job: Job, entry: Entry, rank: int) -> bool:
    return job.details.get("adapters") == [entry.id] and job.config.get("rank") == rank
