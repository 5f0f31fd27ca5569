"""What is wrong with a run, in plain words: one table of rules over what was measured.

A rule is a figure that a record gives, a threshold, and what to say and to change beyond it. The thresholds
were set on runs made to have each fault and on good ones, on the embedded base (`pigment bench faults`).
Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainers.evidence import rules_changes as change
from trainers.evidence import rules_figures as figure
from trainers.evidence.record import Finding, Record
from trainers.evidence.rules_facts import facts
from trainers.evidence.rules_text import text_share

WELL = "Nothing that was measured points to a fault."
"""What is said where no rule has found anything."""


@dataclass(frozen=True)
class Mild:
    """What is said in a note instead. when: record → whether it is no problem there."""

    when: Callable[[Record], bool]
    title: str
    words: str
    advice: str


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One fault that a run may have.

    test: record → its figure; None: it can't be told. threshold: what it may be; above: whether larger ones
    are the fault, else smaller ones. words, advice: with {value:…} and the names of `rules_facts.facts`.
    changes: record → settings by name that would mend it. mild: where it is a note, and its words. yields_to:
    rules that explain this one; where they find something it is left out.
    """

    title: str
    test: Callable[[Record], float | None]
    threshold: float
    above: bool = True
    words: str
    advice: str
    changes: Callable[[Record], dict[str, Any]]
    mild: Mild | None = None
    yields_to: tuple[str, ...] = ()

    def found(self, record: Record) -> float | None:
        """Return the figure where it is beyond the threshold, else None."""
        value = self.test(record)
        if value is None:
            return None
        return value if (value > self.threshold if self.above else value < self.threshold) else None


def _not_a_number(record: Record) -> float | None:
    return float(record.onset.step) if record.onset is not None else 0.0 if record.measured else None


RULES: dict[str, Rule] = {
    "not_finite": Rule(
        title="The loss is no number any more",
        test=_not_a_number,
        threshold=0,
        words="{onset}{grown}",
        advice="Lower the learning rate and start afresh.",
        changes=change.much_lower_rate,
        mild=Mild(
            lambda record: record.onset is not None and not record.onset.repeated,
            "The numbers broke once",
            "{onset}{grown}",
            "Resume it: it goes on from the last checkpoint. Where it breaks again, lower the learning rate.",
        ),
    ),
    "rate_too_high": Rule(
        title="Learning rate too high",
        test=figure.shaken,
        threshold=0.1,
        words="What it had learned of the {pictures} pictures was lost again on the way: their loss jumped "
        "by {value:.0%} at a rate of {rate}{usual}.",
        advice="Lower the learning rate.",
        changes=change.lower_rate,
        yields_to=("not_finite",),
    ),
    "rate_too_low": Rule(
        title="Learning rate too low",
        test=figure.too_little_rate,
        threshold=0.5,
        words="It was still learning when it ended, at a rate of {rate}{usual}: each picture was seen {seen} "
        "times, and the loss on {unseen} ones fell by {gain}.",
        advice="Raise the learning rate.",
        changes=change.higher_rate,
        yields_to=("not_finite", "rate_too_high", "text_encoder_dominating"),
    ),
    "under_trained": Rule(
        title="Not learned yet",
        test=figure.too_little_time,
        threshold=0.5,
        words="It was still learning when it ended: each picture was seen {seen} times, and the loss on "
        "{unseen} ones fell by {gain}.",
        advice="Teach it for more steps.",
        changes=change.more_steps,
        yields_to=("not_finite", "rate_too_high", "rate_too_low"),
    ),
    "memorised": Rule(
        title="Copies its pictures",
        test=figure.copied,
        threshold=0,
        words="{copies} of {drawn} drawn pictures are copies of pictures it learned from.",
        advice="Take an earlier step, teach it for fewer steps, or give it more pictures that differ.",
        changes=change.by_heart_no_more,
        yields_to=("not_finite",),
    ),
    "over_trained": Rule(
        title="Learned by heart",
        test=figure.forgotten_since_best,
        threshold=0.2,
        words="After step {best} it got better at its own pictures only: by {unseen} ones{weighed} it lost "
        "{lost} of what it had gained.",
        advice="Take step {best}, or teach it for that many steps only.",
        changes=change.fewer_steps,
        yields_to=("not_finite", "rate_too_high"),
    ),
    "trigger_not_learned": Rule(
        title="Trigger not learned",
        test=figure.words_alone,
        threshold=0.15,
        above=False,
        words="It learned the pictures, but not that “{trigger}” calls them: {value:.0%} of it needs "
        "the word.",
        advice="Have “{trigger}” in every caption, and learn class pictures along.",
        changes=change.name_it,
        yields_to=("not_finite", "rate_too_high"),
    ),
    "style_leaks": Rule(
        title="Leaks into other pictures",
        test=figure.leaked,
        threshold=0.5,
        words="Pictures of other things, without “{trigger}”, changed {value:.0%} as much as another seed "
        "would change them.",
        advice="Learn class pictures along or let them count more, or teach it for fewer steps.",
        changes=change.keep_others,
        mild=Mild(
            figure.everywhere,
            "Changes other pictures too",
            "It also changes pictures whose prompts don't say “{trigger}”, {value:.0%} as much as another "
            "seed would: that is how it was taught.",
            "If it is to wait for its word, have it learn class pictures along (prior_weight).",
        ),
        yields_to=("not_finite", "rate_too_high"),
    ),
    "text_encoder_dead": Rule(
        title="Text encoder didn't learn",
        test=text_share,
        threshold=-1.5,
        above=False,
        words="The text encoder hardly changed beside the UNet, though it was to learn.",
        advice="Give the text encoder the UNet's learning rate, or leave it out.",
        changes=change.text_as_unet,
        yields_to=("not_finite",),
    ),
    "text_encoder_dominating": Rule(
        title="Text encoder learned too much",
        test=text_share,
        threshold=0.7,
        words="The text encoder changed several times as much as the UNet: words lose what they meant.",
        advice="Lower the text encoder's learning rate.",
        changes=change.text_slower,
        yields_to=("not_finite",),
    ),
    "dataset_too_uniform": Rule(
        title="Pictures too alike",
        test=figure.alike,
        threshold=0.84,
        words="The {pictures} pictures are {value:.0%} alike: what they share around it is learned along.",
        advice="Add pictures with other backgrounds, poses and sizes; to vary those there are helps a bit.",
        changes=change.vary,
    ),
}
"""By name, the most important first."""


def verdict(record: Record) -> tuple[Finding, ...]:
    """Say what is wrong with a run, the most important first; empty where no rule finds anything."""
    found = {name: value for name, rule in RULES.items() if (value := rule.found(record)) is not None}
    known = facts(record)
    return tuple(
        _finding(name, record, {**known, "value": value})
        for name, value in found.items()
        if not any(other in found for other in RULES[name].yields_to)
    )


def told(record: Record) -> tuple[str, ...]:
    """Return the rules that could judge by what is in the record, by name."""
    return tuple(name for name, rule in RULES.items() if rule.test(record) is not None)


def _finding(name: str, record: Record, known: dict[str, Any]) -> Finding:
    rule = RULES[name]
    mild = rule.mild if rule.mild is not None and rule.mild.when(record) else None
    said = mild or rule
    return Finding(
        rule=name,
        title=said.title,
        words=said.words.format(**known),
        advice=said.advice.format(**known),
        changes=rule.changes(record),
        severity="note" if mild else "problem",
    )
