"""Sentences about a mix: who overwrites whom, at which thresholds, and weights that really balance."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from pipelines.adapter import Adapter
from pipelines.base import load_base
from pipelines.effects import _predictions, _trajectory, block_effects
from pipelines.families import block_of
from pipelines.interference import Interference, Meeting
from pipelines.interference_balance import EVEN, balance_of, overwritten
from pipelines.interference_sums import Sums
from pipelines.interference_words import Sentence, sentences
from pipelines.mixer import Mixer
from tests.tiny import assert_unchanged, random_adapter, target_modules, weights_of

Effects = Mapping[str, Mapping[str, float]]


def met(effects: Effects, cosine: float = 0.0) -> Meeting:
    """Adapters with these effects by block, whose ΔW are of size 1 and have this cosine."""
    names = tuple(effects)
    places = dict.fromkeys(block for own in effects.values() for block in own)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    sums = {
        block: Sums(
            modules=1, energy=dict.fromkeys(names, 1.0), inner=dict.fromkeys(pairs, cosine),
            columns=dict.fromkeys(pairs, 0.2), rows=dict.fromkeys(pairs, 0.2), mass=dict.fromkeys(pairs, 1.0),
            shared=dict.fromkeys(pairs, 1),
        )
        for block in places
    }  # fmt: skip
    return Meeting(adapters=names, blocks=sums, effects=effects)


def first(report: Interference) -> Sentence:
    return sentences(report)[0]


def test_the_sentence_names_block_and_weights() -> None:
    report = met({"ink": {"mid_block": 0.02, "up_blocks.1": 0.5}, "mascot": {"up_blocks.1": 0.3}}).at(
        {"ink": 1.2, "mascot": 1.0}
    )
    said = first(report)
    assert said.words == "“ink” overwrites “mascot” in up_blocks.1; 0.6 / 1.0 balances them."
    assert (said.kind, said.adapters, said.blocks) == ("overwrites", ("ink", "mascot"), ("up_blocks.1",))
    assert said.as_dict()["weights"] == {"ink": [0.6, 0.6], "mascot": [1.0, 1.0]}
    assert sentences(report, {"ink": "Blue ink"})[0].words.startswith("“Blue ink” overwrites “mascot”")


@pytest.mark.parametrize(("effect", "kind"), [(0.2, "overwrites"), (0.199, "calm")])
def test_twice_the_effect_overwrites(effect: float, kind: str) -> None:
    report = met({"a": {"mid_block": effect}, "b": {"mid_block": 0.1}}).at()
    assert first(report).kind == kind
    assert first(met({"a": {"mid_block": effect}, "b": {"mid_block": 0.1}}, cosine=0.6).at()).kind == "alike"


def test_a_block_that_hardly_matters_to_the_weaker_one_isnt_named() -> None:
    far = {"mid_block": 0.5, "up_blocks.1": 1.0}
    for least, expected in ((0.22, ["mid_block"]), (0.23, ["mid_block", "up_blocks.1"])):
        report = met({"a": far | {"up_blocks.1": least * 2}, "b": {"mid_block": 1.0, "up_blocks.1": least}})
        assert list(overwritten(report.at({"a": 5.0, "b": 1.0}), "a", "b")) == expected


def test_everywhere_and_several_blocks() -> None:
    effects = {f"up_blocks.{number}": 1.0 for number in range(4)}
    weak = {block: 0.1 * (number + 1) for number, block in enumerate(effects)}
    assert "overwrites “b” everywhere;" in first(met({"a": effects, "b": weak}).at()).words
    weak["mid_block"] = 1.0
    said = first(met({"a": effects, "b": weak}).at())
    assert "overwrites “b” in up_blocks.3 and up_blocks.2 and 1 more block" not in said.words
    assert said.blocks[0] == "up_blocks.3" and said.blocks == tuple(sorted(said.blocks, reverse=True))


def test_where_the_whole_is_even_the_stronger_one_is_lowered_in_its_block() -> None:
    meeting = met({"a": {"mid_block": 0.6, "up_blocks.1": 1.0}, "b": {"mid_block": 0.2, "up_blocks.1": 1.1}})
    proposal = balance_of(meeting.at({"a": 0.9, "b": 0.9}))
    assert proposal is not None
    assert proposal.weights == {"a": (0.9, 0.9), "b": (0.9, 0.9)} and proposal.blocks == {}, (
        "it hardly matters"
    )
    meeting = met({"a": {"mid_block": 0.9, "up_blocks.1": 1.0}, "b": {"mid_block": 0.3, "up_blocks.1": 1.1}})
    said = first(meeting.at({"a": 0.9, "b": 0.9}))
    assert said.words == "“a” overwrites “b” in mid_block; “a” × 0.33 in mid_block balances them."
    assert said.proposal is not None and said.proposal.blocks == {"a": {"mid_block": 0.33}}


def test_text_encoders_are_lowered_by_their_weight() -> None:
    meeting = met(
        {"a": {"text_encoder": 0.9, "mid_block": 1.0}, "b": {"text_encoder": 0.3, "mid_block": 1.1}}
    )
    said = first(meeting.at({"a": (1.0, 1.2), "b": 1.0}))
    assert said.proposal is not None and said.proposal.blocks == {}
    assert said.proposal.weights == {"a": (1.0, 0.33), "b": (1.0, 1.0)}
    assert "1.0 / 1.0 (words 0.33 / 1.0) balances them" in said.words


@pytest.mark.parametrize("seed", range(40))
def test_proposed_weights_balance(seed: int) -> None:
    """At the proposed weights effects are about equal, nobody overwrites anybody, and signs are kept."""
    draw = random.Random(seed)
    blocks = ["down_blocks.1", "mid_block", "up_blocks.1", "text_encoder"]
    names = "abcd"[: draw.randint(2, 4)]
    meeting = met({name: {block: 10 ** draw.uniform(-2, 0) for block in blocks} for name in names})
    weights = {name: (draw.uniform(-2, 3), draw.uniform(-2, 3)) for name in names}
    report = meeting.at(weights)
    proposal = balance_of(report)
    assert proposal is not None
    after = meeting.at(proposal.weights, proposal.blocks)
    assert not any(overwritten(after, a, b) for a in names for b in names if a != b)
    for name, (unet, text) in proposal.weights.items():
        assert -2 <= min(unet, text) and max(unet, text) <= 3
        assert unet * weights[name][0] >= 0 <= text * weights[name][1]
    one_number = all(
        unet * weights[name][1] == pytest.approx(text * weights[name][0], rel=0.1, abs=0.01)
        for name, (unet, text) in proposal.weights.items()
    )
    if not proposal.blocks and one_number:
        sizes = [math.hypot(*after.sizes(name).values()) for name in names]
        assert max(sizes) / min(sizes) < EVEN


def test_equal_weights_alone_make_effects_equal() -> None:
    meeting = met({"a": {"mid_block": 0.7}, "b": {"mid_block": 0.1}, "c": {"mid_block": 0.31}})
    proposal = balance_of(meeting.at({"a": 2.0, "b": -0.5, "c": 0.4}))
    assert proposal is not None and proposal.blocks == {}
    after = meeting.at(proposal.weights).sizes
    assert [after(name)["mid_block"] for name in "abc"] == pytest.approx([0.1] * 3, rel=0.03)
    assert proposal.weights["b"] == (-1.0, -1.0), "the largest is as taught"


def test_two_of_a_kind_are_kept_at_one_ones_strength() -> None:
    meeting = met({"a": {"mid_block": 0.5}, "b": {"mid_block": 0.5}}, cosine=0.9)
    said = first(meeting.at())
    assert said.kind == "alike" and "1.9 times as much as one; 0.51 / 0.51 keeps it at one's" in said.words
    assert said.proposal is not None
    weights = [pair[0] for pair in said.proposal.weights.values()]
    together = math.sqrt(weights[0] ** 2 + weights[1] ** 2 + 2 * 0.9 * weights[0] * weights[1])
    assert together == pytest.approx(1, abs=0.02)


def test_against_each_other_no_weight_helps() -> None:
    said = first(met({"a": {"mid_block": 0.5}, "b": {"mid_block": 0.5}}, cosine=-0.4).at())
    assert said.kind == "against" and said.proposal is None
    assert "pull against each other in mid_block" in said.words and "(cosine -0.40)" in said.words
    assert first(met({"a": {"mid_block": 0.5}, "b": {"mid_block": 0.5}}, cosine=-0.2).at()).kind == "calm"


def test_nothing_to_say_is_one_calm_sentence() -> None:
    meeting = met({"a": {"mid_block": 0.3}, "b": {"mid_block": 0.3}})
    [said] = sentences(meeting.at())
    assert said.words == "None overwrites another: “a” 50%, “b” 50% of what changes."
    assert first(meeting.at({"a": 1.0})).words == "“a” acts alone at these weights."
    assert first(meeting.at({})).words == "At these weights no adapter changes anything."
    assert balance_of(meeting.at({"a": 1.0})) is None


def test_without_effects_the_size_of_the_change_counts() -> None:
    meeting = met({"a": {"mid_block": 0.3}, "b": {"mid_block": 0.3}})
    report = Meeting(adapters=meeting.adapters, blocks=meeting.blocks).at({"a": 1.0, "b": 0.5})
    assert first(report).words == "“a” overwrites “b” in mid_block; 1.0 / 1.0 balances them."


def test_effects_are_those_of_one_block_alone(tiny_folder: Path) -> None:
    base = load_base(tiny_folder, device="cpu")
    before, modules = weights_of(base), target_modules(base, "attention")
    whole = random_adapter(base, modules)
    block = block_of(next(module for module in modules if module.startswith("unet.up_blocks")))
    part = {module: factor for module, factor in whole.factors.items() if block_of(module) == block}
    with Mixer(base) as mixer:
        mixer.add("whole", whole)
        mixer.set({"whole": 0.7})
        measured = []
        for found in block_effects(mixer, "whole"):
            measured.append(found)
            assert mixer.weights == {"whole": (0.7, 0.7)}, "in between the mix is as it was"
    assert [name for name, _ in measured][-1] == "text_encoder" and len(measured) > 2
    prompts = ["a photo", f"a photo of {whole.triggers[0]}" if whole.triggers else ""]
    with torch.no_grad(), Mixer(base) as mixer:
        steps, plain = _trajectory(base, prompts)
        mixer.add("part", Adapter(name="part", factors=part))
        mixer.set({"part": 1.0})
        change = _predictions(base, prompts, steps) - plain
    assert dict(measured)[block] == pytest.approx(float(change.square().mean().sqrt()), rel=1e-4)
    assert dict(measured)[block] > 0
    assert_unchanged(base, before)
