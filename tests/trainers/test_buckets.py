"""Shapes: as many pixels as the square, as near to the picture's own as can be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.buckets import covering, nearest_shape, shapes


def test_the_shapes_of_sdxl_are_among_its_published_ones() -> None:
    """Podell et al. 2023, https://arxiv.org/abs/2307.01952, appendix I lists those within 1:2 and 2:1."""
    found = shapes(1024 * 1024, 64, 2.0)
    assert {(1024, 1024), (960, 1088), (896, 1152), (832, 1216), (768, 1344)} <= set(found)
    assert (1344, 768) in found


@pytest.mark.parametrize(
    ("pixels", "step", "aspect", "expected"),
    [
        (512 * 512, 64, 1.0, {(512, 512)}),
        (100, 64, 2.0, {(64, 64)}),  # never empty
        (64 * 64, 16, 2.0, {(48, 80), (64, 64), (80, 48)}),
    ],
)
def test_shapes_by_hand(pixels: int, step: int, aspect: float, expected: set[tuple[int, int]]) -> None:
    assert set(shapes(pixels, step, aspect)) == expected


@settings(max_examples=150, deadline=None)
@given(side=st.integers(1, 40), step=st.sampled_from([8, 16, 64]), aspect=st.floats(1, 8))
def test_every_shape_fits(side: int, step: int, aspect: float) -> None:
    pixels = (side * step) ** 2
    found = shapes(pixels, step, aspect)
    assert (side * step, side * step) in found
    for height, width in found:
        assert height % step == width % step == 0
        assert height * width <= pixels
        assert max(height, width) <= aspect * min(height, width)
        assert (width, height) in found
        assert pixels - height * width < step * max(height, width)  # none is smaller than it must be


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 100), (64, 64)),
        ((300, 100), (80, 48)),
        ((100, 160), (48, 80)),
        ((1000, 1010), (64, 64)),
        ((129, 100), (64, 64)),  # √(80/48) = 1.291 lies in the middle of both
        ((130, 100), (80, 48)),
    ],
)
def test_the_shape_that_cuts_least(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert nearest_shape(size, shapes(64 * 64, 16, 2.0)) == expected


@settings(max_examples=100, deadline=None)
@given(h=st.integers(1, 5000), w=st.integers(1, 5000), zoom=st.floats(1, 2))
def test_a_covering_size_covers_and_keeps_the_shape(h: int, w: int, zoom: float) -> None:
    target = (64, 48)
    scaled = covering((h, w), target, zoom)
    assert scaled[0] >= 64 and scaled[1] >= 48
    scale = max(64 / h, 48 / w) * zoom
    assert abs(scaled[0] - h * scale) <= 1 and abs(scaled[1] - w * scale) <= 1
