"""Captions: sidecars and the trigger, and what a sample says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainers.captions import spoken, words_for
from trainers.config import TrainConfig
from trainers.dataset import load_dataset

Make = Callable[..., TrainConfig]
TAGS = "zuv, a disc, red, shiny , ,small"


def said(make_config: Make, caption: str = TAGS, seed: int = 0, **fields: object) -> str:
    return spoken(caption, make_config(**fields).data, torch.Generator().manual_seed(seed))


def test_a_caption_is_said_as_it_is_and_nothing_is_drawn(make_config: Make) -> None:
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    assert spoken(TAGS, make_config().data, generator) == TAGS
    assert torch.equal(before, generator.get_state())


def test_tags_are_shuffled_behind_those_that_stay(make_config: Make) -> None:
    found = {said(make_config, seed=seed, shuffle_tags=True, keep_tags=2) for seed in range(60)}
    assert {tuple(one.split(", ")[:2]) for one in found} == {("zuv", "a disc")}
    assert {frozenset(one.split(", ")) for one in found} == {
        frozenset(("zuv", "a disc", "red", "shiny", "small"))
    }
    assert len(found) == 6  # 3! orders of what is left


def test_the_same_generator_says_the_same(make_config: Make) -> None:
    options = {"shuffle_tags": True, "caption_dropout": 0.5, "keep_tags": 0}
    config = make_config(**options).data
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    assert [spoken(TAGS, config, first) for _ in range(20)] == [
        spoken(TAGS, config, second) for _ in range(20)
    ]


@pytest.mark.parametrize("keep", [5, 6, 100])
def test_nothing_moves_where_all_tags_stay(make_config: Make, keep: int) -> None:
    assert said(make_config, shuffle_tags=True, keep_tags=keep) == "zuv, a disc, red, shiny, small"


def test_a_share_of_captions_is_left_out(make_config: Make) -> None:
    config, generator = make_config(caption_dropout=0.25).data, torch.Generator().manual_seed(1)
    counts = Counter(spoken("zuv", config, generator) for _ in range(4000))
    assert set(counts) == {"", "zuv"}
    assert abs(counts[""] / 4000 - 0.25) < 0.03


@pytest.mark.parametrize(("share", "expected"), [(1.0, {""}), (1e-9, {TAGS})])
def test_all_or_none_are_left_out(make_config: Make, share: float, expected: set[str]) -> None:
    assert {said(make_config, seed=seed, caption_dropout=share) for seed in range(20)} == expected


def test_the_trigger_is_put_in_front_where_it_lacks(make_config: Make, pictures: Path) -> None:
    (pictures / "00.txt").write_text("a disc on red")
    (pictures / "01.txt").write_text("a ZUV disc")
    config = make_config(add_trigger=True, held_out=0).data
    data = load_dataset(config)
    assert [item.caption for item in data.learn[:3]] == ["zuv, a disc on red", "a ZUV disc", "a zuv disc"]
    assert [item.own for item in data.learn[:3]] == [True, True, False]
    assert not any("trigger" in note for note in data.notes)


def test_hostile_captions_become_one_harmless_line(make_config: Make, pictures: Path) -> None:
    (pictures / "00.txt").write_text("zuv\r\n\x1b[2J<b>\u2028x\x00 \ud7ff ü", encoding="utf-8")
    assert load_dataset(make_config().data).learn[0].caption == "zuv [2J<b> x \ud7ff ü"


def test_pictures_of_subfolders_are_named_with_them(pictures: Path, make_config: Make) -> None:
    config = make_config(held_out=0)
    inside = [pictures / "3_zuv" / "a.png", pictures / "b.png"]
    (pictures / "b.txt").write_text("a disc")
    notes = words_for(inside, config.data)[1]
    assert "no caption for 3_zuv/a.png" in notes[1] and "data.add_trigger" in notes[0]
