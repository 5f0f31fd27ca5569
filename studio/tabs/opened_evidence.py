"""What is known of how an adapter was taught: the verdict, its step, copies, what it is made of, ways on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.errors import ConfigError, WorkspaceError
from studio import attached, markup, reworking, teaching
from studio.context import Context
from studio.entries import Entry
from studio.jobs import Job
from studio.markup import text
from studio.tabs.asking import validated
from studio.tabs.run_end import BUNDLE
from studio.tabs.run_found import copies
from trainers.evidence.ranks import RankAdvice, rank_advice
from trainers.evidence.record import Anatomy, Finding, Record
from trainers.evidence.rules import WELL

SHOWN_BLOCKS = 12
RESIZE = "resize-to"
"""What the button does that makes an adapter as small as its changes are."""


def section(context: Context, entry: Entry) -> str:
    """The piece; empty where nothing is known."""
    record = attached.record(context, entry.id)
    if record is None:
        return ""
    job = _run(context, entry)
    body = (
        _verdict(record)
        + _choice(record)
        + (copies(job, record) if job is not None else _copies_told(record))
        + _rank(context, entry, record)
        + _anatomy(record.anatomy)
        + _links(context, entry, job)
    )
    return f'<section class="pg-card lib-evidence" aria-label="What is known of it">{body}</section>'


def _run(context: Context, entry: Entry) -> Job | None:
    """The run it came out of; None where that is gone."""
    try:
        return context.jobs.get(entry.job) if entry.job else None
    except WorkspaceError:
        return None


def _verdict(record: Record) -> str:
    if record.verdict:
        return "".join(_finding(one) for one in record.verdict)
    return f'<p class="pgt-well">{text(WELL)}</p>' if record.measured else ""


def _finding(one: Finding) -> str:
    style = "note" if one.severity == "note" else "problem"
    return (
        f'<section class="pgt-finding {style}"><h4>{text(one.title)}</h4>'
        f"<p>{text(teaching.in_words(one.words))}</p><p>{text(teaching.in_words(one.advice))}</p></section>"
    )


def _choice(record: Record) -> str:
    """Which step it is of, and why."""
    choice, of = record.choice, record.run.get("step")
    if choice is None:
        return ""
    if of is not None and of != choice.step:
        head = f"Of step {of}; step {choice.step} was recommended"
    else:
        head = f"Step {choice.step}" + (f" of {choice.last}" if choice.last != choice.step else "")
    return f"<div><h4>{text(head)}</h4><p>{text(choice.reason)}</p></div>"


def _copies_told(record: Record) -> str:
    """Copies without their pictures, which went with the run."""
    flagged = [one for one in (record.memorisation.pairs if record.memorisation else ()) if one.flagged]
    if not flagged:
        return ""
    rows = "".join(
        f"<li>{text(one.picture.rpartition('/')[2])} is a copy of {text(one.nearest)}</li>" for one in flagged
    )
    return f"<div><h4>Copies</h4><ul>{rows}</ul></div>"


# ── Ranks


@dataclass(frozen=True)
class _Use:
    """What rank would do, and the resize that makes it so; None where there is none yet."""

    advice: RankAdvice
    job: Job | None


def _use(context: Context, entry: Entry, record: Record) -> _Use | None:
    advice = rank_advice(record.anatomy) if record.anatomy is not None else None
    if advice is None:
        return None
    made = (
        job
        for job in context.jobs.find(kind="resize", limit=40)
        if job.details.get("adapters") == [entry.id] and job.config.get("rank") == advice.uses_99
    )
    return _Use(advice, next(made, None))


def _rank(context: Context, entry: Entry, record: Record) -> str:
    use = _use(context, entry, record)
    if use is None:
        return ""
    way, job = "", use.job
    if use.advice.worth and (job is None or job.state not in ("queued", "running", "done")):
        way = markup.button(f"Resize to {use.advice.uses_99}", RESIZE, entry.id, style="small")
    elif use.advice.worth and job is not None:
        said = "It is being resized" if job.active else "The resized one is in the library"
        way = f'<span class="pg-sub">{said}</span>'
    words = use.advice.words
    return f'<div class="pgt-rank"><p>{text(words[:1].upper() + words[1:])}.</p>{way}</div>'


def resize_to(context: Context, adapter_id: str) -> str:
    """Start the resize that is advised of an adapter; returns what to say.

    Raises: ConfigError where none is advised; AdapterError for an adapter that is gone.
    """
    entry = context.library.get(adapter_id)
    record = attached.record(context, entry.id)
    use = _use(context, entry, record) if record is not None else None
    if use is None or not use.advice.worth:
        raise ConfigError(f"nothing says that {entry.name!r} should be smaller; resize it as you like")
    rank = use.advice.uses_99
    name = f"{entry.name[:180]}, rank {rank}"
    asked = validated(reworking.ResizeRequest, adapter=entry.id, rank=rank, name=name)
    reworking.start(context, "resize", asked)
    return f"It is being resized to rank {rank}"


# ── What it is made of


def _anatomy(anatomy: Anatomy | None) -> str:
    """A bar per block: its share of ‖ΔW‖²."""
    if anatomy is None or not anatomy.blocks:
        return ""
    largest = max(block.share for block in anatomy.blocks) or 1.0
    rows = "".join(
        f'<li><span>{text(block.name)}</span><i aria-hidden="true"><i '
        f'style="width:{100 * block.share / largest:.1f}%"></i></i><b>{block.share:.0%}</b></li>'
        for block in anatomy.blocks[:SHOWN_BLOCKS]
    )
    more = len(anatomy.blocks) - SHOWN_BLOCKS
    rest = f'<p class="pg-sub">and {more} more blocks, in the report</p>' if more > 0 else ""
    return (
        '<details class="lib-fold" open><summary>Where it changes the model</summary>'
        f'<ul class="lib-bars">{rows}</ul>{rest}{_dead(anatomy.dead)}</details>'
    )


def _dead(modules: Sequence[str]) -> str:
    if not modules:
        return ""
    count = f"{len(modules)} module{'s' if len(modules) > 1 else ''} learned nothing"
    return f'<p class="pg-sub">{count}</p>'


def _links(context: Context, entry: Entry, job: Job | None) -> str:
    """The report, and what the run was made of."""
    ways = []
    if attached.report_file(context.workspace, entry.id) is not None:
        address = text(markup.url("report", "adapter", entry.id))
        ways.append(f'<a class="pg-btn small" href="{address}" target="_blank" rel="noopener">Report</a>')
    if job is not None and (context.jobs.folder(job) / BUNDLE).is_file():
        address = markup.url("bundle", job.id)
        ways.append(markup.download("Bundle", address, f"{entry.name} bundle.zip", style="small"))
    return f'<div class="pg-row">{"".join(ways)}</div>' if ways else ""
