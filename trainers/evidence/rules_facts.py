"""What is known of a run, by the names that the words of `rules.RULES` are filled with."""

from __future__ import annotations

from collections.abc import Mapping

from trainers.evidence import rules_figures as figure
from trainers.evidence.record import Record


def facts(record: Record) -> Mapping[str, object]:
    """Return what is known of a run, by the names that the words of rules use."""
    rate, common, looks = figure.learning_rate(record), figure.usual_rate(record), figure.seen(record)
    last = figure.last_step(record)
    best = figure.best_step(record)
    lost = figure.lost(record) or 0.0
    unseen = "held_out" if record.losses("held_out") else "altered"
    return {
        "trigger": record.run.get("trigger") or "the trigger",
        "pictures": record.run.get("pictures") or "the",
        "steps": last,
        "best": best if best is not None else last,
        "weighed": " and what it forgot" if unseen == "altered" and record.losses("class") else "",
        "lost": "all" if lost >= 1 else f"{lost:.0%}",
        "rate": f"{rate:.2g}" if rate else "as it is",
        "usual": f" (usual here: {common:.2g})" if common and rate and common != rate else "",
        "seen": f"{looks:.0f}" if looks is not None else "?",
        "unseen": {"held_out": "held-out", "altered": "mirrored"}[unseen],
        "drawn": len(record.memorisation.pairs) if record.memorisation else 0,
        "copies": record.memorisation.flagged if record.memorisation else 0,
        "gain": f"{learned:.0%}" if (learned := figure.gain(record, unseen)) is not None else "little",
        "onset": record.onset.words if record.onset else "",
        "grown": _grown(record),
    }


def _grown(record: Record) -> str:
    """How the gradients grew, where they did, as a sentence that follows another; else nothing."""
    norms = [point[2] for point in record.curve]
    if len(norms) < 2 or max(norms) < 10 * norms[0] or norms[0] <= 0:
        return ""
    return f" Gradients had grown from {norms[0]:.2g} to {max(norms):.2g}."
