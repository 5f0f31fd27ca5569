"""Figures that tell faults of a run from good ones, each from a record alone; None where it can't be told."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.methods import TUNINGS
from trainers.evidence.choice import choose
from trainers.evidence.record import Record
from trainers.settings.optimizer import OPTIMIZERS

SEEN_ENOUGH = 60
"""How often each picture is looked at in a run that has had the time to learn it, at a usual rate."""
SEEN_LEAST = 10
"""How often each picture must be looked at, at a usual rate, to be learned at all; as the doctor has it."""
WORD_RATE = 5e-3
"""What the rate of a learned word is where none is given."""
GAIN_ENOUGH = 0.02
"""Share of the loss on the teaching pictures that must have gone before anything is said of what was learned
instead."""
TRUSTED = 3
"""How many times as much it counts what is lost on pictures that were really held out."""
MOVED_LEAST = 0.3
"""How far the base's predictions of other things must have moved, for each part that those of the learned
pictures did, for anything to leak: 0.03 to 0.3 with class pictures, above 0.6 in what leaked, on pool dev."""


# ── What was learned


def gain(record: Record, name: str) -> float | None:
    """Return the share of a set's loss that was gone at the last step; below 0 where it grew."""
    losses = record.losses(name)
    if len(losses) < 2 or 0 not in losses or losses[0] <= 0:
        return None
    return 1 - losses[max(losses)] / losses[0]


def too_little_time(record: Record) -> float | None:
    """Return `unfinished` where steps are what was missing; 0 where it is rather the rate."""
    left = unfinished(record)
    return 0.0 if left is not None and _slow(record) else left


def too_little_rate(record: Record) -> float | None:
    """Return `unfinished` where the learning rate is to blame; 0 where it is rather the steps."""
    left = unfinished(record)
    return left if left is None or _slow(record) else 0.0


def unfinished(record: Record) -> float | None:
    """Return what the second half of the lesson still brought for what the first half did; 1: as much.

    On unseen pictures, which end to profit when there is nothing more to learn. Halves by the sum of the
    learning rates, so that a rate that falls to nothing doesn't look like an end. 1 where hardly anything
    was learned at all; and at least a half where pictures were looked at less than SEEN_LEAST times. 0 where
    other things have moved further than what is learned: that isn't too little, however the curve ends.
    """
    losses = _unseen(record)
    learned = gain(record, "teaching")
    if learned is None or len(losses) < 2 or 0 not in losses:
        return None
    if (moved_share(record) or 0.0) > 1:
        return 0.0
    if learned < GAIN_ENOUGH:
        return 1.0
    amount = lesson(record)
    least = [SEEN_LEAST / (2 * amount)] if amount else []
    if len(losses) > 3:
        half = _halfway(record, losses)
        first, second = losses[0] - half, half - losses[max(losses)]
        least.append(second / first if first > 0 else 1.0)
    return max(least, default=None)


def _halfway(record: Record, losses: Mapping[int, float]) -> float:
    """The loss at the step by which half of all learning rates were spent, between the measured ones."""
    middle = max(losses) / 2
    rates = [(point[0], point[3]) for point in record.curve if point[0] <= max(losses)]
    spent, total = 0.0, sum(rate for _, rate in rates)
    for step, rate in rates:
        spent += rate
        if spent * 2 >= total > 0:
            middle = step
            break
    before = max((step for step in losses if step <= middle), default=0)
    after = min((step for step in losses if step >= middle), default=max(losses))
    share = (middle - before) / (after - before) if after > before else 0.0
    return losses[before] + (losses[after] - losses[before]) * share


def _unseen(record: Record) -> dict[int, float]:
    """Losses on held-out pictures, or where there are none on the mirrored ones, by step."""
    return record.losses("held_out") or record.losses("altered")


def _slow(record: Record) -> bool:
    """Whether the rate is further below what is usual than the looks at each picture are."""
    looks, share = seen(record), rate_share(record)
    if looks is None:
        return False
    enough = min(1.0, looks / SEEN_ENOUGH)
    return enough >= 1 if share is None else share < enough * 0.8


def lesson(record: Record) -> float | None:
    """Return how often each picture was looked at, a look at half the usual rate being half a look."""
    looks, share = seen(record), rate_share(record)
    return None if looks is None else looks * (1.0 if share is None else share)


def rate_share(record: Record) -> float | None:
    """Return the learning rate as a share of the usual one for its method, optimizer and base.

    None where one of the two isn't known.
    """
    method = TUNINGS.get(str(record.setting("adapter", "method")))
    if method is not None and not method.components:
        return float((record.setting("adapter", "token_learning_rate") or WORD_RATE) / WORD_RATE)
    asked = record.setting("optimizer", "learning_rate")
    if asked is None:
        return 1.0 if record.config else None
    row = OPTIMIZERS.get(str(record.setting("optimizer", "optimizer")))
    own = row.learning_rate if row is not None and row.learning_rate else usual_rate(record)
    return float(asked / own) if own else None


def seen(record: Record) -> float | None:
    """Return how often each picture was looked at; None where that isn't known."""
    pictures, steps = record.run.get("pictures"), last_step(record)
    if not pictures or not steps:
        return None
    batch = (record.setting("run", "batch_size") or 1) * (record.setting("run", "accumulate") or 1)
    return float(steps * batch / pictures)


def last_step(record: Record) -> int:
    """Return the last step that is known of; 0 for none."""
    return max(
        [*(one.step for one in record.measured), *(int(point[0]) for point in record.curve), 0]
    )  # fmt: skip


def learning_rate(record: Record) -> float | None:
    """Return the learning rate of the run, where none was given the largest that it had; None: not known."""
    asked = record.setting("optimizer", "learning_rate")
    return asked or max((point[3] for point in record.curve if point[3] > 0), default=None)


def usual_rate(record: Record) -> float | None:
    """Return the rate that the run would have had without being told one; None where it isn't known."""
    known = record.run.get("usual_rate")
    if known:
        return float(known)
    if record.setting("optimizer", "learning_rate") is None and record.config:
        return learning_rate(record)
    return None


def forgotten_since_best(record: Record) -> float | None:
    """Return `lost`: TRUSTED times of it by held-out pictures, and by mirrored ones as much as was forgotten.

    Mirrored pictures of some subjects are harder to know the better one knows these as they are, so they
    only count where other things moved as far as the learned ones did; None where that wasn't measured.
    """
    share, choice = lost(record), choose(record)
    if share is None or choice is None:
        return None
    if choice.rule == "held_out":
        return share * TRUSTED
    forgot = moved_share(record)
    return None if forgot is None else share * min(1.0, forgot)


def moved_share(record: Record) -> float | None:
    """Return how far the base's predictions of other things moved, for what those of the learned did."""
    moved = record.measured[-1].moved if record.measured else {}
    return moved["class"] / moved["teaching"] if "class" in moved and moved.get("teaching") else None


def lost(record: Record) -> float | None:
    """Return how far what steps are chosen by has gone up again since its lowest, for what it fell by.

    1: all of it. 0 where the loss on the learned pictures has gone up too since: that isn't by heart.
    """
    choice, own = choose(record), record.losses("teaching")
    scores = choice.scores if choice is not None else {}
    if len(scores) < 3 or 0 not in scores or gain(record, "teaching") is None:
        return None
    step, last = min(scores, key=lambda one: scores[one]), max(scores)
    if own.get(last, 0.0) > own.get(step, 0.0):
        return 0.0
    fall = max(scores[0] - scores[step], scores[0] * GAIN_ENOUGH / 2)
    return (scores[last] - scores[step]) / fall


def shaken(record: Record) -> float | None:
    """Return how much of the teaching pictures' loss came back at worst after it was gone, of the start's.

    On noise that stays the same it falls steadily at a rate that suits, and jumps at one that is too high.
    """
    losses = record.losses("teaching")
    if len(losses) < 3 or 0 not in losses:
        return None
    worst, lowest = 0.0, losses[0]
    for loss in losses.values():
        worst = max(worst, loss - lowest)
        lowest = min(lowest, loss)
    return worst / losses[0]


def words_alone(record: Record) -> float | None:
    """Return what share of the lesson needs the trigger: 0, the same is learned without it; 1, all.

    0 where no caption has it. None for styles without class pictures otherwise: there nothing ever says what
    is to be drawn without the trigger, so that everything is in the style.
    """
    with_it, without = gain(record, "teaching"), gain(record, "plain")
    if with_it is None or with_it < GAIN_ENOUGH:
        return None
    if without is None:
        asked = record.setting("evidence", "measured_on") or ()
        return 0.0 if "plain" in asked and record.losses("altered") else None
    if record.run.get("kind") == "style" and not record.setting("data", "prior_weight"):
        return None
    return 1 - without / with_it


def leaked(record: Record) -> float | None:
    """Return how much pictures of other things changed, for what another seed would have changed them.

    By drawn pictures: the losses of other things rise with every style that has no class pictures, whether
    or not it is seen. 0 where what the base predicts of other things hardly moved (MOVED_LEAST): three
    pictures may come out otherwise all the same. None where fewer than two pictures of a prompt were drawn.
    """
    if record.drawn is None or record.base is None or not record.base.diversity:
        return None
    if record.drawn.drift is None:
        return None
    moved = moved_share(record)
    if moved is not None and moved < MOVED_LEAST:
        return 0.0
    return record.drawn.drift / record.base.diversity


def everywhere(record: Record) -> bool:
    """Whether it is a style that learned no class pictures: nothing told it to wait for its trigger."""
    return record.run.get("kind") == "style" and record.setting("data", "prior_weight") == 0


def copied(record: Record) -> float | None:
    """Return the share of the drawn pictures that are copies of learned ones."""
    if record.memorisation is None or not record.memorisation.pairs:
        return None
    return record.memorisation.flagged / len(record.memorisation.pairs)


def alike(record: Record) -> float | None:
    """Return how alike the learned pictures are, -1..1."""
    return record.alike


# ── What to take


def best_step(record: Record) -> int | None:
    """Return the step that was chosen, else the one whose unseen pictures' loss was lowest."""
    if record.choice is not None:
        return record.choice.step
    losses = _unseen(record)
    return min(losses, key=lambda step: losses[step]) if losses else None
