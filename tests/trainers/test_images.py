"""Pictures: what is read how, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.errors import PictureError
from trainers.images import MAX_PIXELS, find_pictures, read_picture, squares, to_pixels


def test_pictures_are_found_by_name_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png", "note.txt"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, format="PNG")
    (tmp_path / "held_out").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "held_out" / "c.png")
    assert [path.name for path in find_pictures(tmp_path)] == ["a.JPG", "b.png"]


def test_no_folder_and_no_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="isn't a folder"):
        find_pictures(tmp_path / "none")
    with pytest.raises(PictureError, match="has none; expected at least one of png"):
        find_pictures(tmp_path)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 10), "blue")
    picture.paste("red", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    picture.save(tmp_path / "a.png", exif=exif)
    upright = read_picture(tmp_path / "a.png").image
    assert upright.size == (10, 20)
    assert upright.getpixel((5, 2)) == (255, 0, 0)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    read = np.asarray(read_picture(tmp_path / "ramp.png").image)[..., 0].ravel()
    assert np.abs(read.astype(int) - np.arange(256)).max() <= 1


def test_transparency_becomes_white_and_is_noted(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    source = read_picture(tmp_path / "a.png")
    assert source.image.getpixel((0, 0)) == (255, 255, 255)
    assert source.notes == ("transparent parts were made white",)


def test_an_opaque_alpha_channel_is_not_worth_a_note(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (9, 8, 7, 255)).save(tmp_path / "a.png")
    source = read_picture(tmp_path / "a.png")
    assert source.image.getpixel((0, 0)) == (9, 8, 7) and source.notes == ()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "PA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    name = "a.jpg" if mode == "CMYK" else "a.png"
    Image.new("RGB", (8, 8), "white").convert("RGB" if mode == "PA" else mode).save(tmp_path / name)
    source = read_picture(tmp_path / name)
    assert source.image.mode == "RGB" and source.image.getpixel((3, 3)) == (255, 255, 255)


def test_a_truncated_picture_is_refused_by_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with pytest.raises(PictureError, match=r"'cut\.png' is damaged"):
        read_picture(tmp_path / "cut.png")


def test_what_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(PictureError, match=r"'a\.png' isn't a picture"):
        read_picture(tmp_path / "a.png")


def test_an_animated_picture_is_refused(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), level) for level in (0, 100, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(PictureError, match=r"animated \(3 frames\)"):
        read_picture(tmp_path / "a.gif")


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """A PNG whose header claims a giant size, over a few bytes of content."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert 40_000 * 40_000 > MAX_PIXELS
    with pytest.raises(PictureError, match=r"'bomb\.png' (has 40000×40000|is too large)"):
        read_picture(tmp_path / "bomb.png")


def halves(width: int = 30, height: int = 10) -> Image.Image:
    """Red on the left, green in the middle, blue on the right."""
    picture = Image.new("RGB", (width, height), "lime")
    picture.paste("red", (0, 0, width // 3, height))
    picture.paste("blue", (2 * width // 3, 0, width, height))
    return picture


def test_the_middle_square_is_cut() -> None:
    (square,) = squares(halves(), 10)
    assert square.size == (10, 10)
    assert {square.getpixel((x, 5)) for x in range(10)} == {(0, 255, 0)}


def test_three_squares_along_the_longer_side() -> None:
    found = squares(halves(), 10, center=False)
    assert [one.getpixel((5, 5)) for one in found] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert len(squares(halves(10, 10), 10, center=False)) == 1


def test_mirrored_squares_are_added() -> None:
    picture = Image.new("RGB", (10, 10), "red")
    picture.paste("blue", (0, 0, 5, 10))
    plain, mirrored = squares(picture, 10, flip=True)
    assert plain.getpixel((0, 0)) == mirrored.getpixel((9, 0)) == (0, 0, 255)


@pytest.mark.parametrize("size", [(7, 7), (100, 31), (31, 100), (1, 500)])
def test_squares_have_the_resolution_whatever_the_size(size: tuple[int, int]) -> None:
    assert {one.size for one in squares(Image.new("RGB", size), 16, center=False)} == {(16, 16)}


def test_pixels_span_minus_one_to_one() -> None:
    pixels = to_pixels([Image.new("RGB", (4, 6), "black"), Image.new("RGB", (4, 6), (255, 0, 255))])
    assert pixels.shape == (2, 3, 6, 4) and pixels.dtype == torch.float32
    assert pixels[0].eq(-1).all() and pixels[1, 0].eq(1).all() and pixels[1, 1].eq(-1).all()
