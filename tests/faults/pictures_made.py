"""Picture files written by hand, bit by bit, so that what is read of them is compared with what was meant."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[Any]
WIDE, HIGH = 24, 16
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def art(name: str, width: int = WIDE, height: int = HIGH, channels: int = 3) -> Pixels:
    """A smooth picture that looks the same in no two directions, another one for each name: (H, W, channels),
    0 … 255."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    corners = rng.permuted(np.linspace(20, 235, 4 * channels).round()).reshape(2, 2, channels)
    across = np.linspace(0, 1, width)[None, :, None]
    down = np.linspace(0, 1, height)[:, None, None]
    top = corners[0, 0] * (1 - across) + corners[0, 1] * across
    bottom = corners[1, 0] * (1 - across) + corners[1, 1] * across
    return np.rint(top * (1 - down) + bottom * down).astype(np.uint8)


def three(gray: Pixels) -> Pixels:
    """(H, W) as (H, W, 3)."""
    return np.repeat(gray[..., None], 3, axis=2)


def saved(pixels: Pixels, format: str, mode: str | None = None, **options: Any) -> bytes:
    """Encoded by Pillow. mode: converted to it first."""
    content = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(content, format=format, **options)
    return content.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int],
    bits: int,
    colour: int,
    data: bytes,
    *more: bytes,
    late: bytes = b"",
    woven: int = 0,
) -> bytes:
    """A PNG. size: that the header says. colour: 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGB and alpha.
    data: rows, each with its filter in front, not yet deflated. more: chunks before, late: after them."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, woven))
    body = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + body + late + chunk(b"IEND", b"")


def rows(samples: Pixels, bits: int) -> bytes:
    """Samples (H, W, C) as the rows of a PNG, unfiltered. bits: of a sample: 1, 2, 4, 8, 16."""
    flat = samples.reshape(samples.shape[0], -1)
    if bits == 16:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in flat)
    if bits == 8:
        return b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in flat)
    each = np.unpackbits(flat.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
    return b"".join(b"\0" + np.packbits(row).tobytes() for row in each.reshape(flat.shape[0], -1))


def woven(samples: Pixels, bits: int) -> bytes:
    """The same interlaced: the seven passes one after the other."""
    passes = [samples[top::down, left::right] for top, left, down, right in _ADAM7]
    return b"".join(rows(one, bits) for one in passes if one.size)


def flat_png(width: int, height: int, bits: int = 8, colour: int = 2, *more: bytes) -> bytes:
    """A black PNG of any size, made without holding its pixels: a small file."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes(1 + -(-width * channels * bits // 8))
    packer, packed = zlib.compressobj(1), []
    for start in range(0, height, 64):
        packed.append(packer.compress(row * min(64, height - start)))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    body = chunk(b"IDAT", b"".join(packed) + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + body + chunk(b"IEND", b"")


def tiff(
    tags: dict[int, tuple[int, Sequence[int]]], data: bytes, order: str = "<", next_at: int = 0
) -> bytes:
    """A TIFF of one strip. tags: number → (type 3 short, 4 long …, values); the strip's place (273) and
    bytes (279) are added where they aren't given. next_at: where the next picture is said to lie."""
    kinds = {1: "B", 3: "H", 4: "I", 12: "d"}
    tags = {273: (4, [8]), 279: (4, [len(data)]), **tags}
    data += bytes(len(data) % 2)
    at = 8 + len(data)
    extra_at, entries, extra = at + 2 + 12 * len(tags) + 4, [], b""
    for number in sorted(tags):
        kind, values = tags[number]
        packed = struct.pack(f"{order}{len(values)}{kinds[kind]}", *values)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", extra_at + len(extra))
            extra, packed = extra + packed + bytes(len(packed) % 2), place
        entries.append(struct.pack(f"{order}HHI", number, kind, len(values)) + packed.ljust(4, b"\0"))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, at)
    ending = struct.pack(f"{order}I", next_at) + extra
    return head + data + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + ending


def tiff_of(
    samples: Pixels, photometric: int, *, kind: int = 1, more: dict[int, Any] | None = None, data: bytes = b""
) -> bytes:
    """Samples (H, W) or (H, W, C) as an uncompressed TIFF. photometric: 0 white is zero, 1 black is zero,
    2 RGB, 5 CMYK, 8 Lab. kind: 1 unsigned, 2 signed, 3 floating point. data: the
    samples as they are stored, where they aren't whole bytes."""
    height, width, *rest = samples.shape
    channels = rest[0] if rest else 1
    bits = [samples.dtype.itemsize * 8] * channels
    order = ">" if samples.dtype.byteorder == ">" else "<"
    tags: dict[int, Any] = {
        256: (4, [width]), 257: (4, [height]), 258: (3, bits), 259: (3, [1]), 262: (3, [photometric]),
        277: (3, [channels]), 278: (4, [height]), 339: (3, [kind] * channels), **(more or {}),
    }  # fmt: skip
    return tiff(tags, data or samples.tobytes(), order)


def bmp(width: int, height: int, bits: int, data: bytes, palette: bytes = b"", packing: int = 0) -> bytes:
    """A BMP. height: negative where the top row comes first. packing: 0 none, 1 RLE8, 3 by masks."""
    start = 54 + len(palette)
    head = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, packing, len(data), 2835, 2835, len(palette) // 4, 0
    )
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + palette + data


def gif(screen: tuple[int, int], frame: tuple[int, int], data: bytes = b"\x02\x02\x4c\x01\x00") -> bytes:
    """A GIF with one frame of a few bytes, of any size that headers can say."""
    table = bytes([0, 0, 0, 255, 255, 255])
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + table
    return head + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + data + b";"


def jpeg_says(content: bytes, width: int, height: int) -> bytes:
    """A JPEG with other sizes in its header."""
    at = next(
        i for i in range(len(content) - 1) if content[i] == 0xFF and content[i + 1] in (0xC0, 0xC1, 0xC2)
    )
    return content[: at + 5] + struct.pack(">HH", height, width) + content[at + 9 :]


def with_segment(content: bytes, marker: int, data: bytes) -> bytes:
    """A JPEG with one more segment at its beginning."""
    return content[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + content[2:]
