"""What the picture of a run's evidence is drawn with: fonts, colours, text in boxes, pictures in frames."""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from trainers.evidence.report_pictures import PIXELS, below

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw as Draw
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as Plain

Colour = tuple[int, int, int]

PAPER, INK, SOFT, LINE, FILL = (255, 255, 255), (26, 28, 34), (98, 102, 112), (224, 226, 231), (245, 246, 248)
CHOSEN, GOOD, BAD, NOTE = (24, 90, 189), (20, 121, 73), (190, 36, 36), (158, 92, 0)
SERIES: tuple[Colour, ...] = ((0, 114, 178), (213, 94, 0), (0, 140, 105), (176, 88, 138), (110, 110, 118))
"""After Okabe and Ito: told apart by colour-blind eyes; dark enough for text."""

SMALL, PLAIN, HEAD, TITLE, FIGURE = 13, 15, 18, 30, 24

_SPELLED = {"–": "-", "—": "-", "−": "-", "×": "x", "≥": ">=", "≤": "<=", "→": "->", "ß": "ss", "‘": "'"}


@functools.cache
def font(size: int) -> FreeTypeFont | Plain:
    """The font that comes with Pillow, in a size in pixels."""
    return ImageFont.load_default(size)


def spelled(text: str) -> str:
    """Write a text in the letters that the font has: accents left off, anything else as "?"."""
    found = []
    for letter in " ".join(text.split()):
        letter = _SPELLED.get(letter, letter)
        plain = unicodedata.normalize("NFKD", letter) if letter not in "·…“”’" else letter
        kept = [one for one in plain if not unicodedata.combining(one)]
        found += [one if one.isascii() or one in "·…“”’" else "?" for one in kept]
    return "".join(found)


def width_of(text: str, size: int) -> int:
    """Width of a spelled text in pixels."""
    return math.ceil(font(size).getlength(spelled(text)))


def line_height(size: int) -> int:
    """From one line of a text to the next, in pixels."""
    return math.ceil(size * 1.42)


def shortened(text: str, size: int, width: float) -> str:
    """Cut a text to a width in pixels, ending in "…" where something was cut."""
    text = spelled(text)
    if font(size).getlength(text) <= width:
        return text
    fits, beyond = 0, len(text)
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        narrow = font(size).getlength(f"{text[:middle]}…") <= width
        fits, beyond = (middle, beyond) if narrow else (fits, middle)
    return f"{text[:fits].rstrip()}…"


def wrapped(text: str, size: int, width: float, most: int = 12) -> list[str]:
    """Break a text into at most `most` lines of a width in pixels."""
    lines: list[str] = []
    current = ""
    words = spelled(text).split()
    for at, word in enumerate(words):
        trial = f"{current} {word}".strip()
        if font(size).getlength(trial) <= width:
            current = trial
            continue
        if len(lines) == most - 1:
            return [*lines, shortened(" ".join([current, *words[at:]]), size, width)]
        lines += [current] if current else []
        current = shortened(word, size, width)
    return [*lines, current]


@dataclass(eq=False)
class Sheet:
    """A part of the picture, drawn from the top down, as high as what is on it.

    width: in pixels. y: where the next thing goes.
    """

    width: int
    y: int = 0
    _image: Image.Image = field(init=False)

    def __post_init__(self) -> None:
        self._image = Image.new("RGB", (self.width, 64), PAPER)

    @property
    def draw(self) -> Draw:
        """What draws on it, down to `y` and no further: make `room` first."""
        return ImageDraw.Draw(self._image)

    def room(self, height: int) -> int:
        """Make room at `y`; return where it begins, and go on below it."""
        top, self.y = self.y, self.y + height
        if self.y > self._image.height:
            larger = Image.new("RGB", (self.width, max(self.y, 2 * self._image.height)), PAPER)
            larger.paste(self._image)
            self._image = larger
        return top

    def write(
        self, text: str, size: int = PLAIN, ink: Colour = INK, *, x: int = 0, width: int | None = None,
        most: int = 12,
    ) -> None:  # fmt: skip
        """Write a text in lines from `x` on."""
        for line in wrapped(text, size, (width or self.width - x), most):
            top = self.room(line_height(size))
            self.draw.text((x, top), line, fill=ink, font=font(size))

    def head(self, text: str, beside: str = "") -> None:
        """Write a heading, and small words at its right."""
        top = self.room(line_height(HEAD) + 6)
        self.draw.text((0, top), spelled(text), fill=INK, font=font(HEAD))
        x = width_of(text, HEAD) + 14
        said = shortened(beside, SMALL, self.width - x)
        self.draw.text((x, top + HEAD - SMALL), said, fill=SOFT, font=font(SMALL))

    def put(self, image: Image.Image, place: tuple[int, int], frame: Colour | None = None) -> None:
        """Put a picture at (x, y), in a frame 4 pixels around it where a colour is said."""
        if frame is not None:
            x, y = place
            box = (x - 4, y - 4, x + image.width + 3, y + image.height + 3)
            self.draw.rectangle(box, outline=frame, width=3, fill=PAPER)
        self._image.paste(image, place)

    def label(
        self, place: tuple[float, float], text: str, size: int = SMALL, ink: Colour = SOFT,
        *, width: float = 0, anchor: str = "la",
    ) -> None:  # fmt: skip
        """Write one line at (x, y), cut to `width` where it is above 0. anchor: as Pillow has it."""
        said = shortened(text, size, width) if width else spelled(text)
        self.draw.text(place, said, fill=ink, font=font(size), anchor=anchor)

    def done(self) -> Image.Image:
        """The picture, cut to what is on it."""
        return self._image.crop((0, 0, self.width, max(1, self.y)))


def below_each_other(parts: Sequence[Image.Image], width: int, margin: int, gap: int) -> Image.Image:
    """Put parts under each other on paper."""
    height = sum(part.height for part in parts) + gap * (len(parts) - 1) + 2 * margin
    whole = Image.new("RGB", (width, height), PAPER)
    y = margin
    for part in parts:
        whole.paste(part, (margin, y))
        y += part.height + gap
    return whole


def side_by_side(parts: Sequence[Image.Image], gap: int) -> Image.Image:
    """Put parts beside each other, at the top."""
    size = (sum(part.width for part in parts) + gap * (len(parts) - 1), max(part.height for part in parts))
    whole = Image.new("RGB", size, PAPER)
    x = 0
    for part in parts:
        whole.paste(part, (x, 0))
        x += part.width + gap
    return whole


def fitted(path: Path | None, side: int) -> Image.Image | None:
    """Read a picture into a square of `side` pixels, whole; None where it can't be read.

    Where it fits in a whole number of times, it is enlarged without smoothing.
    """
    if path is None:
        return None
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > PIXELS:
                return None
            opened.draft("RGB", (side, side))
            picture = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    longer = max(picture.size)
    way = Image.Resampling.NEAREST if side % longer == 0 else Image.Resampling.LANCZOS
    width, height = (max(1, round(own * side / longer)) for own in picture.size)
    picture = picture.resize((width, height), way)
    square = Image.new("RGB", (side, side), FILL)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def snapped(side: int) -> int:
    """A side in pixels that pictures of 64, 128, 256 or 512 pixels go into evenly, or next to."""
    return side // 64 * 64 if side >= 128 else side


def drawn(folder: Path, name: str, side: int) -> Image.Image | None:
    """A picture of a run by its path below the run's folder, see `fitted`."""
    return fitted(below(Path(folder), name), side)
