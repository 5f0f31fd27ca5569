"""Which checkpoint to take: a stated rule over what was measured, and the reason in a sentence.

Where pictures were held out their loss decides. Where none could be spared it is the loss on the pictures
themselves, mirrored and cut a little closer, which no step has seen: it falls while the concept is learned
and stops falling once single pictures are. As it knows them better than strange ones it turns a little late,
so it is multiplied with what tells the same sooner, each to a small power: how far it lies above the loss on
the pictures as they are, and how much worse the class and other things are known than by the base.

The powers, and what counts as alike, were set on the runs of pools dev and test of `pigment bench evidence`;
how well the choice does is measured on pool proof, which wasn't looked at meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trainers.evidence.record import Choice, Record

GAP, FORGOTTEN = 0.15, 0.2
"""Powers of (mirrored / learned) and of (class / the base's class), which the mirrored loss is multiplied
by."""

Scores = dict[int, float]


@dataclass(frozen=True)
class Rule:
    """One way to tell steps apart. score: record → scores by step, the base's as 0, lower is better; empty
    where it wasn't measured. alike: scores that differ by less than this share are the same, and the later
    step is taken, which knows more. words: what is lowest."""

    score: Callable[[Record], Scores]
    alike: float
    words: str


def _held_out(record: Record) -> Scores:
    return record.losses("held_out")


def _mirrored(record: Record) -> Scores:
    altered, teaching, others = (record.losses(name) for name in ("altered", "teaching", "class"))
    before = others.get(0, 0.0)
    found = {}
    for step, loss in altered.items():
        if not teaching.get(step):
            continue
        forgotten = max(1.0, others[step] / before) if before > 0 and step in others else 1.0
        found[step] = loss * max(1.0, loss / teaching[step]) ** GAP * forgotten**FORGOTTEN
    return found


RULES: dict[str, Rule] = {
    "held_out": Rule(_held_out, 0.005, "the error on pictures it wasn't taught"),
    "mirrored": Rule(
        _mirrored, 0.015, "the error on its pictures seen mirrored, weighed with what it forgets,"
    ),
}
"""The first that was measured decides."""

LAST = "last"
"""What a choice says that no rule could make."""


def choose(record: Record, steps: Sequence[int] | None = None) -> Choice | None:
    """Recommend a step. steps: those that can be taken; None: all that were measured.

    None before anything was measured after the first step.
    """
    measured = [one.step for one in record.measured if one.step > 0]
    last = max(measured, default=0)
    open_to = sorted(set(measured if steps is None else steps) - {0})
    if not open_to:
        return None
    for name, rule in RULES.items():
        scores = rule.score(record)
        if any(step in scores for step in open_to):
            return _best(name, rule, scores, open_to, last)
    step = open_to[-1]
    said = f"Step {step} is the last one; nothing was measured that tells steps apart."
    return Choice(step=step, last=max(last, step), rule=LAST, reason=said)


def _best(name: str, rule: Rule, scores: Mapping[int, float], open_to: Sequence[int], last: int) -> Choice:
    """The step with the lowest score of those that can be taken, and why."""
    found = {step: scores[step] for step in open_to if step in scores}
    lowest = min(found.values())
    step = max(one for one, score in found.items() if score <= lowest * (1 + rule.alike))
    began = f" from {scores[0]:.4f} to {found[step]:.4f}" if 0 in scores else ""
    falls = found[step] < scores.get(0, float("inf"))
    if not falls:
        said = f"Nowhere is {rule.words} below the base's; step {step} comes nearest."
    elif step == max(found):
        said = f"At step {step}, the last one, {rule.words} is lowest: it fell{began}."
    else:
        rise = found[max(found)] / found[step] - 1
        said = (
            f"At step {step} {rule.words} is lowest: it fell{began}, and rises by {rise:.1%} until the end."
        )
    return Choice(step=step, last=last, rule=name, reason=said, scores=dict(scores))
