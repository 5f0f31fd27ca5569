"""Which step is recommended: by made-up records."""

from __future__ import annotations

import pytest

from trainers.evidence.choice import FORGOTTEN, GAP, LAST, RULES, choose
from trainers.evidence.record import Loss, Measured, Record


def record(**losses: list[float]) -> Record:
    """Losses by set at steps 0, 10, 20 …"""
    count = len(next(iter(losses.values())))
    return Record(
        measured=tuple(
            Measured(step=10 * at, losses={name: Loss(mean=own[at]) for name, own in losses.items()})
            for at in range(count)
        )
    )


def test_the_lowest_held_out_loss_decides_whatever_the_others_say() -> None:
    found = choose(record(held_out=[0.9, 0.5, 0.4, 0.6], altered=[0.9, 0.5, 0.4, 0.3], teaching=[0.9] * 4))
    assert found is not None and (found.step, found.last, found.rule) == (20, 30, "held_out")
    assert "At step 20" in found.reason and "0.9000 to 0.4000" in found.reason and "50.0%" in found.reason


def test_mirrored_pictures_decide_where_none_are_held_out() -> None:
    found = choose(record(altered=[0.9, 0.50, 0.40, 0.60], teaching=[0.9, 0.50, 0.40, 0.60]))
    assert found is not None and (found.step, found.rule) == (20, "mirrored")
    assert found.scores[20] == pytest.approx(0.40)


def test_a_wide_gap_to_the_pictures_and_a_class_that_is_forgotten_count_against_a_step() -> None:
    apart = choose(record(altered=[0.9, 0.50, 0.48, 0.60], teaching=[0.9, 0.48, 0.20, 0.10]))
    assert apart is not None and apart.step == 10
    assert apart.scores[20] == pytest.approx(0.48 * (0.48 / 0.20) ** GAP)
    below = choose(record(altered=[0.9, 0.5], teaching=[0.9, 0.7]))
    assert below is not None and below.scores[10] == 0.5
    same = {"altered": [0.9, 0.50, 0.48], "teaching": [0.9, 0.50, 0.48]}
    forgets = choose(record(**same, **{"class": [0.2, 0.2, 0.4]}))
    assert forgets is not None and forgets.step == 10
    assert forgets.scores[20] == pytest.approx(0.48 * 2**FORGOTTEN)
    keeps = choose(record(**same, **{"class": [0.2, 0.2, 0.1]}))
    assert keeps is not None and keeps.step == 20


@pytest.mark.parametrize("rule", RULES)
def test_of_steps_that_are_alike_the_later_is_taken(rule: str) -> None:
    alike = RULES[rule].alike
    scores = [0.9, 0.5, 0.5 * (1 + 0.9 * alike), 0.5 * (1 + 1.1 * alike)]
    sets = {"held_out": ("held_out",), "mirrored": ("altered", "teaching")}[rule]
    found = choose(record(**dict.fromkeys(sets, scores)))
    assert found is not None and (found.step, found.rule) == (20, rule)


def test_only_steps_that_can_be_taken_are_recommended() -> None:
    known = record(held_out=[0.9, 0.5, 0.4, 0.6])
    found = choose(known, [10, 30])
    assert found is not None and found.step == 10
    assert choose(known, []) is None


def test_without_measures_it_is_the_last_and_before_any_it_is_none() -> None:
    found = choose(Record(), [4])
    assert found is not None and (found.step, found.rule) == (4, LAST) and found.rule not in RULES
    assert choose(Record()) is None
    assert choose(record(held_out=[0.9])) is None


def test_a_run_that_never_gets_below_the_base_is_told_so() -> None:
    found = choose(record(held_out=[0.4, 0.5, 0.6]))
    assert found is not None and found.step == 10 and "Nowhere" in found.reason
    last = choose(record(held_out=[0.9, 0.5, 0.4]))
    assert last is not None and "the last one" in last.reason
