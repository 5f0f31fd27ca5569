"""The end of a run on its card: the adapter, the step that is recommended, before and after, and ways on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.errors import AdapterError
from studio import markup
from studio.context import Context
from studio.jobs import Job
from studio.markup import text
from studio.runlog import RunLog
from studio.taking import steps_of, taken_steps
from studio.verdict import Verdict, verdict
from trainers.evidence.choice import LAST
from trainers.evidence.record import RECORD_NAME, REPORT_NAME, Record
from trainers.evidence.rules import WELL

BUNDLE = "bundle/bundle.toml"
"""What there is in a run's folder where it left a bundle."""


@dataclass(frozen=True)
class End:
    """html: the piece. step: which one is recommended; 0 while there is none. record: what was measured; None
    where nothing was."""

    html: str = ""
    step: int = 0
    record: Record | None = None


def end(context: Context, job: Job, log: RunLog, others: Sequence[Job] = ()) -> End:
    """What a finished run has come to; empty while it goes on. others: runs that it can be compared with."""
    if job.active:
        return End()
    found = verdict(log, job)
    taken = bool(job.details.get("taken_from"))
    pair = _pair(found)
    words = "" if taken or not found.step else f"<div>{_recommended(context, job, log, found)}</div>"
    judged = f'<div class="pgt-judged{" both" if pair and words else ""}">{pair}{words}</div>'
    trouble = f'<div class="pg-note">{text(found.trouble)}</div>' if found.trouble else ""
    ways = _ways(context, job, found, others)
    adapter = _adapter(context, job)
    if not (found.step or adapter or ways or trouble):
        return End(record=found.record)
    body = adapter + (judged if pair or words else "") + trouble + ways
    return End(f'<div class="pg-card pgt-end">{body}</div>', 0 if taken else found.step, found.record)


def _adapter(context: Context, job: Job) -> str:
    """The ways on with what was learned; empty where there is no adapter."""
    if not job.result.get("adapter"):
        return ""
    try:
        entry = context.library.get(job.result["adapter"])
        size = markup.size(entry.path.stat().st_size)
    except (AdapterError, OSError) as error:
        return f'<div class="pg-note">{text(error)}</div>'
    mix = markup.button("Mix it", "mix", job.id, style="main")
    link = markup.download(
        f"Download .safetensors ({size})", markup.url("adapter", entry.id), entry.file_name
    )
    return f'<div class="pg-row">{mix}{link}</div>'


def _pair(found: Verdict) -> str:
    if not found.before or not found.after:
        return ""
    compared = (
        f'<pg-compare before="{text(found.before)}" after="{text(found.after)}" '
        f'before-label="before" after-label="after" alt="{text(found.prompt)}"></pg-compare>'
    )
    caption = f'<figcaption class="pg-sub">{text(found.prompt)}</figcaption>'
    return f'<figure class="pgt-pair">{compared}{caption}</figure>'


# ── The step


def _recommended(context: Context, job: Job, log: RunLog, found: Verdict) -> str:
    """Which step to take and why, and what the adapter is of."""
    own = log.taken or (log.total if job.state == "done" else 0)
    head = f"<h4>Step {found.step} is recommended</h4>" if _measured(log, found.record) else ""
    own_words = ""
    if head and own:
        own_words = " The adapter is of it." if own == found.step else f" The adapter is of step {own}."
    record = found.record
    well = record is not None and record.measured and not record.verdict
    said = f'<p class="pgt-well">{text(WELL)}</p>' if well else ""
    return f"{head}<p>{text(found.words)}{own_words}</p>{said}{_steps(context, job, own, found.step)}"


def _measured(log: RunLog, record: Record | None) -> bool:
    """Whether steps were told apart by what was measured."""
    if record is not None and record.choice is not None:
        return record.choice.rule != LAST
    return any(log.measured.values())


def _steps(context: Context, job: Job, own: int, recommended: int) -> str:
    """A button for each step that is kept and isn't the adapter already; the recommended one first."""
    kept = [step for step in steps_of(context, job) if step != own]
    there = taken_steps(context, job)
    first = _step(job, recommended, there, f"Take step {recommended}") if recommended in kept else ""
    rest = [_step(job, step, there, f"{step}") for step in kept if step != recommended]
    first = f'<div class="pg-row pgt-kept">{first}</div>' if first else ""
    if not rest:
        return first
    return (
        f'{first}<details class="pgt-fold-small"><summary>Another step</summary>'
        f'<div class="pg-row pgt-kept">{"".join(rest)}</div></details>'
    )


def _step(job: Job, step: int, there: Mapping[int, object], said: str) -> str:
    """A button that takes a step; of one that is in the library it says so."""
    known = step in there
    title = f"Step {step} is in the library" if known else f"Make an adapter of what it knew at step {step}"
    tick = '<i class="pgt-tick" aria-hidden="true">✓</i>' if known else ""
    sent = f'data-act="take" data-id="{text(job.id)}" data-step="{step}"'
    return (
        f'<button type="button" class="pg-btn small" {sent} title="{title}" aria-label="{title}">'
        f"{tick}{said}</button>"
    )


# ── Ways on


def _ways(context: Context, job: Job, found: Verdict, others: Sequence[Job]) -> str:
    """The report, the bundle, other runs to compare with, and the form with this run's settings."""
    folder, ways = context.jobs.folder(job), []
    if (folder / REPORT_NAME).is_file():
        address = text(markup.url("report", job.id))
        ways.append(f'<a class="pg-btn small" href="{address}" target="_blank" rel="noopener">Report</a>')
    if (folder / BUNDLE).is_file():
        name = f"{job.title} bundle.zip"
        ways.append(markup.download("Bundle", markup.url("bundle", job.id), name, style="small"))
    if found.record is not None and (links := _compared(context, job, others)):
        ways.append(
            f'<details class="pgt-menu"><summary class="pg-btn small">Compare with…</summary>'
            f"<div>{links}</div></details>"
        )
    if not ways:
        return ""
    said = "Fill the form with this run's pictures, words and settings"
    ways.append(markup.button("Use its settings", "again", job.id, style="small", title=said))
    return f'<div class="pg-row pgt-ways">{"".join(ways)}</div>'


def _compared(context: Context, job: Job, others: Sequence[Job]) -> str:
    """A link for each other run that has left evidence."""
    measured = [
        one for one in others if one.id != job.id and (context.jobs.folder(one) / RECORD_NAME).is_file()
    ]
    links = []
    for one in measured:
        address = text(markup.url("compare", f"{job.id},{one.id}"))
        taught = (
            f"{one.details.get('preset', '')} {markup.duration(one.worked) if one.worked else ''}".strip()
        )
        links.append(
            f'<a href="{address}" target="_blank" rel="noopener">{text(one.title)} '
            f'<span class="pg-sub">{text(taught)}</span></a>'
        )
    return "".join(links)
