"""The corpus: deterministic, balanced, true to its captions, and without what is held out."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from pipelines.errors import StudioError
from trainers.base import glyphs
from trainers.base.backgrounds import BACKGROUNDS, SCENES, draw_background
from trainers.base.corpus import compose, held_out_pair, paste, stream
from trainers.base.glyphs import draw_shape, find_font
from trainers.base.subjects import COLOURS, FIRST_BASE, HELD_OUT, NEW, SUBJECTS, by_name, with_article

try:
    find_font()
    HAS_FONT = True
except StudioError:
    HAS_FONT = False
needs_font = pytest.mark.skipif(not HAS_FONT, reason="Noto Color Emoji isn't installed")


def test_there_are_over_a_hundred_subjects_and_thirteen_colours() -> None:
    names = [s.name for s in SUBJECTS + HELD_OUT]
    assert len(SUBJECTS) >= 100 and len(COLOURS) == 13
    assert len(set(names)) == len(names)
    assert {s.name for s in SUBJECTS} >= NEW and len(FIRST_BASE) == 76
    assert by_name("raccoon") in HELD_OUT


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fox", "a fox"),
        ("owl", "an owl"),
        ("umbrella", "an umbrella"),
        ("unicorn", "a unicorn"),
        ("orange", "an orange"),
    ],
)
def test_articles(words: str, expected: str) -> None:
    assert with_article(words) == expected


def test_every_background_is_drawn_and_named() -> None:
    rng, seen = np.random.default_rng(0), {}
    for _ in range(600):
        pixels, phrase, label = draw_background(rng, 32)
        assert pixels.shape == (32, 32, 3) and pixels.dtype == np.float32
        assert 0 <= pixels.min() and pixels.max() <= 1
        seen[label] = phrase
    assert set(seen) == set(BACKGROUNDS)
    assert seen["snow"] == SCENES["snow"][0] and "teal" in seen["teal"]


def test_a_plain_background_has_the_colour_it_says() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        pixels, _, label = draw_background(rng, 16)
        if label in COLOURS:
            nearest = min(COLOURS, key=lambda c: np.abs(pixels[0, 0] * 255 - COLOURS[c]).sum())
            assert nearest == label


def test_paste_puts_the_picture_where_it_says_and_premultiplies() -> None:
    black = np.zeros((64, 64, 3), np.float32)
    out = paste(black, draw_shape("square"), (0.25, 0.5, 0.4))
    weight = out.sum(-1)
    centre = (weight * np.arange(64)).sum() / weight.sum() / 64
    assert abs(centre - 0.25) < 0.02
    # The square is white on transparent black: a wrong resampling would darken its edge on white.
    white = np.ones((64, 64, 3), np.float32)
    assert paste(white, draw_shape("circle"), (0.5, 0.5, 0.8)).min() > 0.99


@needs_font
def test_examples_follow_the_seed_and_keep_away_from_what_is_held_out() -> None:
    a, b = list(islice(stream(3), 230)), list(islice(stream(3), 230))
    assert all(
        x.caption == y.caption and np.array_equal(x.pixels, y.pixels) for x, y in zip(a, b, strict=True)
    )
    assert not any(held_out_pair(e.subject, e.background) for e in a)
    assert not {e.subject.name for e in a} & {s.name for s in HELD_OUT}
    counts = [sum(e.subject == s for e in a) for s in SUBJECTS]
    assert max(counts) - min(counts) <= 1
    assert next(stream(4)).caption != a[0].caption or not np.array_equal(next(stream(4)).pixels, a[0].pixels)


@needs_font
def test_captions_name_the_subject_or_its_class_and_the_place() -> None:
    rng, fox = np.random.default_rng(0), by_name("fox")
    examples = [compose(fox, rng) for _ in range(300)]
    named = [e for e in examples if "fox" in e.caption]
    assert 0.85 < len(named) / len(examples) < 1
    left = [e for e in examples if "on the left" in e.caption]
    assert left and all("on the right" not in e.caption for e in left)
    assert all(held_out_pair(fox, compose(fox, rng, held_out=True).background) for _ in range(5))


def test_a_missing_font_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "FONT_PLACES", ("/nowhere/font.ttf",))
    with pytest.raises(StudioError, match="fonts-noto-color-emoji") as caught:
        find_font()
    assert "\n" not in str(caught.value)


def test_a_subject_with_nothing_held_out_is_refused_rather_than_looked_for_without_end() -> None:
    without = [s for s in SUBJECTS if not any(held_out_pair(s, b) for b in BACKGROUNDS)]
    assert without and len(without) < 0.15 * len(SUBJECTS)
    with pytest.raises(ValueError, match="no background is held out"):
        compose(without[0], np.random.default_rng(0), held_out=True)
