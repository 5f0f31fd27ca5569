"""The three steps that lead a newcomer to a first adapter, as a part: each is ticked when it is done."""

from __future__ import annotations

from studio import markup
from studio.context import Context
from studio.datasets import Datasets
from studio.markup import text

DISMISSED = "hint dismissed"
STEPS = (
    ("Choose pictures", "an example is one click"),
    ("Start teaching", "about two minutes on a laptop"),
    ("Mix it", "move a slider, watch it change"),
)

TICK = (
    '<svg viewBox="0 0 14 14" width="12" height="12" fill="none" stroke="currentColor" stroke-width="2.4" '
    'stroke-linecap="round" stroke-linejoin="round"><path d="M3 7.4l2.7 2.8L11 4.6"/></svg>'
)


def pieces(context: Context, key: str) -> dict[str, str]:
    """Nothing where it was dismissed, or when an adapter has been taught and tried."""
    workspace = context.workspace
    if workspace.setting(DISMISSED, False):
        return {"steps": ""}
    recent = Datasets(workspace).recent(1)
    started = context.jobs.find(kind="train", limit=1)
    done = context.jobs.find(kind="train", states=("done",), limit=1)
    drawn = done and context.jobs.find(kind="generate", limit=1)
    if drawn:
        return {"steps": ""}
    pictures = bool(recent and Datasets(workspace).get(recent[0].id).items)
    reached = 2 if done else 1 if started and started[0].active else 0
    ticks = (pictures or reached > 0, reached > 1, False)
    now = ticks.index(False)
    steps = "".join(
        _step(title, words, done=tick, now=number == now)
        for number, ((title, words), tick) in enumerate(zip(STEPS, ticks, strict=True))
    )
    close = markup.button("×", "dismiss", "hint", style="close", title="Don't show these steps again")
    return {"steps": f'<div class="pgt-hints"><ol aria-label="To a first adapter">{steps}</ol>{close}</div>'}


def _step(title: str, words: str, *, done: bool, now: bool) -> str:
    state = ' class="done"' if done else ' aria-current="step"' if now else ""
    tick = TICK if done else ""
    said = f"<span><b>{text(title)}</b> <small>{text(words)}</small></span>"
    return f'<li{state}><i aria-hidden="true">{tick}</i>{said}</li>'
