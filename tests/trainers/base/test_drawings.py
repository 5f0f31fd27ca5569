"""The drawn characters stand where the pose says and keep their colours at 64 px; the styles are styles."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageStat

from trainers.base.drawings import (
    CHALK,
    CHARACTERS,
    CREAM,
    ORANGE,
    PAPER,
    PIXEL_PALETTE,
    PURPLE,
    STYLES,
    TEAL,
    WASH,
    YELLOW,
    Pose,
    Sheet,
    blueprint,
    draw_character,
    pixel_art,
)


def _share_near(picture: Image.Image, colour: tuple[int, int, int], tolerance: int = 40) -> float:
    """Share of the pixels whose every channel is within the tolerance of a colour."""
    distance = np.abs(np.asarray(picture.convert("RGB"), dtype=int) - np.asarray(colour))  # (H, W, 3)
    return float((distance <= tolerance).all(axis=2).mean())


def _on(colour: tuple[int, int, int], figure: Image.Image) -> Image.Image:
    paper = Image.new("RGB", figure.size, colour)
    paper.paste(figure, (0, 0), figure)
    return paper


@pytest.mark.parametrize("name", list(CHARACTERS))
def test_a_character_fills_the_square_its_pose_names(name: str) -> None:
    box = draw_character(name, Pose(size=0.5, x=0.3, y=0.6), 128).getbbox()
    assert box is not None
    left, top, right, bottom = box
    assert 0.05 * 128 - 1 <= left and right <= 0.55 * 128 + 1
    assert 0.35 * 128 - 1 <= top and bottom <= 0.85 * 128 + 1
    assert bottom - top > 0.4 * 128


@pytest.mark.parametrize("name", list(CHARACTERS))
@pytest.mark.parametrize("lift", [0.0, 1.0])
def test_no_part_is_cut_off_at_the_edge_of_its_own_square(name: str, lift: float) -> None:
    sheet = Sheet(200)
    CHARACTERS[name](sheet, Pose(lift=lift))
    alpha = sheet.image.getchannel("A")
    alpha.paste(0, (1, 1, 199, 199))
    assert alpha.getbbox() is None


@pytest.mark.parametrize(
    ("name", "colours"), [("mascot", (TEAL, CREAM, ORANGE)), ("teapot", (PURPLE, YELLOW))]
)
def test_colours_survive_at_64_pixels(name: str, colours: tuple[tuple[int, int, int], ...]) -> None:
    picture = _on((90, 90, 90), draw_character(name, Pose(size=0.85), 64))
    for colour in colours:
        assert _share_near(picture, colour) > 0.015, colour


def test_mirroring_and_looking_change_the_picture() -> None:
    plain = _on((0, 0, 0), draw_character("teapot", Pose(), 64))
    mirrored = _on((0, 0, 0), draw_character("teapot", Pose(mirrored=True), 64))
    assert ImageStat.Stat(ImageChops.difference(plain, mirrored)).mean[0] > 5
    looking = _on((0, 0, 0), draw_character("mascot", Pose(look=(1, 1)), 64))
    straight = _on((0, 0, 0), draw_character("mascot", Pose(), 64))
    assert ImageChops.difference(looking, straight).getbbox() is not None


def test_a_drawing_is_the_same_every_time() -> None:
    first, second = (draw_character("mascot", Pose(tilt=7), 64) for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("style", list(STYLES))
def test_a_style_keeps_size_and_changes_the_picture(style: str) -> None:
    before = _on((240, 220, 90), draw_character("mascot", Pose(), 128))
    after = STYLES[style](before)
    assert (after.mode, after.size) == ("RGB", before.size)
    assert ImageStat.Stat(ImageChops.difference(before, after)).mean != [0, 0, 0]


def test_blueprint_is_paper_where_flat_and_chalk_at_contours() -> None:
    flat = blueprint(Image.new("RGB", (128, 128), (200, 30, 30)))
    assert flat.getcolors() == [(128 * 128, PAPER)]
    drawn = blueprint(_on((240, 220, 90), draw_character("mascot", Pose(), 128)))
    assert 0.08 < _share_near(drawn, CHALK) < 0.4
    assert 0.1 < _share_near(drawn, WASH) < 0.5
    assert _share_near(drawn, PAPER) > 0.4


def test_pixel_art_holds_only_its_palette_in_equal_cells() -> None:
    picture = pixel_art(_on((240, 220, 90), draw_character("mascot", Pose(), 128)), cells=16)
    assert {colour for _, colour in picture.getcolors() or []} == set(PIXEL_PALETTE)
    cells = np.asarray(picture).reshape(16, 8, 16, 8, 3)
    assert (cells == cells[:, :1, :, :1]).all()
