"""Frames: what is cut from a picture, what is said of it, and the variants that are encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipelines.errors import ConfigError, PictureError
from trainers.colours import PLAIN, Colours, coloured
from trainers.config import DataConfig, TrainConfig
from trainers.dataset import Frame, Item, frame_notes, frames
from trainers.images import read_picture

Make = Callable[..., TrainConfig]


@pytest.fixture
def item(tmp_path: Path) -> Callable[..., Item]:
    """Make an item of a picture of random pixels, with the left half as its mask if wanted."""

    def make(width: int = 40, height: int = 20, masked: bool = False) -> Item:
        rng = np.random.default_rng(width * height)
        pixels = rng.integers(0, 255, (height, width, 4), dtype=np.uint8)
        pixels[..., 3] = 255
        if masked:
            pixels[:, width // 2 :, 3] = 0
        name = f"{width}x{height}{'m' if masked else ''}.png"
        Image.fromarray(pixels).save(tmp_path / name)
        source = read_picture(tmp_path / name)
        return Item(source=source, caption="zuv", name=name, masked=masked, repeats=3)

    return make


def same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


@pytest.fixture
def thirds(tmp_path: Path) -> Item:
    """Red on the left, green in the middle, blue on the right."""
    picture = Image.new("RGB", (72, 24), "lime")
    picture.paste("red", (0, 0, 24, 24))
    picture.paste("blue", (48, 0, 72, 24))
    picture.save(tmp_path / "thirds.png")
    return Item(source=read_picture(tmp_path / "thirds.png"), caption="zuv", name="thirds.png")


def test_the_middle_square_is_cut(make_config: Make, thirds: Item) -> None:
    (frame,) = frames([thirds], make_config(buckets=False).data, 24, 8)
    square = frame.cut().picture
    assert frame.size == (24, 24) and frame.original == (24, 72) and square.size == (24, 24)
    assert square.getcolors() == [(24 * 24, (0, 255, 0))]


def test_three_squares_along_the_longer_side(make_config: Make, thirds: Item) -> None:
    found = frames([thirds], make_config(buckets=False, center_crop=False).data, 24, 8)
    assert [one.cut().picture.getpixel((12, 12)) for one in found] == [
        (255, 0, 0), (0, 255, 0), (0, 0, 255),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(7, 7), (100, 31), (31, 100), (1, 500)])
def test_squares_have_the_resolution_whatever_the_size(
    make_config: Make, item: Callable[..., Item], size: tuple[int, int]
) -> None:
    found = frames([item(*size)], make_config(buckets=False, center_crop=False).data, 16, 8)
    assert {one.cut().picture.size for one in found} == {(16, 16)}


def test_several_parts_only_where_something_is_cut(make_config: Make, item: Callable[..., Item]) -> None:
    data = make_config(center_crop=False).data
    assert len(frames([item(20, 20)], data, 16, 8)) == 1
    assert [one.crop for one in frames([item(100, 20)], data, 16, 8)] == [(0, 0), (0, 32), (0, 64)]


def test_a_square_picture_has_the_square_with_shapes_too(
    make_config: Make, item: Callable[..., Item]
) -> None:
    (square,) = frames([item(24, 24)], make_config(buckets=False).data, 16, 8)
    (shaped,) = frames([item(24, 24)], make_config().data, 16, 8)
    assert shaped.variants == square.variants and shaped.size == square.size == (16, 16)


def test_a_long_picture_keeps_its_shape(make_config: Make, item: Callable[..., Item]) -> None:
    (frame,) = frames([item(40, 20)], make_config().data, 64, 16)
    assert frame.size == (48, 80) and frame.variants[0].scaled == (48, 96)
    assert frame.crop == (0, 8) and frame.numbers() == (20, 40, 0, 8, 48, 80)
    assert frame.caption == "zuv" and frame.repeats == 3
    assert frame.cut_off == (0, 8 / 96, 0, 8 / 96)
    assert frame_notes([frame]) == [
        "picture '40x20.png': cut off are 8% at the right and 8% at the left",
        "picture '40x20.png' is enlarged 2.4 times, which blurs it; a larger one is better",
    ]


def test_what_fits_needs_no_note_and_many_notes_are_counted(
    make_config: Make, item: Callable[..., Item]
) -> None:
    data = make_config().data
    assert frame_notes(frames([item(200, 200)], data, 64, 16)) == []
    lines = frame_notes(frames([item(40, 20), item(42, 20), item(44, 20)], data, 64, 16), most=2)
    assert len(lines) == 3 and lines[-1] == "and 4 more notes of what is cut off or enlarged"


@pytest.mark.parametrize(
    ("options", "resolution", "words"),
    [
        ({}, 20, "data.resolution: got 20, expected a multiple of 8; use 16"),
        ({"bucket_step": 12}, 16, "data.bucket_step: got 12, expected a multiple of 8; use 16"),
    ],
)
def test_sizes_that_the_base_cannot_draw_are_refused(
    make_config: Make, item: Callable[..., Item], options: dict[str, int], resolution: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        frames([item()], make_config(**options).data, resolution, 8)


def test_the_step_and_the_longest_shape_are_followed(make_config: Make, item: Callable[..., Item]) -> None:
    def sizes(**options: float) -> set[tuple[int, int]]:
        data = make_config(**options).data
        return {one.size for one in frames([item(w, 20) for w in range(20, 90, 5)], data, 64, 8)}

    assert all(h % 32 == w % 32 == 0 for h, w in sizes(bucket_step=32))
    assert max(w / h for h, w in sizes()) <= 2 < max(w / h for h, w in sizes(bucket_aspect=4))
    assert sizes(bucket_aspect=1) == {(64, 64)}


def test_the_mask_is_cut_and_mirrored_with_the_picture(make_config: Make, item: Callable[..., Item]) -> None:
    (frame,) = frames([item(40, 20, masked=True)], make_config(masks="alpha", flip=True).data, 64, 16)
    plain, mirrored = frame.cuts()
    assert plain.mask is not None and plain.mask.size == plain.picture.size == (80, 48)
    assert plain.mask.getpixel((10, 20)) == 255 and plain.mask.getpixel((70, 20)) == 0
    assert mirrored.mask is not None and same(mirrored.mask, ImageOps.mirror(plain.mask))
    assert same(mirrored.picture, ImageOps.mirror(plain.picture))
    assert same(frame.cut(1).picture, mirrored.picture)


def test_the_left_edge_of_a_mirrored_variant_is_counted_in_the_mirrored_picture(
    make_config: Make, item: Callable[..., Item]
) -> None:
    data = make_config(flip=True, center_crop=False).data
    first = frames([item(100, 20)], data, 16, 8)[0]
    assert [one.crop for one in first.variants] == [(0, 0), (0, 64)]
    assert first.numbers(1)[2:4] == (0, 64)


def varied(make_config: Make, one: Item, seed: int = 0, **options: Any) -> Frame:
    (frame,) = frames([one], make_config(**options).data, 64, 16, seed=seed)
    return frame


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("augment", ["crop", "colour", "both"])
def test_variants_are_as_many_as_asked_and_differ(
    make_config: Make, item: Callable[..., Item], augment: str, flip: bool
) -> None:
    frame = varied(make_config, item(), augment=augment, variants=5, flip=flip)
    assert len(frame.variants) == (10 if flip else 5)
    assert len({frame.key(index) for index in range(len(frame.variants))}) == len(frame.variants)
    pixels = {one.picture.tobytes() for one in frame.cuts()}
    assert len(pixels) == len(frame.variants)
    assert {one.picture.size for one in frame.cuts()} == {(frame.size[1], frame.size[0])}
    assert (frame.variants[1].colours == PLAIN) == (augment == "crop")
    assert (frame.variants[1].scaled == frame.variants[0].scaled) == (augment == "colour")


def test_variants_follow_seed_and_content_only(make_config: Make, item: Callable[..., Item]) -> None:
    options: dict[str, Any] = {"augment": "both", "variants": 4}
    first = varied(make_config, item(), **options)
    assert first.variants == varied(make_config, item(), **options).variants
    assert first.variants[1:] != varied(make_config, item(), seed=1, **options).variants[1:]
    other = varied(make_config, item(40, 20, masked=True), **options)
    assert first.variants[0] == other.variants[0] and first.variants[1:] != other.variants[1:]
    (plain,) = frames([item()], make_config(**options).data, 64, 16, plain=True)
    assert plain.variants == first.variants[:1]


@pytest.mark.parametrize("strength", [0.02, 0.1, 0.5])
def test_variants_stay_within_their_strength(
    make_config: Make, item: Callable[..., Item], strength: float
) -> None:
    frame = varied(
        make_config, item(400, 200), augment="both", variants=64, augment_strength=strength, seed=3
    )
    first = frame.variants[0]
    shown = [1.0 - frame.size[1] / (first.scaled[1] * z) for z in (1.0, 1.0 / (1.0 - strength))]
    for one in frame.variants[1:]:
        zoom = one.scaled[1] / first.scaled[1]
        assert 1 - 0.05 <= zoom <= 1 / (1 - strength) + 0.05 and shown[1] <= 1
        for axis in (0, 1):
            # Nothing is shown that the plain variant leaves out, but for rounding.
            start, end = one.crop[axis] / zoom, (one.crop[axis] + frame.size[axis]) / zoom
            assert 0 <= one.crop[axis] <= one.scaled[axis] - frame.size[axis]
            assert start >= first.crop[axis] - 1.5 and end <= first.crop[axis] + frame.size[axis] + 1.5
        assert max(abs(one.colours.brightness - 1), abs(one.colours.contrast - 1)) <= strength
        assert abs(one.colours.hue) <= strength / 5
    spread = [one.colours.brightness for one in frame.variants[1:]]
    assert max(spread) - min(spread) > strength


def test_a_key_changes_with_all_that_pixels_depend_on(make_config: Make, item: Callable[..., Item]) -> None:
    def key(data: DataConfig, one: Item, resolution: int = 64) -> str:
        return frames([one], data, resolution, 16)[0].key()

    data = make_config().data
    one, other = item(40, 20, masked=True), item()
    keys = [
        key(data, one), key(data, item(41, 20)), key(data, one, 32),
        key(make_config(buckets=False).data, one),
        key(data, replace(one, masked=False)), key(data, replace(one, mask_source=other.source)),
        key(data, replace(one, source=replace(one.source, background="black"))),
    ]  # fmt: skip
    assert len(set(keys)) == 7 and key(data, one) == keys[0]
    assert key(data, replace(one, caption="other", repeats=9)) == keys[0]


def test_colours_by_hand() -> None:
    picture = Image.new("RGB", (2, 1), (100, 100, 100))
    picture.putpixel((1, 0), (200, 200, 200))
    assert coloured(picture, PLAIN) is picture
    bright = coloured(picture, Colours(1.1, 1.0, 0.0))
    assert [bright.getpixel((x, 0)) for x in (0, 1)] == [(110,) * 3, (220,) * 3]
    # The mean is 150: 150 − 50·1.2 = 90, 150 + 50·1.2 = 210.
    strong = coloured(picture, Colours(1.0, 1.2, 0.0))
    assert [strong.getpixel((x, 0)) for x in (0, 1)] == [(90,) * 3, (210,) * 3]
    assert same(coloured(picture, Colours(1.0, 1.0, 0.3)), picture)  # gray has no hue


def test_a_turned_hue_keeps_the_luma_and_comes_back() -> None:
    picture = Image.new("RGB", (4, 4), (120, 90, 100))
    turned = coloured(picture, Colours(1.0, 1.0, 0.25))
    assert turned.getpixel((0, 0)) != (120, 90, 100)
    luma = [np.asarray(one) @ (0.299, 0.587, 0.114) for one in (picture, turned)]
    assert np.abs(luma[0] - luma[1]).max() < 1
    back = np.asarray(coloured(turned, Colours(1.0, 1.0, -0.25)), dtype=int)
    assert np.abs(back - (120, 90, 100)).max() <= 1
    assert same(coloured(picture, Colours(1.0, 1.0, 1.0)), picture)


@pytest.mark.parametrize("size", [(2000, 1), (1, 2000)])
def test_a_strip_is_refused_before_it_is_scaled(
    item: Callable[..., Item], make_config: Make, size: tuple[int, int]
) -> None:
    """At 512 pixels two thousand of it would be 362 high, 724,000 wide."""
    with pytest.raises(PictureError, match="too long a strip; cut out of it what matters"):
        frames([item(*size)], make_config().data, 512, 8)
    assert frames([item(*size)], make_config().data, 16, 2)


def test_what_one_of_several_parts_shows_is_not_called_cut_off(
    item: Callable[..., Item], make_config: Make
) -> None:
    def notes(width: int, **fields: Any) -> list[str]:
        return frame_notes(frames([item(width, 20)], make_config(**fields).data, 16, 2))

    assert "cut off are" in notes(40, buckets=False)[0]
    assert notes(40, buckets=False, center_crop=False) == []
