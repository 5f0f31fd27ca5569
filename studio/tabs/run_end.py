"""The end of a run on its card: before and after, the verdict in words, and what to do with the adapter."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.errors import AdapterError
from studio import markup
from studio.context import Context
from studio.jobs import Job
from studio.markup import text
from studio.runlog import RunLog
from studio.taking import steps_of
from studio.verdict import Verdict, verdict


@dataclass(frozen=True)
class End:
    """The piece, and the step that is recommended; 0 while there is none."""

    html: str = ""
    step: int = 0


def end(context: Context, job: Job, log: RunLog) -> End:
    """What a finished run has come to; empty while it goes on."""
    if job.active:
        return End()
    found = verdict(log, job)
    adapter = _adapter(context, job)
    if not found.step and not adapter:
        return End()
    taken = bool(job.details.get("taken_from"))
    pair = _pair(found)
    words = (
        ""
        if taken or not found.step
        else f"<div><p>{text(found.words)}</p>{_steps(context, job, log, found.step)}</div>"
    )
    judged = f'<div class="pgt-judged{" both" if pair and words else ""}">{pair}{words}</div>'
    body = adapter + (judged if pair or words else "")
    return End(f'<div class="pg-card pgt-end">{body}</div>', 0 if taken else found.step)


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


def _steps(context: Context, job: Job, log: RunLog, recommended: int) -> str:
    """A button for each step that is kept and isn't the adapter already; the recommended one first."""
    last = log.total if job.state == "done" else 0
    kept = [step for step in steps_of(context, job) if step != last]
    kept.sort(key=lambda step: (step != recommended, -step))
    if not kept:
        return ""
    buttons = "".join(_take(job, step, step == recommended) for step in kept)
    return f'<div class="pg-row pgt-kept"><span class="pg-sub">Make an adapter of</span>{buttons}</div>'


def _take(job: Job, step: int, recommended: bool) -> str:
    said = f"step {step}, recommended" if recommended else f"step {step}"
    return (
        f'<button type="button" class="pg-btn small" data-act="take" data-id="{text(job.id)}" '
        f'data-step="{step}" title="Make an adapter of what it knew then">{said}</button>'
    )
