"""Subjects as pictures on transparency: glyphs of Noto Color Emoji, and plain shapes."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipelines.errors import StudioError
from trainers.base.subjects import Subject

FONT_PLACES = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
)
GLYPH_SIZE = 109  # the one size the font's bitmaps have


def find_font() -> Path:
    """Where Noto Color Emoji lies. Raises: StudioError when it isn't installed."""
    for place in FONT_PLACES:
        if Path(place).exists():
            return Path(place)
    raise StudioError(
        "Noto Color Emoji was not found, and the corpus is drawn with it; "
        "install it (Debian: fonts-noto-color-emoji) and run again"
    )


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(find_font()), GLYPH_SIZE)


def draw_glyph(code: int) -> Image.Image | None:
    """The glyph of a code point on transparency, cropped to its bounding box; None where the font has none.

    RGBA, longest side up to 136 pixels.
    """
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((8, 8), chr(code), font=_font(), embedded_color=True)
    box = canvas.getbbox()
    return canvas.crop(box) if box else None


@lru_cache(maxsize=512)
def glyph(subject: Subject) -> Image.Image:
    """The subject on transparency: its glyph, or the shape this project draws.

    Raises:
        StudioError: the font isn't installed, or is too old to have the glyph.
    """
    if subject.glyph is None:
        return draw_shape(subject.name)
    image = draw_glyph(subject.glyph)
    if image is None:
        raise StudioError(
            f"the emoji font has no glyph for {subject.name!r} (U+{subject.glyph:X}); install a newer one"
        )
    return image


def draw_shape(name: str) -> Image.Image:
    """A plain white shape, RGBA 128×128; `compose` tints it with the colour that the caption names."""
    image = Image.new("RGBA", (512, 512))
    draw = ImageDraw.Draw(image)
    white = (255, 255, 255, 255)
    if name == "circle":
        draw.ellipse((8, 8, 504, 504), fill=white)
    elif name == "ring":
        draw.ellipse((8, 8, 504, 504), fill=white)
        draw.ellipse((140, 140, 372, 372), fill=(0, 0, 0, 0))
    elif name == "square":
        draw.rectangle((24, 24, 488, 488), fill=white)
    elif name == "triangle":
        draw.polygon([(256, 16), (500, 480), (12, 480)], fill=white)
    else:
        raise KeyError(name)
    return image.resize((128, 128), Image.Resampling.LANCZOS)


def all_glyphs() -> list[tuple[str, int]]:
    """(Unicode name in lower case, code point) of the glyphs that the font draws in colour."""
    found = []
    for code in (*range(0x2194, 0x2BFF), *range(0x1F300, 0x1FAFF)):
        name = unicodedata.name(chr(code), "")
        if not name or "MODIFIER" in name or "REGIONAL" in name:
            continue
        image = draw_glyph(code)
        if image is not None and len(image.getcolors(1 << 16) or []) > 12:
            found.append((name.lower(), code))
    return found
