"""The corpus of the embedded base: pictures with captions, composed in memory.

A picture is one subject on one background at a size and a place; all of it is drawn from a
`numpy.random.Generator`, so the corpus is a function of a seed and holds no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipelines.errors import StudioError
from trainers.base.subjects import CLASS_WORDS, COLOURS, SUBJECTS, Subject

Pixels = NDArray[np.float32]  # (H, W, 3) or (H, W, 4), 0..1

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


@lru_cache(maxsize=512)
def glyph(subject: Subject) -> Image.Image:
    """The subject on transparency, cropped to its bounding box, RGBA, longest side up to 136 pixels."""
    if subject.glyph is None:
        return draw_shape(subject.name)
    font = ImageFont.truetype(str(find_font()), GLYPH_SIZE)
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((8, 8), chr(subject.glyph), font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise StudioError(
            f"the emoji font has no glyph for {subject.name!r} (U+{subject.glyph:X}); install a newer one"
        )
    return canvas.crop(box)


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


# --- backgrounds -----------------------------------------------------------------------------------------


def colour_near(name: str, rng: np.random.Generator) -> Pixels:
    """The named colour with a jitter of a few percent, (3,) in 0..1."""
    return np.clip(np.array(COLOURS[name]) / 255 + rng.normal(0, 0.02, 3), 0, 1).astype(np.float32)


def _mesh(size: int) -> tuple[Pixels, Pixels]:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    return x, y


def _mix(a: Pixels, b: Pixels, mask: NDArray) -> Pixels:
    return (a + (b - a) * mask[..., None].astype(np.float32)).astype(np.float32)


def _vertical(size: int, top: Pixels, bottom: Pixels) -> Pixels:
    return _mix(top, bottom, _mesh(size)[1])


def _two_colours(rng: np.random.Generator) -> tuple[str, str]:
    a, b = rng.choice(list(COLOURS), 2, replace=False)
    return str(a), str(b)


def plain(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    name = str(rng.choice(list(COLOURS)))
    return (
        np.broadcast_to(colour_near(name, rng), (size, size, 3)).copy(),
        f"on {with_article(name)} background",
        name,
    )


def gradient(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    a, b = _two_colours(rng)
    return (
        _vertical(size, colour_near(a, rng), colour_near(b, rng)),
        f"on {with_article(a)} to {b} gradient background",
        "gradient",
    )


def stripes(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    a, b = _two_colours(rng)
    x, y = _mesh(size)
    mask = (np.floor((x + y if rng.random() < 0.5 else x) * rng.uniform(4, 8)) % 2).astype(np.float32)
    return (
        _mix(colour_near(a, rng), colour_near(b, rng), mask),
        f"on {with_article(a)} and {b} striped background",
        "stripes",
    )


def checks(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    a, b = _two_colours(rng)
    x, y = _mesh(size)
    n = rng.uniform(4, 7)
    mask = (np.floor(x * n) + np.floor(y * n)) % 2
    return (
        _mix(colour_near(a, rng), colour_near(b, rng), mask),
        f"on {with_article(a)} and {b} checkered background",
        "checks",
    )


def dots(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    a, b = _two_colours(rng)
    x, y = _mesh(size)
    n = rng.uniform(4, 6)
    mask = ((x * n) % 1 - 0.5) ** 2 + ((y * n) % 1 - 0.5) ** 2 < 0.075
    return (
        _mix(colour_near(a, rng), colour_near(b, rng), mask),
        f"on {with_article(a)} background with {b} dots",
        "dots",
    )


def _sky_and_ground(
    size: int,
    rng: np.random.Generator,
    sky: tuple[Pixels, Pixels],
    ground: Pixels,
    low: float = 0.5,
    high: float = 0.75,
) -> Pixels:
    _, y = _mesh(size)
    horizon = rng.uniform(low, high)
    return _mix(_vertical(size, *sky), ground, np.clip((y - horizon) * size / 2, 0, 1))


def _rgb(*value: int) -> Pixels:
    return np.array(value, np.float32) / 255


def snow(rng: np.random.Generator, size: int) -> Pixels:
    picture = _sky_and_ground(size, rng, (_rgb(190, 215, 240), _rgb(225, 235, 248)), _rgb(248, 250, 254))
    for _ in range(25):
        y, x = rng.integers(0, size, 2)
        picture[y, x] = 1
    return picture


def night(rng: np.random.Generator, size: int) -> Pixels:
    return _sky_and_ground(size, rng, (_rgb(10, 14, 50), _rgb(30, 36, 90)), _rgb(16, 26, 30))


def stars(rng: np.random.Generator, size: int) -> Pixels:
    picture = _vertical(size, _rgb(8, 8, 34), _rgb(24, 22, 66))
    for _ in range(30):
        y, x = rng.integers(0, size - 1, 2)
        picture[y, x] = rng.uniform(0.7, 1)
        if rng.random() < 0.3:
            picture[y : y + 2, x : x + 2] = 1
    return picture


def sunset(rng: np.random.Generator, size: int) -> Pixels:
    return _sky_and_ground(size, rng, (_rgb(120, 50, 120), _rgb(252, 150, 60)), _rgb(60, 35, 60), 0.65, 0.85)


def grass(rng: np.random.Generator, size: int) -> Pixels:
    return _sky_and_ground(size, rng, (_rgb(110, 175, 240), _rgb(175, 215, 250)), _rgb(70, 155, 60))


def beach(rng: np.random.Generator, size: int) -> Pixels:
    _, y = _mesh(size)
    picture = _vertical(size, _rgb(130, 195, 245), _rgb(190, 225, 250))
    horizon = rng.uniform(0.35, 0.5)
    picture = _mix(picture, _rgb(35, 120, 190), np.clip((y - horizon) * size / 2, 0, 1))
    return _mix(
        picture, _rgb(236, 212, 160), np.clip((y - horizon - rng.uniform(0.15, 0.25)) * size / 2, 0, 1)
    )


def sea(rng: np.random.Generator, size: int) -> Pixels:
    return _sky_and_ground(size, rng, (_rgb(140, 200, 245), _rgb(200, 228, 250)), _rgb(25, 90, 170))


def table(rng: np.random.Generator, size: int) -> Pixels:
    return _sky_and_ground(size, rng, (_rgb(228, 215, 195), _rgb(215, 200, 178)), _rgb(150, 98, 55))


def forest(rng: np.random.Generator, size: int) -> Pixels:
    picture = _sky_and_ground(size, rng, (_rgb(30, 80, 50), _rgb(60, 120, 70)), _rgb(58, 84, 36))
    x, y = _mesh(size)
    for place in rng.uniform(0, 1, 5):
        picture = _mix(picture, _rgb(70, 48, 30), (np.abs(x - place) < 0.03) & (y < 0.7))
    return picture


def desert(rng: np.random.Generator, size: int) -> Pixels:
    return _sky_and_ground(size, rng, (_rgb(240, 200, 140), _rgb(250, 226, 180)), _rgb(214, 150, 80))


# name → (phrase, drawing); the name is the label that the classifier of `measure.py` learns
SCENES: dict[str, tuple[str, Callable[[np.random.Generator, int], Pixels]]] = {
    "snow": ("in the snow", snow),
    "night": ("at night", night),
    "stars": ("in the night sky with stars", stars),
    "sunset": ("at sunset", sunset),
    "grass": ("on green grass under a blue sky", grass),
    "beach": ("on a sandy beach by the sea", beach),
    "sea": ("in the sea", sea),
    "table": ("on a wooden table", table),
    "forest": ("in a forest", forest),
    "desert": ("in the desert", desert),
}
PATTERNS: dict[str, Callable[[np.random.Generator, int], tuple[Pixels, str, str]]] = {
    "gradient": gradient,
    "stripes": stripes,
    "checks": checks,
    "dots": dots,
}
BACKGROUNDS: tuple[str, ...] = (*COLOURS, *PATTERNS, *SCENES)
# Backgrounds drawn when the caption names none: people expect something quiet there.
_UNNAMED_SHARE = 0.2


def scene(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    name = str(rng.choice(list(SCENES)))
    phrase, draw = SCENES[name]
    picture = draw(rng, size) * np.float32(rng.uniform(0.94, 1.04)) + rng.normal(0, 0.008, 3).astype(
        np.float32
    )
    return np.clip(picture, 0, 1), phrase, name


def draw_background(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    """(picture (size, size, 3), the phrase that says it, its label among `BACKGROUNDS`)."""
    kind = rng.random()
    if kind < 0.5:
        return plain(rng, size)
    if kind < 0.72:
        return list(PATTERNS.values())[rng.integers(len(PATTERNS))](rng, size)
    return scene(rng, size)


# --- composition -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """One corpus picture. `pixels` (size, size, 3) in 0..1; labels are names, not indices."""

    pixels: Pixels
    caption: str
    subject: Subject
    background: str


def held_out_pair(subject: Subject, background: str) -> bool:
    """Whether this subject is never shown on this background in training (about one pair in ten)."""
    digest = hashlib.sha256(f"{subject.name}|{background}".encode()).digest()
    return digest[0] < 26


def paste(background: Pixels, image: Image.Image, box: tuple[float, float, float]) -> Pixels:
    """`image` (RGBA) with its centre at (x, y), its longest side `extent`, all in shares of the picture.

    Resampled with premultiplied alpha, so that edges take no colour from transparent pixels.
    """
    x, y, extent = box
    size = background.shape[0]
    scale = extent * size / max(image.size)
    w, h = (max(1, round(side * scale)) for side in image.size)
    rgba = np.asarray(image, np.float32) / 255
    rgba = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
    small = np.stack(
        [
            np.asarray(
                Image.fromarray(rgba[..., c]).resize(
                    (w, h), Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BILINEAR
                )
            )
            for c in range(4)
        ],
        -1,
    )
    left, top = round(x * size - w / 2), round(y * size - h / 2)
    l0, t0, r0, b0 = max(0, left), max(0, top), min(size, left + w), min(size, top + h)
    out = background.copy()
    part = small[t0 - top : b0 - top, l0 - left : r0 - left]
    out[t0:b0, l0:r0] = out[t0:b0, l0:r0] * (1 - part[..., 3:]) + part[..., :3]
    return np.clip(out, 0, 1)


def with_article(words: str, plural: bool = False) -> str:
    """ "fox" → "a fox", "owl" → "an owl"; plural nouns stay as they are."""
    if plural:
        return words
    vowel = words[0] in "aeio" or words.startswith("um")
    return f"{'an' if vowel else 'a'} {words}"


def _tint(image: Image.Image, colour: Pixels) -> Image.Image:
    rgba = np.asarray(image, np.float32).copy()
    rgba[..., :3] *= colour
    return Image.fromarray(rgba.astype(np.uint8))


def _place(rng: np.random.Generator) -> tuple[str, str, tuple[float, float, float]]:
    """(size word, place words, box): most pictures show the subject large and in the middle, unsaid."""
    size_word, place_words, extent, x = "", "", rng.uniform(0.78, 0.94), 0.5 + rng.uniform(-0.04, 0.04)
    if rng.random() < 0.15:
        size_word, extent = [
            ("small", rng.uniform(0.38, 0.5)),
            ("big", rng.uniform(0.96, 1.08)),
            ("large", rng.uniform(0.96, 1.08)),
        ][rng.integers(3)]
    if rng.random() < 0.12:
        side = rng.integers(2)
        place_words = ("on the left", "on the right")[side]
        extent = min(extent, rng.uniform(0.5, 0.6))
        x = (0.3, 0.7)[side] + rng.uniform(-0.03, 0.03)
    return size_word, place_words, (x, 0.5 + rng.uniform(-0.04, 0.04), extent)


def compose(
    subject: Subject, rng: np.random.Generator, size: int = 64, *, held_out: bool | None = False
) -> Example:
    """One picture of `subject` with its caption.

    `held_out` False keeps away from held-out pairs, True shows only those, None doesn't care.
    The caption's head varies ("a photo of a fox", "a fox", "fox", …); a fifth of the captions doesn't
    name the background, one in twelve says the class instead of the name.
    """
    while True:
        background, phrase, label = draw_background(rng, size)
        if held_out is None or held_out_pair(subject, label) == held_out:
            break
    size_word, place_words, box = _place(rng)
    image, name = glyph(subject), subject.name
    if subject.kind == "shape":
        tint = str(rng.choice([c for c in COLOURS if c != label]))
        image, name = _tint(image, colour_near(tint, rng)), f"{tint} {name}"
    elif rng.random() < 0.08:
        name = str(rng.choice(CLASS_WORDS[subject.kind]))
    plural = subject.plural and name == subject.name
    noun = f"{size_word} {name}".strip()
    whole = with_article(noun, plural)
    medium = ("a drawing", "a picture", "an emoji")[rng.integers(3)]
    head = (f"a photo of {whole}", whole, noun, f"{medium} of {whole}")[rng.choice(4, p=(0.5, 0.2, 0.1, 0.2))]
    said = "" if rng.random() < _UNNAMED_SHARE else phrase
    caption = " ".join(part for part in (head, said, place_words) if part)
    return Example(paste(background, image, box), caption, subject, label)


def stream(seed: int, size: int = 64, subjects: tuple[Subject, ...] = SUBJECTS) -> Iterator[Example]:
    """Training examples without end, every subject equally often, in an order drawn from `seed`."""
    rng = np.random.default_rng(seed)
    while True:
        for index in rng.permutation(len(subjects)):
            yield compose(subjects[index], rng, size)


def all_glyphs() -> list[tuple[str, int]]:
    """(Unicode name in lower case, code point) of the single-code-point glyphs that the font draws in colour."""
    import unicodedata

    font = ImageFont.truetype(str(find_font()), GLYPH_SIZE)
    found = []
    for code in (*range(0x2194, 0x2BFF), *range(0x1F300, 0x1FAFF)):
        name = unicodedata.name(chr(code), "")
        if not name or "MODIFIER" in name or "REGIONAL" in name:
            continue
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((8, 8), chr(code), font=font, embedded_color=True)
        colours = canvas.getcolors(1 << 16) or []
        if canvas.getbbox() is not None and len(colours) > 12:
            found.append((name.lower(), code))
    return found
