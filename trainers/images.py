"""Pictures from files to upright RGB: what is read, what is made of it, what is refused and why."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipelines.errors import PictureError
from trainers.decoded import LARGE, decode
from trainers.rgb import PART, converter, parts
from trainers.settings.data import BACKGROUNDS

if TYPE_CHECKING:
    import torch

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif",
)  # fmt: skip
OTHER_SUFFIXES = (
    ".psd", ".xcf", ".svg", ".jxl", ".jp2", ".tga", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".pdf",
)  # fmt: skip
"""Pictures too, but not read: a person is told so."""
MAX_BYTES = 512_000_000
"""Bytes of a picture's file."""
MASK = ".mask"
"""End of the stem of a file that is a mask and no picture: "a.mask.png" of "a.png"."""

# What makes a picture upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_ORIENTATION = 0x0112
_ON_THEIR_SIDE = (5, 6, 7, 8)
_LOOK = 1024
"""Pixels of the longer side that a picture is looked at with at least."""


@dataclass(frozen=True)
class Source:
    """One picture that was read and found good. Its pixels aren't kept: each use decodes the file again.

    size: (width, height) in pixels, upright. notes: what was done to it that a person should know, one
    line each. sha256: of the file. alpha: whether it has transparent parts. background: what lies behind
    them, a key of BACKGROUNDS or #rrggbb. forget: lets go of what is kept of the file for later runs, where
    it turns out to be another one; None: nothing is.
    """

    path: Path
    size: tuple[int, int]
    notes: tuple[str, ...]
    sha256: str
    alpha: bool = False
    background: str = "white"
    forget: Callable[[], None] | None = field(default=None, compare=False, repr=False)

    @property
    def image(self) -> Image.Image:
        """The picture: RGB, upright. Raises: PictureError where the file isn't what it was."""
        return self.layers()[0]

    def layers(self) -> tuple[Image.Image, Image.Image | None]:
        """Decode the picture: RGB, and its opacity (L, 255 opaque) or None where all of it is opaque.

        Raises: PictureError where the file is gone or another one.
        """
        with _opened(self.path) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != self.sha256:
                if self.forget is not None:
                    self.forget()
                raise PictureError(f"picture {self.path.name!r} was changed while it was in use; start again")
            decoded = decode(self.path.name, file)
        turn = _TURNS.get(_orientation(decoded.image))
        rgb, alpha = _whole(self.path.name, decoded.image, self.background)
        if turn is not None:
            rgb, alpha = rgb.transpose(turn), None if alpha is None else alpha.transpose(turn)
        return rgb, alpha


@dataclass(frozen=True)
class Look:
    """A picture that was read and found good, with what was seen.

    small: RGB, upright, about as large as was asked for, or larger. brightest: its largest value, 0 … 255.
    format: by Pillow's name.
    """

    source: Source
    small: Image.Image
    brightest: int
    format: str


def find_pictures(folder: Path) -> list[Path]:
    """List the pictures of a folder (not of its subfolders) by name; hidden files and masks are left out.

    Raises: PictureError where the folder is missing or has no pictures.
    """
    if not folder.is_dir():
        raise PictureError(
            f"pictures: {str(folder)!r} isn't a folder; give the folder that holds the pictures"
        )
    found = sorted(path for path in folder.iterdir() if is_picture(path))
    if not found:
        kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
        below = next((one for one in sorted(folder.iterdir()) if one.is_dir() and _has_pictures(one)), None)
        if below is not None:
            raise PictureError(
                f"pictures: {str(folder)!r} has none, its folder {below.name!r} has; give that one, or "
                "name it like “10_zuv dog” and set data.subfolders"
            )
        raise PictureError(f"pictures: {str(folder)!r} has none; expected at least one of {kinds}")
    return found


def _has_pictures(folder: Path) -> bool:
    try:
        return any(is_picture(path) for path in folder.iterdir())
    except OSError:
        return False


def is_picture(path: Path) -> bool:
    """Tell whether a file is to be learned from: not hidden, no mask, of a format that is read."""
    named = path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.stem.endswith(MASK)
    return named and path.is_file()


def unread(folder: Path) -> list[str]:
    """Names of the files that are pictures in formats that aren't read."""
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in OTHER_SUFFIXES)


def read_picture(path: Path, background: str = "white") -> Source:
    """Read a picture: upright by its EXIF orientation, 16 bits scaled to 8, sRGB, no transparency, RGB.

    The size is read from the header first, so that a decompression bomb is refused undecoded.
    background: what lies behind transparent parts.

    Raises: PictureError naming the file, for what isn't a picture, is damaged, animated or too large.
    """
    return look_at(path, background).source


def look_at(path: Path, background: str = "white", small: int = _LOOK) -> Look:
    """Read a picture as `read_picture` does, and keep a smaller one of it.

    Its pixels are held once, as they are stored, and converted part by part: see `decoded.MAX_MEMORY`.
    small: pixels of the longer side that are wanted.

    Raises: PictureError as `read_picture`.
    """
    with _opened(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        decoded = decode(path.name, file, look=2 * small)
    image, orientation = decoded.image, _orientation(decoded.image)
    room = 1 if math.prod(image.size) > LARGE else 2
    factor = max(1, max(image.size) // (room * small))
    seen = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    brightest, clear = 0, False
    for top, rgb, alpha in _converted(path.name, image, background, factor):
        brightest = max(brightest, *(int(high) for _, high in rgb.getextrema()))  # type: ignore[misc]
        clear = clear or alpha is not None
        seen.paste(rgb.reduce(factor) if factor > 1 else rgb, (0, top // factor))
    if orientation in _TURNS:
        seen = seen.transpose(_TURNS[orientation])
    size = decoded.size[::-1] if orientation in _ON_THEIR_SIDE else decoded.size
    notes = (f"transparent parts were made {background}",) if clear else ()
    return Look(Source(path, size, notes, digest, clear, background), seen, brightest, decoded.format)


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Open a picture's file. Raises: PictureError where it can't be read or has more than MAX_BYTES."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PictureError(f"picture {path.name!r} has more than {MAX_BYTES} bytes; make it smaller")
        file = path.open("rb")
    except OSError as error:
        raise PictureError(f"picture {path.name!r} can't be read ({error.strerror}); put it back") from None
    with file:
        yield file


def _orientation(image: Image.Image) -> int:
    """How a picture is to be turned, by EXIF; 1: not at all, also where what it says can't be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises nearly anything on damaged metadata.
        return 1
    return said if isinstance(said, int) else 1


def _whole(name: str, image: Image.Image, background: str) -> tuple[Image.Image, Image.Image | None]:
    """Convert a picture to RGB, and keep its opacity (L) where there is any."""
    rgb, alpha = Image.new("RGB", image.size), Image.new("L", image.size, 255)
    clear = False
    for top, part, opacity in _converted(name, image, background):
        rgb.paste(part, (0, top))
        if opacity is not None:
            clear = True
            alpha.paste(opacity, (0, top))
    return rgb, alpha if clear else None


def _converted(
    name: str, image: Image.Image, background: str, multiple: int = 1
) -> Iterator[tuple[int, Image.Image, Image.Image | None]]:
    """Yield a picture in parts: first row, the part as RGB, its opacity (L) or None where all is opaque.

    multiple: the rows of all parts but the last are one of it.
    Raises: PictureError naming the picture where its colours can't be told.
    """
    rows = max(1, PART // (image.width * multiple)) * multiple
    try:
        convert = converter(image)
        for top, part in parts(image, rows):
            done = convert(part)
            if done.mode == "RGB" or done.getchannel("A").getextrema()[0] == 255:
                yield top, done.convert("RGB"), None
                continue
            behind = Image.new("RGBA", done.size, BACKGROUNDS.get(background, background))
            yield top, Image.alpha_composite(behind, done).convert("RGB"), done.getchannel("A")
    except MemoryError:
        raise PictureError(f"picture {name!r} takes too much memory to decode; save it smaller") from None
    except (ValueError, OSError) as error:
        raise PictureError(f"picture {name!r} is damaged ({error}); remove it or save it again") from None


def to_pixels(pictures: list[Image.Image]) -> torch.Tensor:
    """Turn N RGB pictures of one size into fp32 (N, 3, H, W) in [-1, 1]."""
    import torch

    stacked = np.stack([np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous() / 127.5 - 1.0
