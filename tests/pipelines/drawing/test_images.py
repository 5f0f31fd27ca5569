"""Pictures that are handed in: any mode, any size, and what is said about them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.base import Base
from pipelines.drawing.images import drawing_size, fitted, plain, to_images, to_pixels
from pipelines.generation import GenerationConfig, PictureUse
from tests.pipelines.drawing.scenes import noisy_picture

LARGE = "the picture is 32×64, more than twice the base's 16: drawn smaller"


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    found, notes = plain(image, "the picture")
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [(200, 0, 0), (255, 255, 255)]
    assert notes == ["the picture is transparent in places: laid on white"]
    opaque, notes = plain(Image.new("RGBA", (2, 1), (200, 0, 0, 255)), "the picture")
    assert opaque.getpixel((0, 0)) == (200, 0, 0) and notes == []


def test_sixteen_bits_are_scaled() -> None:
    deep = Image.fromarray(np.array([[0, 257 * 7, 65535]], dtype=np.uint16))
    found, notes = plain(deep, "the picture")
    assert [found.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (7,) * 3, (255,) * 3]
    assert "scaled to 8" in notes[0]


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "LA", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    found, _ = plain(noisy_picture().convert("L").convert("RGB").convert(mode), "the picture")
    assert found.mode == "RGB" and found.size == (16, 16)


def test_turned_pictures_are_set_upright() -> None:
    image = noisy_picture(6, 4)
    image.getexif()[0x0112] = 6
    found, _ = plain(image, "the picture")
    assert found.size == (4, 6)


def test_pixels_and_levels_are_inverse() -> None:
    image = noisy_picture(8, 6)
    pixels = to_pixels(image)
    assert pixels.shape == (1, 3, 6, 8) and 0 <= pixels.min() and pixels.max() <= 1
    assert to_images(pixels * 2 - 1)[0].tobytes() == image.tobytes()
    assert to_pixels(image.convert("L")).shape == (1, 1, 6, 8)
    assert to_images(torch.full((1, 3, 1, 1), 9.0))[0].getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("asked", "picture", "expected", "said"),
    [
        ((None, None), None, (16, 16), []),
        ((17, None), None, (18, 16), ["height 17 isn't a multiple of 2: drawn at 18"]),
        ((None, None), (20, 24), (20, 24), []),
        ((None, None), (21, 24), (22, 24), ["height 21 isn't a multiple of 2: drawn at 22"]),
        ((None, None), (64, 32), (32, 16), [LARGE]),
        ((40, None), (20, 24), (40, 48), []),
        ((None, 12), (20, 24), (10, 12), []),
        ((64, 64), (20, 24), (64, 64), []),
    ],
)  # fmt: skip
def test_sizes(
    tiny_base: Base,
    asked: tuple[int | None, int | None],
    picture: tuple[int, int] | None,
    expected: tuple[int, int],
    said: list[str],
) -> None:
    config = GenerationConfig.model_construct(height=asked[0], width=asked[1])
    assert drawing_size(tiny_base, config, picture) == (expected, said)


def test_another_size_is_said() -> None:
    image, notes = fitted(noisy_picture(8, 6), (4, 6), "the picture")
    assert image.size == (6, 4) and notes == ["the picture is 8×6: resized to 6×4"]
    same = noisy_picture(8, 6)
    assert fitted(same, (6, 8), "the picture") == (same, [])


def test_a_pictures_record_is_of_its_pixels() -> None:
    image = noisy_picture()
    assert PictureUse.of(image, "a.png") == PictureUse.of(image.copy(), "a.png")
    changed = image.copy()
    changed.putpixel((3, 3), (1, 2, 3))
    hashes = {PictureUse.of(other).sha256 for other in (image, changed, image.convert("RGBA"))}
    assert len(hashes) == 3
    palette = image.quantize(8)
    recoloured = palette.copy()
    recoloured.putpalette([9] * 24)
    assert PictureUse.of(palette).sha256 != PictureUse.of(recoloured).sha256
    flat = Image.new("L", (2, 8)), Image.new("L", (8, 2))
    assert PictureUse.of(flat[0]).sha256 != PictureUse.of(flat[1]).sha256
