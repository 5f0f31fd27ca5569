"""A picture's file decoded in its own mode: refused by its header where it is too large, or isn't read."""

from __future__ import annotations

import importlib
import io
import math
import warnings
import zlib
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

from PIL import Image, UnidentifiedImageError

from pipelines.beside_pixels import bytes_beside_pixels
from pipelines.errors import PictureError

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""Formats by Pillow's name that are read, whatever a file is called; HEIC needs a package of its own."""
MAX_PIXELS = 64_000_000
"""Pixels of a picture, by its header; larger ones are refused before they are decoded."""
MAX_MEMORY = 280_000_000
"""Bytes that decoding may take, by what is known of the format; more is refused before it is decoded."""
BYTES_PER_PIXEL = {"WEBP": 16.5, "AVIF": 11.0, "HEIF": 11.0}
"""What decoding takes where it is more than the pixels: these hold copies. Measured with Pillow 12."""
MAX_METADATA = 16_000_000
"""Bytes of a PNG's file that say something beside the pixels; Pillow reads them whole."""
LARGE = 8_000_000
"""Pixels from which on a JPEG that only needs looking at is decoded at a part of its size."""

# Brands of the container that HEIC and AVIF share (ISO/IEC 23008-12), with the package that reads them.
_HEIC, _AVIF = ("HEIF", "HEIC", "pillow_heif", "register_heif_opener"), ("AVIF", "AVIF", "pillow_avif", "")
_PLUGINS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1", b"msf1"), _HEIC), b"avif": _AVIF, b"avis": _AVIF,
}  # fmt: skip
_MEMORY_WORDS = ("out of memory", "insufficient memory", "cannot allocate", "memory allocation")


@dataclass(frozen=True)
class Decoded:
    """A picture as it is stored: in its own mode, not turned.

    image: all of it, or made smaller while it was decoded. size: (width, height) of the whole, in pixels.
    format: by Pillow's name.
    """

    image: Image.Image
    size: tuple[int, int]
    format: str


def decode(name: str, file: BufferedReader, *, look: int = 0) -> Decoded:
    """Decode a picture from the beginning of a file.

    name: for what is said. look: pixels that its longer side needs at least where it is only looked at: a
    large JPEG is then decoded at a half, a quarter or an eighth, and memory is limited. 0: whole.

    Raises: PictureError naming the picture, for what isn't one, is damaged, animated or too large.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, and of metadata that nobody asks for.
            warnings.simplefilter("ignore")
            check_metadata(name, file)
            opened = _open(name, file)
            check_size(name, opened)
            check_frames(name, opened)
            size = opened.size
            if look:
                if math.prod(size) > LARGE and opened.format in ("JPEG", "MPO"):
                    share = min(1.0, look / max(size))
                    opened.draft(None, (math.ceil(size[0] * share), math.ceil(size[1] * share)))
                check_memory(name, opened)
            _widen_key(opened)
            opened.load()
            check_whole(opened, size, file)
            return Decoded(opened, size, str(opened.format))
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(f"picture {name!r} isn't a picture; remove it or save it again") from None
    except Image.DecompressionBombError:
        raise PictureError(f"picture {name!r} is too large; expected at most {_megapixels()}") from None
    except MemoryError:
        raise PictureError(f"picture {name!r} takes too much memory to decode; save it smaller") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files.
        reason = str(error).strip().splitlines()[0][:100] if str(error).strip() else type(error).__name__
        if any(words in reason.lower() for words in _MEMORY_WORDS):
            raise PictureError(f"picture {name!r} takes too much memory to decode; save it smaller") from None
        raise PictureError(f"picture {name!r} is damaged ({reason}); remove it or save it again") from None


def _open(name: str, file: BufferedReader) -> Image.Image:
    """Open with Pillow, and where it doesn't know HEIC or AVIF, with the package that adds them."""
    Image.init()
    # Of what Pillow knows besides, some starts other programs (EPS).
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        file.seek(0)
        return Image.open(file, formats=formats)
    except UnidentifiedImageError:
        file.seek(0)
        begin = file.read(12)
        brand = begin[8:12] if begin[4:8] == b"ftyp" else b""
        if brand not in _PLUGINS or _PLUGINS[brand][0] in formats:
            raise
    format, kind, package, register = _PLUGINS[brand]
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise PictureError(
            f"picture {name!r} is {kind}, which needs the package {package.replace('_', '-')}; "
            "install it, or save the picture as JPEG or PNG"
        ) from None
    if register:
        getattr(module, register)()
    file.seek(0)
    return Image.open(file, formats=[format])


def check_metadata(name: str, file: BufferedReader) -> None:
    """Refuse a PNG that says more than MAX_METADATA beside its pixels."""
    said = bytes_beside_pixels(file)
    if said > MAX_METADATA:
        raise PictureError(
            f"picture {name!r} has {said / 1e6:.0f} MB of words beside its pixels; expected at most "
            f"{MAX_METADATA / 1e6:.0f}, save it without"
        )


def check_size(name: str, image: Image.Image) -> None:
    """Refuse a picture of more than MAX_PIXELS."""
    if image.width * image.height > MAX_PIXELS:
        raise PictureError(
            f"picture {name!r} has {image.width}×{image.height} pixels; expected at most {_megapixels()}"
        )


def check_frames(name: str, image: Image.Image) -> None:
    """Refuse what has several frames or pages."""
    frames = getattr(image, "n_frames", 1)
    # Phones put a small second picture into their JPEGs, which Pillow then calls MPO.
    if frames > 1 and image.format != "MPO":
        raise PictureError(f"picture {name!r} is animated ({frames} frames); save the one that is meant")


def check_memory(name: str, image: Image.Image) -> None:
    """Refuse what would take more than MAX_MEMORY to decode."""
    if (needed := _memory(image)) > MAX_MEMORY:
        raise PictureError(
            f"picture {name!r} takes {needed / 1e6:.0f} MB to decode as {image.format} of "
            f"{image.width}×{image.height} pixels; expected at most {MAX_MEMORY / 1e6:.0f}, save it smaller"
        )


def _memory(image: Any) -> float:
    """Bytes that decoding an opened picture takes, as far as its header tells."""
    pixels = image.width * image.height
    each = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    if image.format in BYTES_PER_PIXEL:
        return pixels * max(each, BYTES_PER_PIXEL[image.format])
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        # All coefficients are held, two bytes each, of the whole even where a part is decoded.
        whole = getattr(image, "layer", ())
        most = max((across * down for _, across, down, *_ in whole), default=1)
        share = sum(across * down for _, across, down, *_ in whole) / most
        scale = getattr(image, "decoderconfig", None) or (1, 0)
        return pixels * (each + 2.0 * share * max(1, scale[0]) ** 2)
    if image.format == "TIFF" and image.tile and image.tile[0][0] == "libtiff":
        tags = image.tag_v2
        bits = sum(tags.get(258, (1,))) or 1
        strip = min(tags.get(278, image.height), image.height) * image.width
        tile = tags.get(322, 0) * tags.get(323, 0)
        return pixels * each + max(strip if not tile else 0, tile) * bits / 8
    return float(pixels * each)


def _widen_key(image: Image.Image) -> None:
    """Say which gray is clear on the scale of 8 bits, as the pixels will be, where a PNG has fewer."""
    clear, tiles = image.info.get("transparency"), getattr(image, "tile", ())
    if image.format == "PNG" and isinstance(clear, int) and tiles:
        image.info["transparency"] = clear * {"L;2": 85, "L;4": 17}.get(str(tiles[0].args), 1)


def check_whole(image: Image.Image, size: tuple[int, int], file: BufferedReader) -> None:
    """Refuse what holds less than its header says, which Pillow fills up. size: of the whole.

    Raises: ValueError saying so.
    """
    if image.format == "PNG" and not _rows_are_there(image, file):
        raise ValueError("rows are missing")
    at_once = image.format in ("JPEG", "MPO") and not image.info.get("progressive")
    # No block of 8 × 8 takes less than two bits.
    if at_once and file.seek(0, io.SEEK_END) * 4 < (size[0] // 8) * (size[1] // 8):
        raise ValueError("rows are missing")


def _rows_are_there(image: Image.Image, file: BufferedReader) -> bool:
    """Whether a PNG's data have all rows. Missing ones are read as zeros: only then they are counted."""
    last = image.crop((0, image.height - 1, image.width, image.height))
    if last.getbbox(alpha_only=False) is not None and not image.info.get("interlace"):
        return True
    file.seek(16)
    head = file.read(13)
    width, height = int.from_bytes(head[:4]), int.from_bytes(head[4:8])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[head[9]]
    ways = _ADAM7 if head[12] else ((0, 0, 1, 1),)
    wanted = 0
    for left, top, across, down in ways:
        columns, lines = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and lines > 0:
            wanted += lines * (1 + -(-columns * channels * head[8] // 8))
    return _inflated(file, wanted) >= wanted


_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""What each pass of an interlaced PNG holds: (first column, first row, columns apart, rows apart)."""


def _inflated(file: BufferedReader, most: int) -> int:
    """How many bytes a PNG's data unpack to, counted up to `most`."""
    file.seek(8)
    packed, count = zlib.decompressobj(), 0
    while len(head := file.read(8)) == 8:
        left = int.from_bytes(head[:4])
        if head[4:] != b"IDAT":
            file.seek(left + 4, io.SEEK_CUR)
            continue
        while left > 0 and (content := file.read(min(left, 1 << 16))):
            left -= len(content)
            while content:
                count += len(packed.decompress(content, 1 << 20))
                content = packed.unconsumed_tail
        if count >= most or packed.eof:
            break
        file.seek(4, io.SEEK_CUR)
    return count


def _megapixels() -> str:
    return f"{MAX_PIXELS // 1_000_000} million pixels"
