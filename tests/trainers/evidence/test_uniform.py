"""How alike pictures are, by where their colours lie."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from trainers.evidence.uniform import alike


def picture(seed: int, tint: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """Twelve by twelve squares of chance, in a tint."""
    pixels = np.random.default_rng(seed).integers(0, 120, (12, 12, 3)) + np.array(tint)
    return Image.fromarray(pixels.astype(np.uint8)).resize((48, 48), Image.Resampling.NEAREST)


def test_one_picture_says_nothing() -> None:
    assert alike([picture(0)]) is None and alike([]) is None


def test_the_same_picture_is_alike_mirrored_and_brighter_too() -> None:
    one = picture(0)
    brighter = one.point(lambda value: min(255, value + 40))
    assert alike([one, one, ImageOps.mirror(one), brighter]) == pytest.approx(1.0, abs=1e-6)


def test_pictures_of_chance_are_not_alike_and_a_tint_they_share_does_not_count() -> None:
    plain = alike([picture(seed) for seed in range(6)])
    tinted = alike([picture(seed, tint=(0, 0, 130)) for seed in range(6)])
    assert plain is not None and abs(plain) < 0.2
    assert tinted == pytest.approx(plain, abs=1e-9)


def test_pictures_of_one_colour_are_alike_and_unlike_others() -> None:
    red, blue = (Image.new("RGB", (20, 30), colour) for colour in ("red", "blue"))
    assert alike([red, blue]) == 1.0
    assert alike([red, picture(0)]) == 0.0


def test_of_many_pictures_some_are_looked_at() -> None:
    one, other = picture(0), picture(1)
    every_third = [other if index % 3 else one for index in range(150)]
    assert alike(every_third) == pytest.approx(1.0)
