"""The card of a training run as pieces of HTML, so that only those that change travel to the browser."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import PurePosixPath

from pipelines.errors import AdapterError
from studio import markup
from studio.context import Context
from studio.jobs import Job
from studio.markup import text
from studio.runlog import RunLog

PIECES = ("status", "actions", "strip", "chart", "earlier")
STRIP_STEPS = 24

STATE_WORDS = {
    "queued": "Waiting for its turn",
    "running": "Learning",
    "done": "Ready",
    "failed": "Failed",
    "cancelled": "Stopped",
    "interrupted": "Interrupted",
}


def pieces(context: Context, key: str) -> dict[str, str]:
    """The card of the run with that id; an empty key is the newest. A piece is empty where it has nothing."""
    newest = context.jobs.find(kind="train", limit=12)
    job = context.jobs.get(key) if key else next(iter(newest), None)
    if job is None:
        status = markup.empty(
            "Nothing taught yet",
            "Click an example on this page, then “Start teaching”. Your adapter grows here.",
        )
        return {**dict.fromkeys(PIECES, ""), "status": status}
    log = context.run_log(job)
    return {
        "status": _status(job, log),
        "actions": _actions(context, job),
        "strip": _strip(job, log),
        "chart": _chart(job, log),
        "earlier": _earlier(job, newest),
    }


def _status(job: Job, log: RunLog) -> str:
    told = job.details
    about = f"{text(told.get('kind', ''))} · {text(told.get('pictures', '?'))} pictures"
    called = f'trigger <span class="pg-chip">{text(told.get("trigger", ""))}</span>'
    head = (
        f'<h3>{text(job.title)}</h3><p class="pg-sub">{about} · {text(told.get("preset", ""))} · {called}</p>'
    )
    body = head + _progress(job, log) + _notes(job, log)
    return f'<div class="pg-card" role="status" data-state="{job.state}">{body}</div>'


def _progress(job: Job, log: RunLog) -> str:
    total = log.total or job.total
    if job.state == "queued":
        return (
            f"{markup.progress(None, 'waiting')}<div class='pg-figures'><b>{STATE_WORDS['queued']}</b></div>"
        )
    if job.state != "running":
        taken = f"{markup.duration(job.finished - job.started)}" if job.finished and job.started else ""
        steps = f"step {log.step} of {total}" if total else ""
        bar = markup.progress(log.step / total if total else 0.0, "steps")
        return f"{bar}{_figures(f'<b>{STATE_WORDS[job.state]}</b>', steps, taken)}"
    rate, left = log.rate, log.seconds_left
    stage = "Stopping after this step" if job.stop_requested else (job.message or log.stage or "Starting")
    known = bool(total and log.step)
    figures = [f"<b>{text(stage)}</b>"]
    if known:
        figures.append(f"step {log.step} of {total}")
    if rate:
        figures.append(f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it")
    if left is not None:
        figures.append(f"{markup.duration(left)} left")
    if job.heartbeat and time.time() - job.heartbeat > 60:
        figures.append("no sign of life for a minute")
    return markup.progress(log.step / total if known else None, "steps") + _figures(*figures)


def _figures(*figures: str) -> str:
    spans = "".join(f"<span>{figure}</span>" for figure in figures if figure)
    return f'<div class="pg-figures">{spans}</div>'


def _notes(job: Job, log: RunLog) -> str:
    notes = []
    if job.state == "done":
        notes.append(("good", f"Learned. Call it with “{job.details.get('prompt', '')}”."))
    elif job.error:
        notes.append(("", job.error[:1].upper() + job.error[1:] + ("." if job.error[-1:].isalnum() else "")))
    notes += [("", warning) for warning in log.warnings[-3:]]
    return "".join(f'<div class="pg-note {style}">{text(line)}</div>' for style, line in notes)


def _actions(context: Context, job: Job) -> str:
    if job.active:
        return f'<div class="pg-row">{markup.button("Stop", "stop", job.id)}</div>'
    if job.state == "done" and job.result.get("adapter"):
        try:
            entry = context.library.get(job.result["adapter"])
        except AdapterError as error:
            return f'<div class="pg-note">{text(error)}</div>'
        size = markup.size(entry.path.stat().st_size)
        link = markup.download(
            f"Download .safetensors ({size})", markup.url("adapter", entry.id), entry.file_name, style="main"
        )
        return f'<div class="pg-row">{link}{markup.button("Try it in Mix", "mix", job.id)}</div>'
    return (
        f'<div class="pg-row">{markup.button("Resume", "resume", job.id, style="main")}</div>'
        if job.resumable
        else ""
    )


def _strip(job: Job, log: RunLog) -> str:
    steps = sorted(log.previews)[-STRIP_STEPS:]
    if not steps:
        return ""
    rows = []
    for index in range(max(len(log.previews[step]) for step in steps)):
        label = log.prompts[index] if index < len(log.prompts) else ""
        figures = "".join(
            _preview(job, step, log.previews[step][index], label)
            for step in steps
            if index < len(log.previews[step])
        )
        rows.append(f'<p class="pg-sub">{text(label)}</p><div class="pg-strip">{figures}</div>')
    return f'<div class="pg-card">{"".join(rows)}</div>'


def _preview(job: Job, step: int, file: str, label: str) -> str:
    address = markup.url("preview", job.id, PurePosixPath(file).name)
    when = f"step {step}" if step else "before"
    picture = f'<img src="{address}" alt="{text(label)}, {when}" loading="lazy">'
    return f"<figure>{picture}<figcaption>{when}</figcaption></figure>"


def _chart(job: Job, log: RunLog) -> str:
    chart = markup.loss_chart(log.losses, log.held_out, log.total or job.total)
    return f'<div class="pg-card">{chart}</div>' if chart else ""


def _earlier(job: Job, newest: Sequence[Job]) -> str:
    others = [one for one in newest if one.id != job.id]
    if not others:
        return ""
    buttons = "".join(
        markup.button(f"{one.title} · {STATE_WORDS[one.state].lower()}", "show", one.id, style="small")
        for one in others
    )
    return f'<p class="pg-sub">Other runs</p><div class="pg-row">{buttons}</div>'
