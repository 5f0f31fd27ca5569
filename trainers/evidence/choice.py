"""Which checkpoint to take: a stated rule over what was measured, and the reason in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.evidence.record import Choice, Record

ALIKE = 0.005
"""Scores that differ by less than this share are the same: the later step is taken, which knows more."""

RULES: dict[str, str] = {
    "held_out": "the lowest loss on pictures that weren't learned from",
    "mirrored": "the lowest loss on the pictures that were learned from, mirrored",
    "last": "nothing was measured that tells steps apart",
}
"""By what a step is recommended, the first that was measured."""

_SETS = {"held_out": "held_out", "mirrored": "altered"}


def choose(record: Record, steps: Sequence[int] | None = None) -> Choice | None:
    """Recommend a step. steps: those that can be taken; None: all that were measured.

    None before anything was measured after the first step.
    """
    measured = [one.step for one in record.measured if one.step > 0]
    open_to = [step for step in measured if steps is None or step in steps]
    if not open_to:
        return None
    last = measured[-1]
    for rule, name in _SETS.items():
        losses = {step: loss for step, loss in record.losses(name).items() if step in open_to}
        if losses:
            lowest = min(losses.values())
            step = max(step for step, loss in losses.items() if loss <= lowest * (1 + ALIKE))
            reason = f"Step {step} has {RULES[rule]} ({losses[step]:.4f})."
            return Choice(step=step, last=last, rule=rule, reason=reason, scores=losses)
    return Choice(step=open_to[-1], last=last, rule="last", reason=f"{RULES['last'].capitalize()}.")
