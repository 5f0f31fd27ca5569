"""Concepts made for the purpose: they are what the tables say, again and again, and nothing is shared."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import ConfigError
from trainers.base.glyphs import FONT_PLACES
from trainers.bench.concept_styles import TRANSFORMATIONS
from trainers.bench.concepts import (
    CONCEPTS,
    POOLS,
    PROOF,
    TAUGHT,
    UNSEEN,
    Concept,
    concept,
    lay_out,
    taught,
    unseen,
)

SUBJECTS = [row for row in CONCEPTS.values() if row.kind == "subject"]
STYLES = [row for row in CONCEPTS.values() if row.kind == "style"]

needs_font = pytest.mark.skipif(
    not any(Path(place).exists() for place in FONT_PLACES), reason="the emoji font isn't installed"
)


def test_there_are_enough_concepts_and_their_words_are_their_own() -> None:
    assert len(SUBJECTS) >= 20 and len(STYLES) >= 12
    assert {row.pool for row in SUBJECTS} == {row.pool for row in STYLES} == {*POOLS, PROOF}
    assert len({row.trigger for row in CONCEPTS.values()}) == len(CONCEPTS)
    assert {row.id for row in STYLES} == set(TRANSFORMATIONS)
    for row in CONCEPTS.values():
        assert row.trigger in row.instance_prompt and row.trigger not in row.class_prompt


def test_no_two_subjects_look_alike() -> None:
    looks = [row.look for row in SUBJECTS if row.look is not None]
    assert len({look.body for look in looks}) == len(looks)
    for one, other in combinations(looks, 2):
        assert (one.colour, one.second, one.third) != (other.colour, other.second, other.third)


@pytest.mark.parametrize("row", [concept("bramu"), pytest.param(concept("neon"), marks=needs_font)])
def test_pictures_are_the_same_every_time_and_unseen_ones_show_something_else(row: Concept) -> None:
    learned, kept = taught(row, 3), unseen(row, 3)
    again = taught(row, 1)[0]
    assert np.array_equal(np.asarray(learned[0][0]), np.asarray(again[0])) and learned[0][1] == again[1]
    captions = [caption for _, caption in learned + kept]
    assert len(set(captions)) == 6 and all(row.trigger in caption for caption in captions)
    for (one, _), (other, _) in combinations(learned + kept, 2):
        assert np.abs(np.subtract(np.asarray(one, float), np.asarray(other, float))).mean() > 5


@pytest.mark.parametrize("row", CONCEPTS.values(), ids=CONCEPTS)
def test_what_is_taught_and_what_is_unseen_share_no_scene(row: Concept) -> None:
    from trainers.bench.concepts import _plan

    learned, kept = _plan(row)
    assert len(set(learned)) == len(learned) == TAUGHT and len(kept) == UNSEEN >= 20
    assert not set(learned) & set(kept)


def test_pictures_lie_in_a_folder_with_their_captions(tmp_path: Path) -> None:
    folder = lay_out(taught(concept("wexna"), 2), tmp_path / "wexna")
    assert sorted(path.name for path in folder.iterdir()) == ["01.png", "01.txt", "02.png", "02.txt"]
    assert "wexna character" in (folder / "02.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: concept("bramo"), "did you mean 'bramu'"),
        (lambda: taught(concept("bramu"), TAUGHT + 1), f"1 to {TAUGHT}"),
        (lambda: unseen(concept("bramu"), 0), f"1 to {UNSEEN}"),
    ],
)
def test_what_there_is_not_is_said(call: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call()  # type: ignore[operator]
