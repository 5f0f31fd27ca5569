"""How good chosen checkpoints are, from runs that have been scored: figures and tables. It loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainers.bench.evidence_runs import Run
from trainers.bench.evidence_truth import read_truth
from trainers.evidence.choice import choose
from trainers.evidence.record import read_record

NEAR = 0.02
"""A checkpoint is as good as the best one where its score is at most this share higher."""


def outcome(run: Run, folder: Path) -> dict[str, Any] | None:
    """What the choice comes to in a run that lies in `folder`; None where it hasn't been scored.

    chosen, best, last: steps. score: of each of them and of the base, lower is better. regret: by how much a
    score is higher than the best one, as a share of that. share_of_gain: as a share of what the best one is
    better than the base; None where that is nothing. The choice is made anew from the record.
    """
    record, scores = read_record(folder), read_truth(folder)
    if record is None or scores is None:
        return None
    candidates = sorted(step for step in scores if step > 0)
    choice = choose(record, candidates)
    if choice is None:
        return None
    best = min(candidates, key=lambda step: scores[step])
    steps = {"chosen": choice.step, "best": best, "last": candidates[-1]}
    gain = scores[0] - scores[best]
    regret = {name: scores[step] / scores[best] - 1 for name, step in steps.items() if name != "best"}
    lost = {name: scores[step] - scores[best] for name, step in steps.items() if name != "best"}
    return {
        "concept": run.concept, "meant": run.meant, "pictures": run.pictures, "settings": dict(run.fields),
        "candidates": len(candidates), "rule": choice.rule, **steps,
        "score": {name: scores[step] for name, step in {"base": 0, **steps}.items()},
        "regret": regret,
        "share_of_gain": {name: one / gain for name, one in lost.items()} if gain > 0 else None,
        "within_2_percent": regret["chosen"] <= NEAR,
        "last_within_2_percent": regret["last"] <= NEAR,
    }  # fmt: skip


def summary(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The figures over all runs. Raises: ValueError without any."""
    if not rows:
        raise ValueError("no runs")

    def mean(of: Callable[[Mapping[str, Any]], float]) -> float:
        return sum(of(row) for row in rows.values()) / len(rows)

    gained = [row for row in rows.values() if row["share_of_gain"] is not None]

    def share(name: str) -> float | None:
        return sum(row["share_of_gain"][name] for row in gained) / len(gained) if gained else None

    return {
        "runs": len(rows),
        "within_2_percent": sum(bool(row["within_2_percent"]) for row in rows.values()),
        "within_2_percent_share": mean(lambda row: row["within_2_percent"]),
        "mean_regret": mean(lambda row: row["regret"]["chosen"]),
        "worst_regret": max(row["regret"]["chosen"] for row in rows.values()),
        "mean_share_of_gain_lost": share("chosen"),
        "last_within_2_percent": sum(bool(row["last_within_2_percent"]) for row in rows.values()),
        "last_checkpoint_regret": mean(lambda row: row["regret"]["last"]),
        "last_worst_regret": max(row["regret"]["last"] for row in rows.values()),
        "last_share_of_gain_lost": share("last"),
    }


HEADINGS = ("run", "meant to learn", "pictures", "rate", "chosen", "best", "last", "regret of the chosen",
            "regret of the last", "of the gain lost", "within 2%")  # fmt: skip


def cells(id: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """A run's row in words, under HEADINGS."""
    lost = row["share_of_gain"]
    return (
        id, row["meant"], str(row["pictures"]), f"{row['settings']['learning_rate']:g}",
        str(row["chosen"]), str(row["best"]), str(row["last"]),
        f"{row['regret']['chosen']:.1%}", f"{row['regret']['last']:.1%}",
        "–" if lost is None else f"{lost['chosen']:.0%}", "yes" if row["within_2_percent"] else "NO",
    )  # fmt: skip


def as_text(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table for a terminal."""
    lines = [HEADINGS, *(cells(id, row) for id, row in rows.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table for a page, numbers at the right."""
    marks = ["---", "---", *["---:"] * (len(HEADINGS) - 2)]
    lines: list[Sequence[str]] = [HEADINGS, marks, *(cells(id, row) for id, row in rows.items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def said(figures: Mapping[str, Any]) -> str:
    """The figures over all runs in a sentence."""
    return (
        f"{figures['within_2_percent']} of {figures['runs']} recommended checkpoints within 2% of the best "
        f"(mean regret {figures['mean_regret']:.2%}); of the last ones {figures['last_within_2_percent']} "
        f"(mean regret {figures['last_checkpoint_regret']:.2%})"
    )
