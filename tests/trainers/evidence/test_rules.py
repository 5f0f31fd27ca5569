"""Each rule speaks beyond its threshold and is silent before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from trainers.config import FIELDS, TrainConfig, validate
from trainers.evidence.record import (
    Anatomy,
    Block,
    Choice,
    Loss,
    Measured,
    Memorisation,
    Onset,
    Pair,
    Record,
    Seen,
)
from trainers.evidence.rules import RULES, told, verdict
from trainers.evidence.rules_figures import MOVED_LEAST, TRUSTED

GOOD = {
    "teaching": (0.4, 0.3, 0.26, 0.25, 0.245),
    "altered": (0.42, 0.33, 0.3, 0.29, 0.289),
    "plain": (0.4, 0.38, 0.37, 0.365, 0.364),
    "class": (0.2, 0.2, 0.2, 0.2, 0.2),
}
RATE = 2e-3


def config(**fields: Any) -> dict[str, Any]:
    """A public config as a run leaves it."""
    values: dict[str, Any] = {
        "data": {"instance_images": "p", "trigger": "zuv", "instance_prompt": "a zuv disc"},
        "run": {"output": "o", "steps": 200, "batch_size": 2},
    }
    for name, value in fields.items():
        values.setdefault(FIELDS[name], {})[name] = value
    return validate(values).public()


def record(
    losses: Mapping[str, Sequence[float]] = GOOD, rate: float = RATE, kind: str = "subject", **known: Any
) -> Record:
    """A run of 200 steps at one rate, measured at every 50th."""
    count = max(len(values) for values in losses.values())
    moved = {"teaching": 0.1, "class": 0.1 * known.pop("forgot", 0.5)}
    measured = tuple(
        Measured(
            step=50 * index,
            losses={name: Loss(mean=values[index]) for name, values in losses.items()},
            moved=moved,
        )
        for index in range(count)
    )
    fields = known.pop("fields", {})
    last = 50 * (count - 1)
    return Record(
        run={"trigger": "zuv", "kind": kind, "pictures": 5, "usual_rate": RATE, **known.pop("run", {})},
        config=config(**{"learning_rate": rate, **fields}),
        curve=tuple((step, 0.3, 0.1, rate) for step in range(1, last + 1)),
        measured=measured,
        **known,
    )


def found(record: Record) -> list[str]:
    return [finding.rule for finding in verdict(record)]


def with_losses(**sets: Sequence[float]) -> dict[str, Sequence[float]]:
    return {name: values for name, values in {**GOOD, **sets}.items() if values}


def anatomy(text: float, unet: float = 1.0) -> Anatomy:
    blocks = (
        Block(name="unet.down_blocks.0", modules=4, norm=unet, relative=unet / 10, share=0.5),
        Block(name="text_encoder", modules=4, norm=text, relative=text / 10, share=0.5),
    )
    return Anatomy(blocks=blocks, norm=1.0, text_share=0.5, rank=8)


def drawn(drift: float) -> dict[str, Any]:
    return {"drawn": Seen(step=1, drift=drift), "base": Seen(step=0, diversity=0.4)}


def copies(flagged: int, count: int = 4) -> Memorisation:
    pairs = tuple(
        Pair(picture=f"{index}.png", nearest="a.png", structure=0.5, flagged=index < flagged)
        for index in range(count)
    )
    return Memorisation(thresholds={"structure": 0.7}, calibrated="", pairs=pairs)


def test_nothing_is_found_where_nothing_was_measured() -> None:
    assert verdict(Record()) == () and told(Record()) == ()


def test_a_good_run_is_found_to_be_good_by_every_rule() -> None:
    run = record(anatomy=anatomy(1.0), memorisation=copies(0), alike=0.4, **drawn(0.1))
    assert found(run) == []
    assert set(told(run)) == set(RULES)


def jump(size: float) -> dict[str, Sequence[float]]:
    lost = 0.4 * size
    return with_losses(teaching=(0.4, 0.3, 0.3 + lost, 0.25, 0.2))


def end(second: float) -> dict[str, Sequence[float]]:
    """Unseen pictures' loss falls by 0.1 in the first half and by `second` of that in the other."""
    return with_losses(altered=(0.42, 0.37, 0.32, 0.32 - 0.05 * second, 0.32 - 0.1 * second))


def back(share: float) -> dict[str, Sequence[float]]:
    """What steps are chosen by falls on held-out pictures by 0.1 and comes back by a share of that."""
    lost = 0.1 * share / TRUSTED
    return with_losses(held_out=(0.42, 0.35, 0.32, 0.32 + lost, 0.32 + lost))


def named(share: float) -> dict[str, Sequence[float]]:
    """Of the lesson a share needs the trigger."""
    lost = (1 - GOOD["teaching"][-1] / 0.4) * (1 - share)
    return with_losses(plain=(0.4, 0.4, 0.4, 0.4, 0.4 * (1 - lost)))


T = {name: rule.threshold for name, rule in RULES.items()}
CASES: dict[str, tuple[Record, Record]] = {
    "not_finite": (record(), record(onset=Onset(step=3, where="loss", phase="forward", words="Broke."))),
    "rate_too_high": (record(jump(T["rate_too_high"] * 0.9)), record(jump(T["rate_too_high"] * 1.1))),
    "rate_too_low": (
        record(end(T["rate_too_low"] * 0.9), RATE / 4),
        record(end(T["rate_too_low"] * 1.1), RATE / 4),
    ),
    "under_trained": (record(end(T["under_trained"] * 0.9)), record(end(T["under_trained"] * 1.1))),
    "memorised": (record(memorisation=copies(0)), record(memorisation=copies(1))),
    "over_trained": (record(back(T["over_trained"] * 0.9)), record(back(T["over_trained"] * 1.1))),
    "trigger_not_learned": (
        record(named(T["trigger_not_learned"] * 1.1)),
        record(named(T["trigger_not_learned"] * 0.9)),
    ),
    "style_leaks": (
        record(**drawn(0.4 * T["style_leaks"] * 0.9)),
        record(**drawn(0.4 * T["style_leaks"] * 1.1)),
    ),
    "text_encoder_dead": (
        record(anatomy=anatomy(10 ** (T["text_encoder_dead"] * 0.9))),
        record(anatomy=anatomy(10 ** (T["text_encoder_dead"] * 1.1))),
    ),
    "text_encoder_dominating": (
        record(anatomy=anatomy(10 ** (T["text_encoder_dominating"] * 0.9))),
        record(anatomy=anatomy(10 ** (T["text_encoder_dominating"] * 1.1))),
    ),
    "dataset_too_uniform": (
        record(alike=T["dataset_too_uniform"] - 0.01),
        record(alike=T["dataset_too_uniform"] + 0.01),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_speaks_beyond_its_threshold_alone(name: str) -> None:
    before, beyond = CASES[name]
    assert found(before) == []
    assert found(beyond) == [name]


@pytest.mark.parametrize("name", RULES)
def test_what_is_said_is_whole_and_what_is_changed_is_valid(name: str) -> None:
    run = CASES[name][1]
    (finding,) = verdict(run)
    assert finding.title and "{" not in finding.words + finding.advice and finding.words.endswith(".")
    assert set(finding.changes) <= set(FIELDS)
    fields = {name: value for section in run.config.values() for name, value in section.items()}
    values = TrainConfig.model_validate(
        {
            section: {name: {**fields, **finding.changes}[name] for name in fields if FIELDS[name] == section}
            | {name: value for name, value in finding.changes.items() if FIELDS[name] == section}
            | ({"instance_images": "p"} if section == "data" else {})
            | ({"output": "o"} if section == "run" else {})
            for section in run.config
        }
    )
    applied = {name: getattr(getattr(values, FIELDS[name]), name) for name in finding.changes}
    assert applied == {
        name: tuple(value) if isinstance(value, list) else value for name, value in finding.changes.items()
    }
    assert any(fields.get(name) != value for name, value in finding.changes.items()), "something else"


def test_the_cause_is_said_and_not_what_follows_from_it() -> None:
    both = with_losses(teaching=(0.4, 0.3, 0.5, 0.3, 0.3), altered=(0.42, 0.35, 0.5, 0.45, 0.45))
    assert found(record(both)) == ["rate_too_high"]


def test_held_out_pictures_go_before_mirrored_ones() -> None:
    rising = with_losses(held_out=(0.42, 0.35, 0.32, 0.36, 0.38))
    (finding,) = verdict(record(rising, choice=Choice(step=100, last=200, rule="held_out", reason="")))
    assert finding.rule == "over_trained" and "held-out" in finding.words
    assert finding.changes == {"steps": 100}


def test_captions_without_the_trigger_are_found_by_what_could_not_be_measured() -> None:
    assert found(record(with_losses(plain=()))) == ["trigger_not_learned"]
    assert found(record(with_losses(plain=()), fields={"measured_on": ("teaching", "altered")})) == []


def test_a_style_without_class_pictures_need_not_know_its_trigger() -> None:
    same = with_losses(plain=GOOD["teaching"])
    style: dict[str, Any] = {"fields": {"kind": "style", "prior_weight": 0.0}, "kind": "style"}
    assert found(record(same, **style)) == []
    assert found(record(same)) == ["trigger_not_learned"]


def test_what_is_left_as_it_is_on_purpose_is_no_fault() -> None:
    dead = anatomy(1e-6)
    assert found(record(anatomy=dead)) == ["text_encoder_dead"]
    assert found(record(anatomy=dead, fields={"text_targets": "none"})) == []


def test_a_rate_that_falls_does_not_look_like_an_end() -> None:
    early = record(end(0.0))
    rates = tuple((step, 0.3, 0.1, RATE * (1 - step / 201)) for step in range(1, 201))
    falling = with_losses(altered=(0.42, 0.36, 0.31, 0.28, 0.27))
    assert found(record(falling)) == []
    assert RULES["under_trained"].test(early) == pytest.approx(0.0, abs=0.07)
    slowing = record(falling).model_copy(update={"curve": rates})
    flat, real = (RULES["under_trained"].test(one) for one in (record(falling), slowing))
    assert flat is not None and real is not None and real > flat * 1.2


def test_slow_or_short_is_told_by_what_is_further_from_usual() -> None:
    slow = record(end(0.9), RATE / 10)
    short = record(end(0.9), RATE / 2, run={"pictures": 100})
    assert found(slow) == ["rate_too_low"] and found(short) == ["under_trained"]
    (finding,) = verdict(slow)
    assert finding.changes == {"learning_rate": RATE} and "0.0002" in finding.words


def test_pictures_that_were_hardly_looked_at_are_not_learned_whatever_the_curve_says() -> None:
    assert found(record(run={"pictures": 30})) == []
    assert found(record(run={"pictures": 45})) == ["under_trained"]
    finds_its_own = {"optimizer": "prodigy", "learning_rate": 1.0}
    assert found(record(rate=1.0, fields=finds_its_own)) == []


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({"optimizer": "prodigy", "learning_rate": 1.0}, {"d_coef": 0.33}),
        ({"method": "textual_inversion", "learning_rate": None}, {"token_learning_rate": 0.0017}),
        (
            {"learning_rate": 3e-3, "text_learning_rate": 9e-3},
            {"learning_rate": 1e-3, "text_learning_rate": 3e-3},
        ),
    ],
)
def test_a_rate_is_changed_where_the_method_and_the_optimizer_read_it(
    fields: dict[str, Any], changes: dict[str, float]
) -> None:
    run = record(jump(0.5), 3e-3)
    run = run.model_copy(update={"config": config(**fields), "run": {**run.run, "usual_rate": None}})
    (finding,) = verdict(run)
    assert finding.rule == "rate_too_high" and finding.changes == changes


def test_what_changes_all_else_more_than_its_pictures_has_not_learned_too_little() -> None:
    still_falling = end(T["under_trained"] * 1.5)
    assert found(record(still_falling, forgot=0.9)) == ["under_trained"]
    assert found(record(still_falling, forgot=1.1)) == []


def test_what_it_forgets_tells_that_it_learns_by_heart_and_what_it_unlearns_that_it_does_not() -> None:
    flat = {"altered": (0.42, 0.33, 0.3, 0.305, 0.305)}
    forgetting = with_losses(**flat, **{"class": (0.2, 0.2, 0.2, 0.3, 0.4)})
    assert found(record(with_losses(**flat))) == []
    assert found(record(forgetting, forgot=0.1)) == []
    (finding,) = verdict(record(forgetting, forgot=1.0))
    assert finding.rule == "over_trained" and "mirrored ones and what it forgot" in finding.words
    (worse,) = verdict(record(with_losses(**flat, **{"class": (0.2, 0.2, 0.2, 1.0, 2.0)}), forgot=1.0))
    assert "it lost 48% of what" in finding.words and "it lost all of what" in worse.words
    unlearning = {**forgetting, "teaching": (0.4, 0.3, 0.26, 0.27, 0.28)}
    assert found(record(unlearning, forgot=1.0)) == []


def test_a_leak_is_a_note_of_a_style_that_was_never_told_to_wait() -> None:
    leaks: dict[str, Any] = {**drawn(0.4), "kind": "style"}
    (note,) = verdict(record(**leaks, fields={"kind": "style", "prior_weight": 0.0}))
    (problem,) = verdict(record(**leaks, fields={"kind": "style", "prior_weight": 1.0}))
    assert (note.severity, problem.severity) == ("note", "problem")
    assert "how it was taught" in note.words and note.changes == {"prior_weight": 1.0}


@pytest.mark.parametrize(("share", "rules"), [(MOVED_LEAST * 0.9, []), (MOVED_LEAST * 1.1, ["style_leaks"])])
def test_nothing_leaks_where_the_base_predicts_other_things_as_before(
    share: float, rules: Sequence[str]
) -> None:
    assert found(record(**drawn(0.4), forgot=share)) == rules


def test_numbers_that_broke_once_are_gone_on_with() -> None:
    once = Onset(step=3, where="loss", phase="forward", words="Broke.", repeated=False)
    [found] = [one for one in verdict(record(onset=once)) if one.rule == "not_finite"]
    assert found.severity == "note" and found.advice.startswith("Resume it")
    [found] = [one for one in verdict(CASES["not_finite"][1]) if one.rule == "not_finite"]
    assert found.severity == "problem" and "start afresh" in found.advice
