"""The colours of any picture as RGB: by its mode and bits, its own profile, and what is said to be clear."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

PART = 1 << 18
"""Pixels that are converted at a time, so that only the picture itself takes its memory."""
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, section 8
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")

Converter = Callable[[Image.Image], Image.Image]


def parts(image: Image.Image, rows: int = 0) -> Iterator[tuple[int, Image.Image]]:
    """Yield a picture from above in parts: (first row, the rows from there). rows: of each; 0: about PART."""
    rows = rows or max(1, PART // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))


def converter(image: Image.Image) -> Converter:
    """What makes RGB, or RGBA where something may be clear, of the picture or of parts of it."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_many_bits(image)
    if image.mode in _ALPHA or "transparency" in image.info:
        clear = _key(image)
        own = _by_profile(image, "RGBA")
        return lambda part: own(_with(part, clear).convert("RGBA"))
    if image.mode in ("RGB", "CMYK"):
        return _by_profile(image, image.mode)
    own = _by_profile(image, "RGB")
    return lambda part: own(part.convert("RGB"))


def _key(image: Image.Image) -> object:
    """What is clear, on the scale of the pixels: of 16 bits a channel only the higher 8 are read."""
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:
        return tuple(value >> 8 for value in clear)
    return clear


def _with(part: Image.Image, clear: object) -> Image.Image:
    if clear is not None:
        part.info["transparency"] = clear
    return part


def _from_many_bits(image: Image.Image) -> Converter:
    """Scale 12, 16 or 32 bits a pixel to 8: the largest that the bits can say is white (65535 of whole
    numbers of 32 bits, 1 of floating point), or the largest value where that is more."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS, (16,))[0] if image.mode.startswith("I;16") else 16
    top = 1.0 if image.mode == "F" else 2.0**bits - 1
    for _, part in parts(image):
        top = max(top, float(_finite(part).max(initial=0.0)))
    # Pillow turns the few grays of such files round, but not the many.
    inverted = image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    clear = image.info.get("transparency")

    def convert(part: Image.Image) -> Image.Image:
        values = _finite(part)
        scaled = (top - values if inverted else values) * (255.0 / top)
        gray = Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
        if not isinstance(clear, int):
            return gray.convert("RGB")
        layers = gray.convert("RGBA")
        layers.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        return layers

    return convert


def _finite(part: Image.Image) -> NDArray[np.float64]:
    return np.nan_to_num(np.asarray(part, dtype=np.float64), posinf=0.0, neginf=0.0)


def _by_profile(image: Image.Image, mode: str) -> Converter:
    """What takes a picture in `mode` (RGB, RGBA, CMYK) to sRGB by its own profile, if it has a usable one."""
    plain = "RGBA" if mode == "RGBA" else "RGB"
    profile = image.info.get("icc_profile")
    if profile:
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if mode == "CMYK" or "sRGB" not in ImageCms.getProfileDescription(own):
                srgb = ImageCms.createProfile("sRGB")
                transform = ImageCms.buildTransform(own, srgb, mode, plain)
                return lambda part: ImageCms.applyTransform(part, transform) or part.convert(plain)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # A damaged profile, or one of another mode, says nothing of the pixels.
    return lambda part: part.convert(plain)
