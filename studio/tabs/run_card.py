"""The card of a training run as pieces of HTML, so that only those that change travel to the browser."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import PurePosixPath

from studio import charts, markup, teaching
from studio.context import Context
from studio.jobs import Job
from studio.markup import text
from studio.runlog import RunLog
from studio.tabs import run_end, run_found
from studio.work.job import STATES

PIECES = ("status", "actions", "end", "found", "strip", "chart", "earlier")
STRIP_STEPS = 24
WARNINGS = 3  # the last ones; all stand in the log
SILENCE = 60  # seconds after which the card says that nothing is heard

STATE_WORDS = {**STATES, "queued": "Waiting for its turn", "running": "Learning", "done": "Ready"}
ACTS = {"pause": ("Pause", ""), "resume": ("Resume", "main"), "retry": ("Again", ""), "stop": ("Cancel", "")}
"""By act: what its button says, and its style; in the order of the buttons."""
STAGES = {"latents": "Reading the pictures", "class pictures": "Drawing class pictures"}
"""What the trainer counts before the first step, in words."""


def pieces(context: Context, key: str) -> dict[str, str]:
    """The card of the run with that id; an empty key is the newest. A piece is empty where it has nothing."""
    newest = context.jobs.find(kind="train", limit=12)
    job = context.jobs.get(key) if key else next(iter(newest), None)
    if job is None:
        status = markup.empty("Nothing taught yet", "Press an example, then “Start teaching”. It grows here.")
        return {**dict.fromkeys(PIECES, ""), "status": status}
    log = context.run_log(job)
    end = run_end.end(context, job, log, newest)
    chosen = log.chosen if job.active else end.step
    return {
        "status": _status(context, job, log),
        "actions": _actions(job),
        "end": end.html,
        "found": "" if job.active else run_found.found(context, job, end.record),
        "strip": _strip(job, log, chosen),
        "chart": _chart(job, log, chosen),
        "earlier": _earlier(job, newest),
    }


def _status(context: Context, job: Job, log: RunLog) -> str:
    told = job.details
    about = [
        text(told.get("kind", "")),
        f"{text(told.get('pictures', '?'))} pictures",
        text(told.get("preset", "")),
        f'call it <span class="pg-chip">{text(told.get("trigger", ""))}</span>',
    ]  # fmt: skip
    head = f'<h3>{text(job.title)}</h3><p class="pg-sub">{" · ".join(about)}</p>'
    body = head + _progress(context, job, log) + _notes(job, log)
    state = f'data-state="{text(job.state)}" data-job="{text(job.id)}"'
    return f'<div class="pg-card" role="status" {state}>{body}</div>'


def _progress(context: Context, job: Job, log: RunLog) -> str:
    total = log.total or job.total
    if job.state == "queued":
        waiting = [one.id for one in context.jobs.waiting()]
        place = waiting.index(job.id) if job.id in waiting else 0
        before = f"{place} before it" if place else ""
        return markup.progress(None, "waiting") + _figures(f"<b>{STATE_WORDS['queued']}</b>", before)
    if job.state != "running":
        taken = markup.duration(job.worked) if job.worked else ""
        steps = f"step {log.step} of {total}" if total and log.step else ""
        share = 1.0 if job.state == "done" else log.step / total if total else 0.0
        bar = markup.progress(share, "steps")
        return bar + _figures(f"<b>{STATE_WORDS[job.state]}</b>", steps, taken, _memory(job, log))
    return _running(job, log, total)


def _running(job: Job, log: RunLog, total: int) -> str:
    rate, left = log.rate, log.seconds_left
    known = bool(total and log.step)
    figures = [f"<b>{text(stage_words(job.message or log.stage))}</b>"]
    if known:
        figures.append(f"step {log.step} of {total}")
    if rate:
        figures.append(f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step")
    if left is not None:
        figures.append(f"<b>{markup.duration(left)} left</b>")
    if log.chosen:
        figures.append(f"best so far: step {log.chosen}")
    figures.append(_memory(job, log))
    if job.heartbeat and time.time() - job.heartbeat > SILENCE:
        figures.append("no sign of life for a minute")
    share = log.fraction if known or log.done < log.of else None
    return markup.progress(share, "steps") + _figures(*figures)


def stage_words(message: str) -> str:
    """A stage as a person would say it; one that has counted to its end makes way for what isn't counted."""
    counted = re.fullmatch(r"(.+) (\d+)/(\d+)", message)
    if not counted or counted[1] not in STAGES:
        return message or "Starting"
    name, done, of = counted.groups()
    return f"{STAGES[name]}, {done} of {of}" if done != of else "Getting ready"


def _memory(job: Job, log: RunLog) -> str:
    peak = max(job.memory, getattr(log, "memory", 0))
    return f"{markup.size(peak)} of memory" if peak else ""


def _figures(*figures: str) -> str:
    spans = "".join(f"<span>{figure}</span>" for figure in figures if figure)
    return f'<div class="pg-figures">{spans}</div>'


def _notes(job: Job, log: RunLog) -> str:
    notes = []
    if job.state == "done":
        notes.append(("good", f"Learned. Call it with “{job.details.get('prompt', '')}”."))
    elif job.error:
        notes.append(("", _called(job.error, job) + ("." if job.error[-1:].isalnum() else "")))
    if job.state == "failed" and (lower := job.details.get("lower")) and "memory" in job.error:
        notes.append(("", str(lower)))
    notes += [("", _called(warning, job)) for warning in log.warnings[-WARNINGS:]]
    return "".join(
        f'<div class="pg-note {style}">{text(line[:1].upper() + line[1:])}</div>' for style, line in notes
    )


def _called(line: str, job: Job) -> str:
    """A line in the page's words, with the pictures' own names for those that they were laid out under."""
    for file, name in job.details.get("files", {}).items():
        line = line.replace(file, name)
    return teaching.in_words(line)


def _actions(job: Job) -> str:
    # What can be resumed needn't begin anew as well.
    acts = [act for act in ACTS if act in job.acts and not (act == "retry" and "resume" in job.acts)]
    buttons = "".join(markup.button(ACTS[act][0], act, job.id, style=ACTS[act][1]) for act in acts)
    return f'<div class="pg-row">{buttons}</div>' if job.state != "done" and buttons else ""


def _strip(job: Job, log: RunLog, chosen: int) -> str:
    steps = sorted(log.previews)[-STRIP_STEPS:]
    if not steps:
        return ""
    later = [step for step in steps if step]
    marked = min(later, key=lambda step: (abs(step - chosen), step)) if chosen and later else 0
    rows = []
    for index in range(max(len(log.previews[step]) for step in steps)):
        label = log.prompts[index] if index < len(log.prompts) else ""
        figures = "".join(
            _preview(job, step, log.previews[step][index], label, step == marked)
            for step in steps
            if index < len(log.previews[step])
        )
        rows.append(
            f'<p class="pg-sub">{text(label)}</p>'
            f'<div class="pg-strip" tabindex="0" role="group" aria-label="{text(label)}">{figures}</div>'
        )
    return f'<div class="pg-card pgt-strips">{"".join(rows)}</div>'


def _preview(job: Job, step: int, file: str, label: str, chosen: bool) -> str:
    """chosen: whether it is the one at the step that is recommended, or next to it."""
    address = markup.url("preview", job.id, PurePosixPath(file).name)
    when = f"step {step}" if step else "before"
    picture = f'<img src="{address}" alt="{text(label)}, {when}" loading="lazy">'
    style = ' class="chosen"' if step and chosen else ""
    return f"<figure{style}>{picture}<figcaption>{when}</figcaption></figure>"


def _chart(job: Job, log: RunLog, chosen: int) -> str:
    total = log.total or job.total
    measured = charts.measured_chart(log.measured, chosen, total)
    # Where sets were measured the held-out pictures are one of them.
    learned = charts.loss_chart(log.losses, {} if measured else log.held_out, total)
    return f'<div class="pg-card">{measured}{learned}</div>' if measured or learned else ""


def _earlier(job: Job, newest: Sequence[Job]) -> str:
    others = [one for one in newest if one.id != job.id]
    if not others:
        return ""
    buttons = "".join(
        markup.button(f"{one.title} · {STATE_WORDS[one.state].lower()}", "show", one.id, style="small")
        for one in others
    )
    return f'<p class="pg-sub">Other runs</p><div class="pg-row pgt-others">{buttons}</div>'
