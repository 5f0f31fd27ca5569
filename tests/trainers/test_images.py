"""Pictures: what is read how, and what is refused."""

from __future__ import annotations

import io
import struct
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from pipelines.errors import PictureError
from trainers import images
from trainers.decoded import MAX_PIXELS
from trainers.images import find_pictures, read_picture, to_pixels, unread


def test_pictures_are_found_by_name_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png", "note.txt", "b.mask.png"):
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


def test_pixels_are_read_again_and_must_be_the_same(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.png")
    source = read_picture(tmp_path / "a.png")
    assert source.size == (8, 4) and source.image.getpixel((0, 0)) == (255, 0, 0)
    Image.new("RGB", (8, 4), "blue").save(tmp_path / "a.png")
    with pytest.raises(PictureError, match=r"'a\.png' was changed"):
        source.layers()
    (tmp_path / "a.png").unlink()
    with pytest.raises(PictureError, match=r"'a\.png' can't be read"):
        source.layers()


@pytest.mark.parametrize(
    ("background", "expected"), [("black", (0, 0, 0)), ("gray", (128, 128, 128)), ("#102030", (16, 32, 48))]
)
def test_the_colour_behind_transparency_is_chosen(
    tmp_path: Path, background: str, expected: tuple[int, int, int]
) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.png")
    source = read_picture(tmp_path / "a.png", background)
    assert source.image.getpixel((0, 0)) == expected and source.alpha
    assert source.notes == (f"transparent parts were made {background}",)


def test_half_transparent_parts_are_mixed_and_kept_as_opacity(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (200, 0, 100, 51)).save(tmp_path / "a.png")
    picture, alpha = read_picture(tmp_path / "a.png", "black").layers()
    assert picture.getpixel((0, 0)) == (40, 0, 20)  # 51 / 255 = 0.2 of it
    assert alpha is not None and alpha.getpixel((0, 0)) == 51


def test_a_palette_with_a_transparent_colour_has_opacity(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.putpixel((0, 0), 1)
    picture.save(tmp_path / "a.png", transparency=0)
    rgb, alpha = read_picture(tmp_path / "a.png").layers()
    assert rgb.getpixel((0, 0)) == (255, 0, 0) and rgb.getpixel((1, 1)) == (255, 255, 255)
    assert alpha is not None and alpha.getextrema() == (0, 255)


def test_a_phones_jpeg_with_a_second_picture_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")]
    )
    source = read_picture(tmp_path / "a.jpg")
    assert source.size == (8, 8) and source.image.getpixel((4, 4))[0] > 250  # type: ignore[index]


def test_thirty_two_bits_a_pixel_are_scaled_to_their_largest(tmp_path: Path) -> None:
    values = np.array([[0.0, 2.0], [4.0, np.nan]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    read = np.asarray(read_picture(tmp_path / "a.tif").image)[..., 0]
    assert read.tolist() == [[0, 128], [255, 0]]
    Image.fromarray(np.array([[0, 65535, 131070]], dtype=np.int32)).save(tmp_path / "b.tif")
    assert np.asarray(read_picture(tmp_path / "b.tif").image)[..., 0].tolist() == [[0, 128, 255]]


def test_colours_follow_the_pictures_own_profile(tmp_path: Path) -> None:
    """Lab's profile isn't one of RGB, sRGB's changes nothing, and one with gamma 1 brightens the middle."""
    plain = Image.new("RGB", (4, 4), (100, 100, 100))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for name, profile in (("s", srgb), ("lab", lab), ("bad", b"no profile"), ("linear", _linear(srgb))):
        plain.save(tmp_path / f"{name}.png", icc_profile=profile)
    read = {name: read_picture(tmp_path / f"{name}.png").image.getpixel((0, 0)) for name in
            ("s", "lab", "bad", "linear")}  # fmt: skip
    assert read["s"] == read["lab"] == read["bad"] == (100, 100, 100)
    # 100 / 255 of the light is 0.6652 of sRGB's scale: 1.055 · x^(1/2.4) − 0.055.
    assert all(abs(value - 169.6) <= 2 for value in read["linear"])  # type: ignore[union-attr]


def _linear(srgb: bytes) -> bytes:
    """sRGB's profile with straight curves, and another name."""
    changed = bytearray(srgb)
    for index in range(int.from_bytes(srgb[128:132])):
        entry = 132 + 12 * index
        tag, start, size = srgb[entry : entry + 4], *struct.unpack(">II", srgb[entry + 4 : entry + 12])
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            # A parametric curve of type 0, y = x ** g, with g = 1.
            curve = b"para" + bytes(4) + struct.pack(">HHi", 0, 0, 65536)
            changed[start : start + size] = curve.ljust(size, b"\0")
        if tag == b"desc":
            place = changed.find("sRGB".encode("utf-16-be"), start)
            changed[place : place + 8] = "line".encode("utf-16-be")
    return bytes(changed)


def test_heic_is_refused_with_the_reason_where_nothing_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    assert find_pictures(tmp_path) == [tmp_path / "a.heic"]
    with pytest.raises(PictureError, match=r"'a\.heic' is HEIC.*pillow-heif.*JPEG or PNG"):
        read_picture(tmp_path / "a.heic")


def test_heic_is_read_where_the_package_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for pillow-heif that opens every HEIC as a red square."""
    calls = []
    module = types.ModuleType("pillow_heif")
    red = io.BytesIO()
    Image.new("RGB", (6, 6), "red").save(red, format="PNG")

    def register() -> None:
        calls.append(True)
        plain = Image.open
        monkeypatch.setattr(images.Image, "open", lambda file, **_: plain(io.BytesIO(red.getvalue())))

    module.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))  # as some phones name it
    assert read_picture(tmp_path / "a.jpg").image.getpixel((1, 1)) == (255, 0, 0) and calls == [True]


def test_avif_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "a.avif")
    assert read_picture(tmp_path / "a.avif").image.getpixel((8, 8))[2] > 240  # type: ignore[index]


def test_a_giant_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(PictureError, match=r"'a\.png' has more than 10 bytes"):
        read_picture(tmp_path / "a.png")


def test_pictures_of_other_formats_are_named(tmp_path: Path) -> None:
    for name in ("b.psd", "a.CR2", "note.txt", "c.png"):
        (tmp_path / name).touch()
    assert unread(tmp_path) == ["a.CR2", "b.psd"]


def test_pixels_span_minus_one_to_one() -> None:
    pixels = to_pixels([Image.new("RGB", (4, 6), "black"), Image.new("RGB", (4, 6), (255, 0, 255))])
    assert pixels.shape == (2, 3, 6, 4) and pixels.dtype == torch.float32
    assert pixels[0].eq(-1).all() and pixels[1, 0].eq(1).all() and pixels[1, 1].eq(-1).all()


def test_pictures_in_a_folder_below_are_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "10_zuv dog").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "10_zuv dog" / "a.png")
    with pytest.raises(PictureError, match=r"its folder '10_zuv dog' has; give that one.*data\.subfolders"):
        find_pictures(tmp_path)


def test_a_format_that_starts_other_programs_is_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow draws PostScript by running Ghostscript, whatever the file is called."""
    from PIL import EpsImagePlugin

    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **_: started.append(True))
    head = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"
    (tmp_path / "a.png").write_text(head + "showpage\n")
    with pytest.raises(PictureError, match="isn't a picture"):
        read_picture(tmp_path / "a.png")
    assert not started
