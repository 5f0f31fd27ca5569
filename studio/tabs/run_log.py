"""The log of a training as a part: what happened, and what its process has printed."""

from __future__ import annotations

import json
import time
from pathlib import Path

from studio.context import Context
from studio.markup import text

LINES = 200
TAIL = 64_000  # bytes of the log of events


def pieces(context: Context, key: str) -> dict[str, str]:
    """The last lines of the run with that id; an empty key is the newest."""
    newest = context.jobs.find(kind="train", limit=1)
    job = context.jobs.get(key) if key else next(iter(newest), None)
    if job is None:
        return {"log": ""}
    happened = happenings(context.jobs.folder(job) / "events.jsonl")
    printed = context.jobs.log_tail(job, LINES).strip()
    shown = "\n".join(happened) + (f"\n\nprinted:\n{printed}" if printed else "")
    return {
        "log": f'<div class="pgt-log" tabindex="0" role="log" aria-live="off" aria-label="Log">'
        f"<pre>{text(shown or 'Nothing has happened yet.')}</pre></div>"
    }


def happenings(path: Path) -> list[str]:
    """The last events in words: when, at which step, what."""
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - TAIL))
            tail = log.read().decode(errors="replace")
    except OSError:
        return []
    lines = []
    for line in tail.splitlines()[-LINES:]:
        try:
            event = json.loads(line)
            when = time.strftime("%H:%M:%S", time.localtime(float(event["time"])))
            lines.append(f"{when}  {int(event['step']):>6}  {event['message']}")
        except (ValueError, KeyError, TypeError):
            continue
    return lines
