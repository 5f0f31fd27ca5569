"""The queue as pieces of HTML: what runs, what waits and for what, what has ended; and the log of a job."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from pipelines.errors import StudioError
from studio import markup
from studio.context import Context
from studio.jobs import Job
from studio.markup import text
from studio.mixing import occupied
from studio.parts import values
from studio.runlog import RunLog, seconds_left
from studio.tabs.run_card import stage_words
from studio.tabs.run_log import happenings
from studio.work import KINDS
from studio.work.job import STATES
from trainers.evidence.record import RECORD_NAME

PAGE = 20  # ended jobs
LOG_LINES = 400
PICTURES = 6  # of a drawing that are shown
ENDED = tuple(state for state in STATES if state not in ("running", "queued", "paused"))
HOMES = {
    "train": "teach", "class_pictures": "teach", "captions": "teach", "generate": "mix",
    **dict.fromkeys(("export", "resize", "merge", "convert", "import", "add_base"), "library"),
}  # fmt: skip
"""By kind of job: the tab that it belongs to."""
ACTS = {
    "resume": ("Resume", "Go on where it stopped"),
    "pause": ("Pause", "Let others go first; Resume goes on"),
    "stop": ("Cancel", "Stop it for good"),
    "retry": ("Do again", "Queue the same once more"),
    "remove": ("Remove", "Take it off the list"),
}
"""By what `Job.acts` names: the button, and what it does. "move" has three of its own, before these."""


def pieces(context: Context, key: str) -> dict[str, str]:
    """The queue. key: JSON {"page": of the ended jobs, from 0}.

    Pieces: "order", JSON that says which jobs stand where, and whether they have a log; of each job its id
    and id/progress; "pages".
    """
    jobs = context.jobs
    running = list(reversed(jobs.find(states=("running",), limit=20)))
    waiting, paused = jobs.waiting(), jobs.find(states=("paused",), limit=100)
    ended = sum(number for state, number in jobs.counts().items() if state in ENDED)
    pages = max(1, -(-ended // PAGE))
    asked = values(key).get("page")
    page = max(0, min(asked if isinstance(asked, int) else 0, pages - 1))
    earlier = jobs.find(states=ENDED, limit=PAGE, offset=page * PAGE)
    sections = {"running": running, "waiting": waiting, "paused": paused, "ended": earlier}
    order = {name: [[job.id, _has_log(job)] for job in rows] for name, rows in sections.items()}
    found = {
        "order": json.dumps(order),
        "pages": _pages(page, pages),
    }
    reasons = _reasons(context, waiting)
    for job in (*running, *waiting, *paused, *earlier):
        found[job.id] = _card(job, waiting, reasons.get(job.id, ""), _measured(context, job))
        if job.state == "running":
            found[f"{job.id}/progress"] = _progress(job, _log(context, job))
    return found


def _measured(context: Context, job: Job) -> bool:
    """Whether what was measured of it can be read and compared."""
    return job.kind == "train" and (context.jobs.folder(job) / RECORD_NAME).is_file()


def _has_log(job: Job) -> bool:
    """Whether it has, or had, a process of its own that writes one."""
    return job.kind in KINDS and bool(KINDS[job.kind].run) and job.started is not None


def _log(context: Context, job: Job) -> RunLog | None:
    return context.run_log(job) if (context.jobs.folder(job) / "events.jsonl").is_file() else None


def _reasons(context: Context, waiting: Sequence[Job]) -> dict[str, str]:
    """What each waiting job waits for."""
    taken, holding = occupied(context), context.jobs.holding()
    if not taken and holding is not None:
        taken = f"“{holding.title}” {KINDS[holding.kind].doing}"
    found, before = {}, ""
    for job in waiting:
        if not KINDS[job.kind].device:
            found[job.id] = "Begins in a moment"
            continue
        found[job.id] = (
            f"After “{before}”" if before else f"Waits: {taken}" if taken else "Begins in a moment"
        )
        before = job.title
    return found


def _card(job: Job, waiting: Sequence[Job], reason: str, measured: bool) -> str:
    kind = KINDS.get(job.kind)
    label = kind.label if kind else job.kind
    state = (
        f'<span class="state" data-state="{text(job.state)}">{text(STATES.get(job.state, job.state))}</span>'
    )
    head = f'<div class="head"><span class="kind">{text(label)}</span>{state}</div>'
    said = reason or _outcome(job)
    about = f'<p class="pg-sub">{text(" · ".join(part for part in (said, _when(job)) if part))}</p>'
    wrong = job.error if job.state in ("failed", "interrupted") else ""
    told = f'<p class="pg-note">{text(wrong)}</p>' if wrong else ""
    return (
        f'{head}<h3 title="{text(job.title)}">{text(job.title[:200])}</h3>{about}{told}{_made(job)}'
        f'<div class="pg-row acts">{_evidence(job) if measured else ""}{_acts(job, waiting)}</div>'
    )


def _outcome(job: Job) -> str:
    """How far one came that ended early."""
    if job.state in ("queued", "running", "done") or not job.total or not job.step:
        return ""
    return f"step {job.step:,} of {job.total:,}"


def _when(job: Job) -> str:
    """When it began or ended, and how long it took."""
    if job.state == "queued":
        return f"queued {_clock(job.created)}"
    if job.state == "running":
        return f"began {_clock(job.started or job.created)}"
    parts = [_clock(job.finished or job.created)]
    if job.worked:
        parts.append(f"took {markup.duration(job.worked)}")
    if job.memory:
        parts.append(f"{markup.size(job.memory)} of memory at most")
    return " · ".join(parts)


def _clock(moment: float) -> str:
    here = time.localtime(moment)
    today = time.localtime()
    return time.strftime("%H:%M" if here[:3] == today[:3] else "%Y-%m-%d %H:%M", here)


def _made(job: Job) -> str:
    """The pictures that came out of it."""
    images = [one for one in job.result.get("images") or () if isinstance(one, str)]
    shown = "".join(
        f'<a href="{markup.url("image", one)}" target="_blank"><img src="{markup.url("image", one, "320")}" '
        f'alt="Picture {number}" loading="lazy"></a>'
        for number, one in enumerate(images[:PICTURES], 1)
    )
    return f'<div class="made">{shown}</div>' if shown else ""


def _evidence(job: Job) -> str:
    """The report of a run, and a box that chooses it to be compared (studio/js/jobs.js)."""
    about = text(job.title[:80])
    return (
        f'<a class="pg-btn small" href="{markup.url("report", job.id)}" target="_blank" '
        f'title="What was measured" aria-label="Report of {about}">Report</a>'
        f'<label class="pg-btn small choose" title="Put it beside other runs"><input type="checkbox" '
        f'data-compare="{text(job.id)}" aria-label="Compare {about}">Compare</label>'
    )


def _acts(job: Job, waiting: Sequence[Job]) -> str:
    made = [_moves(job, waiting)] if "move" in job.acts else []
    if job.state == "done" and isinstance(job.result.get("adapter"), str):
        made.append(markup.button("Mix it", "mix", job.id, style="small main", title="Take it into Mix"))
    elif job.state in ("running", "done") and job.kind in HOMES and not job.result.get("images"):
        home = HOMES[job.kind]
        made.append(markup.button(f"Go to {home.title()}", f"tab-{home}", job.id, style="small"))
    for act, (label, title) in ACTS.items():
        if act in job.acts:
            style = "small main" if act == "resume" else "small"
            made.append(markup.button(label, act, job.id, style=style, title=title))
    return "".join(made)


def _moves(job: Job, waiting: Sequence[Job]) -> str:
    """Up, down and first among those that wait for the same; what leads nowhere can't be pressed."""
    device = KINDS[job.kind].device
    mates = [other.id for other in waiting if KINDS[other.kind].device == device]
    if len(mates) < 2:
        return ""
    here, last = mates.index(job.id), len(mates) - 1
    ways = (("first", "⤒", "Move first", here > 0), ("up", "↑", "Move up", here > 0),
            ("down", "↓", "Move down", here < last))  # fmt: skip
    about = text(job.title[:80])
    return "".join(
        f'<button type="button" class="pg-btn small way" data-act="{act}" data-id="{text(job.id)}" '
        f'title="{title}" aria-label="{title}: {about}"{"" if there else " disabled"}>{sign}</button>'
        for act, sign, title, there in ways
    )


def _progress(job: Job, log: RunLog | None) -> str:
    """Bar, stage, time left, memory; beside them the newest preview of a training."""
    counted = job.step / job.total if job.total else None
    fraction = log.fraction if log is not None and (log.step or log.of) else counted
    left = seconds_left(job, log)
    step = f"{job.step:,} of {job.total:,}" if job.total else ""
    memory = max(job.memory, log.memory if log is not None else 0)
    message = stage_words(job.message or (log.stage if log is not None else ""))
    more = (
        step,
        f"about {markup.duration(left)} left" if left else "",
        f"{markup.size(memory)} of memory" if memory else "",
    )
    figures = [f"<b>{text(message)}</b>", *(f"<span>{text(part)}</span>" for part in more if part)]
    bar = markup.progress(fraction, f"{job.title[:80]}: {message}")
    return f'{_preview(job, log)}<div>{bar}<div class="pg-figures">{"".join(figures)}</div></div>'


def _preview(job: Job, log: RunLog | None) -> str:
    steps = [step for step, files in log.previews.items() if files] if log is not None else []
    if log is None or not steps:
        return ""
    name = log.previews[max(steps)][0].rsplit("/", 1)[-1]
    address = markup.url("preview", job.id, name)
    return f'<img class="preview" src="{address}" alt="Newest preview, step {max(steps)}">'


def _pages(page: int, pages: int) -> str:
    if pages < 2:
        return ""
    newer, older = (
        f'<button type="button" class="pg-btn small" data-act="page" data-id="{target}"'
        f"{'' if 0 <= target < pages else ' disabled'}>{label}</button>"
        for target, label in ((page - 1, "Newer"), (page + 1, "Older"))
    )
    here = f"<span>Page {page + 1} of {pages}</span>"
    return f'<nav class="pg-pages" aria-label="Pages of ended jobs">{newer}{here}{older}</nav>'


def log(context: Context, key: str) -> dict[str, str]:
    """What has happened in a training, and the last lines that a job's process has printed. key: its id."""
    try:
        job = context.jobs.get(key)
        happened = "\n".join(happenings(context.jobs.folder(job) / "events.jsonl"))
        said = f"{happened}\n\n{context.jobs.log_tail(job, LOG_LINES)}".strip()
    except StudioError:
        said = ""
    return {"log": text(said) or "Nothing is written yet."}
