"""What "apply and run again" sets for a finding: settings by the names of their fields, all of them valid."""

from __future__ import annotations

from typing import Any

from pipelines.methods import TUNINGS
from trainers.evidence.record import Record
from trainers.evidence.rules_figures import WORD_RATE, best_step, last_step, learning_rate, rate_share
from trainers.settings.optimizer import OPTIMIZERS

Changes = dict[str, Any]


def rates(record: Record, factor: float) -> Changes:
    """Return learning rates multiplied by `factor`, in the field that the method and optimizer read."""
    method = TUNINGS.get(str(record.setting("adapter", "method")))
    optimizer = OPTIMIZERS.get(str(record.setting("optimizer", "optimizer")))
    if method is not None and not method.components:
        word = record.setting("adapter", "token_learning_rate") or WORD_RATE
        return {"token_learning_rate": _round(min(1.0, word * factor))}
    if optimizer is not None and "d_coef" in optimizer.reads:
        coefficient = (record.setting("optimizer", "d_coef") or 1.0) * factor
        return {"d_coef": _round(min(10.0, max(0.1, coefficient)))}
    rate = record.setting("optimizer", "learning_rate") or learning_rate(record)
    if not rate:
        return {}
    changes: Changes = {"learning_rate": _round(min(1.0, rate * factor))}
    if text := record.setting("optimizer", "text_learning_rate"):
        changes["text_learning_rate"] = _round(min(1.0, text * factor))
    return changes


def lower_rate(record: Record) -> Changes:
    """A third of the rate, or the usual one where the run's is more than twice that."""
    share = rate_share(record)
    return rates(record, max(0.02, 1 / share) if share and share > 2 else 1 / 3)


def much_lower_rate(record: Record) -> Changes:
    """A quarter of the rate, or the usual one where the run's is more than four times that."""
    share = rate_share(record)
    return rates(record, 1 / share if share and share > 4 else 0.25)


def higher_rate(record: Record) -> Changes:
    """Four times the rate, or the usual one where that is known to be higher."""
    share = rate_share(record)
    return rates(record, 1 / share if share and share < 0.7 else 4.0)


def more_steps(record: Record) -> Changes:
    """Three times the steps."""
    last = last_step(record)
    return {"steps": min(1_000_000, _tens(3 * last))} if last else {}


def fewer_steps(record: Record) -> Changes:
    """As many steps as the best one had; half of them where that isn't known."""
    best, last = best_step(record), last_step(record)
    if not last:
        return {}
    return {"steps": _tens(best if best and best < last else last / 2)}


def text_as_unet(record: Record) -> Changes:
    """The text encoder learns at the UNet's rate, in all its blocks; faster where it does so already."""
    asked = list(record.setting("adapter", "block_rates") or ())
    kept = [one for one in asked if not one.startswith("text_")]
    changes: Changes = {"block_rates": kept} if len(kept) < len(asked) else {}
    if record.setting("optimizer", "text_learning_rate") is not None:
        return {**changes, "text_learning_rate": None}
    rate = learning_rate(record)
    return changes or ({"text_learning_rate": _round(min(1.0, 4 * rate))} if rate else {})


def text_slower(record: Record) -> Changes:
    """The text encoder learns at the UNet's rate if its own was higher, else at a fifth of it."""
    own = record.setting("optimizer", "text_learning_rate")
    rate = record.setting("optimizer", "learning_rate") or learning_rate(record)
    if own and rate and own > rate:
        return {"text_learning_rate": None}
    return {"text_learning_rate": _round(rate / 5)} if rate else {}


def vary(record: Record) -> Changes:
    """Learn from pictures that are cut and coloured a little otherwise each time."""
    return {"augment": "both"} if record.setting("data", "augment") in (None, "none", "crop") else {}


def name_it(record: Record) -> Changes:
    """Put the trigger into captions that lack it, and let the class stay what it is."""
    changes: Changes = {"add_trigger": True}
    if record.setting("data", "prior_weight") == 0:
        changes["prior_weight"] = 1.0
    return changes


def keep_others(record: Record) -> Changes:
    """Learn class pictures along, or let them count more."""
    weight = record.setting("data", "prior_weight")
    return {"prior_weight": 1.0 if not weight else min(10.0, 2 * weight)}


def by_heart_no_more(record: Record) -> Changes:
    """Fewer steps, from pictures that vary."""
    return {**fewer_steps(record), **vary(record)}


def _round(value: float) -> float:
    """Two digits."""
    return float(f"{value:.1e}")


def _tens(value: float) -> int:
    """A number of steps that reads well, at least 1."""
    return max(1, 10 * round(value / 10) if value >= 50 else round(value))
