"""Light changes of a picture's colours."""

from __future__ import annotations

from math import cos, pi, sin
from typing import NamedTuple

import numpy as np
from PIL import Image

# RGB to luma and two axes of colour, as in NTSC's YIQ (ITU-R BT.470); hue is an angle in the last two.
_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]],
)


class Colours(NamedTuple):
    """Factors of brightness and contrast (about the mean luma), and a turn of the hue in whole circles."""

    brightness: float
    contrast: float
    hue: float


PLAIN = Colours(1.0, 1.0, 0.0)


def coloured(picture: Image.Image, colours: Colours) -> Image.Image:
    """Change an RGB picture: turn the hue, stretch the contrast about the mean luma, then brighten."""
    if colours == PLAIN:
        return picture
    angle = 2.0 * pi * colours.hue
    turn = np.array([[1.0, 0.0, 0.0], [0.0, cos(angle), -sin(angle)], [0.0, sin(angle), cos(angle)]])
    matrix = np.linalg.inv(_YIQ) @ turn @ _YIQ  # (3, 3), keeps the luma
    pixels = np.asarray(picture, dtype=np.float64)  # (H, W, 3)
    mean = float((pixels @ _YIQ[0]).mean())
    changed = ((pixels @ matrix.T - mean) * colours.contrast + mean) * colours.brightness
    return Image.fromarray(np.clip(np.rint(changed), 0, 255).astype(np.uint8))
