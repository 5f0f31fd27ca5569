"""Pictures that are to be refused: cut off, no pictures at all, bombs, lying headers, endless metadata."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

from tests.faults.pictures_case import Case
from tests.faults.pictures_made import (
    HIGH,
    WIDE,
    art,
    bmp,
    flat_png,
    gif,
    jpeg_says,
    png,
    rows,
    saved,
    tiff,
)  # fmt: skip
from tests.faults.pictures_metadata import BROKEN, metadata, noise

LARGE = "is too large; expected|pixels; expected at most"
MANY = r"is animated \(\d+ frames\)"
NONE = "isn't a picture; remove it or save it again"
CUTS = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
"""What is left of a file that was cut off."""
LOSSY = 16.0  # of 255: how far formats that lose something may be off in what is whole


def bad() -> list[Case]:
    """All of them."""
    parts = (_cut, _changed, _none, _moving, _bombs, _lies, _tiff_lies, metadata)
    return [one for part in parts for one in part()]


def _cut() -> Iterator[Case]:
    ways: dict[str, tuple[str, float, dict[str, Any]]] = {
        "png": ("PNG", 0, {}), "jpg": ("JPEG", 255, {}),
        "progressive.jpg": ("JPEG", 255, {"progressive": True}),
        "webp": ("WEBP", 255, {}), "lossless.webp": ("WEBP", 0, {"lossless": True}), "bmp": ("BMP", 0, {}),
        "tif": ("TIFF", 0, {}), "lzw.tif": ("TIFF", 0, {"compression": "tiff_lzw"}), "gif": ("GIF", 255, {}),
        "avif": ("AVIF", 255, {}),
    }  # fmt: skip
    for end, (format, within, options) in ways.items():
        for left in CUTS:
            name = f"cut at {left}.{end}"
            # With 1% of the file missing all pixels may still be there; then all must be.
            whole = (lambda n=name: noise(n)) if left == 0.99 else None
            yield Case(
                name=name,
                make=lambda n=name, f=format, o=options, s=left: _first(saved(noise(n), f, **o), s),
                pixels=whole, within=within, refused=BROKEN + ("|animated" if whole else ""),
            )  # fmt: skip


def _first(content: bytes, share: float) -> bytes:
    return content[: int(len(content) * share)]


def _changed() -> Iterator[Case]:
    """A byte within the pixels of a PNG that is another one: its checksums say so."""
    for share in (0.2, 0.5, 0.8, 0.97):
        name = f"a bit rotten at {share}.png"

        def made(n: str = name, s: float = share) -> bytes:
            content = bytearray(saved(noise(n), "PNG", compress_level=0))
            content[int(len(content) * s)] ^= 0x10
            return bytes(content)

        yield Case(name=name, make=made, refused=BROKEN)


def _none() -> Iterator[Case]:
    """Something else that is called a picture."""
    small = art("small", 16, 16)
    contents: dict[str, Callable[[], bytes]] = {
        "words": lambda: b"not a picture at all, but words\n" * 20,
        "html": lambda: b"<!doctype html><script>alert(1)</script>",
        "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><rect width="9"/></svg>',
        "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n",
        "pdf": lambda: saved(small, "PDF"),
        "ico": lambda: saved(small, "ICO"),
        "icns": lambda: saved(small, "ICNS"),
        "tga": lambda: saved(small, "TGA"),
        "ppm": lambda: saved(small, "PPM"),
        "pcx": lambda: saved(small, "PCX"),
        "dds": lambda: saved(small, "DDS"),
        "jpeg 2000": lambda: saved(small, "JPEG2000"),
        "photoshop": lambda: b"8BPS\0\1" + bytes(400),
        "zip": lambda: b"PK\x03\x04" + bytes(200),
        "program": lambda: b"\x7fELF" + bytes(200),
        "pickle": lambda: b"\x80\x04\x95" + b"cos\nsystem\n(S'true'\ntR." * 3,
        "zeros": lambda: bytes(5000),
        "one byte": lambda: b"\x89",
        "png's first bytes": lambda: b"\x89PNG\r\n\x1a\n",
        "jpeg's first bytes": lambda: b"\xff\xd8\xff\xe0",
        "webp's first bytes": lambda: b"RIFF\xff\xff\xff\xffWEBPVP8L",
    }  # fmt: skip
    for name, make in contents.items():
        yield Case(name=f"really {name}.png", make=make, refused=BROKEN)
    yield Case(name="nothing.png", make=lambda: b"", refused=rf"is empty|{NONE}")
    for brand in (b"heic", b"heix", b"mif1"):
        yield Case(
            name=f"phone {brand.decode()}.heic",
            make=lambda b=brand: b"\0\0\0\x18ftyp" + b + bytes(40),
            refused=r"is HEIC, which needs the package pillow-heif|is damaged",
        )


def _moving() -> Iterator[Case]:
    frames = [Image.fromarray(art(f"frame {number}")) for number in range(3)]
    for end, format in {"gif": "GIF", "webp": "WEBP", "png": "PNG", "avif": "AVIF", "tif": "TIFF"}.items():

        def made(f: str = format) -> bytes:
            content = io.BytesIO()
            frames[0].save(content, format=f, save_all=True, append_images=frames[1:], duration=100)
            return content.getvalue()

        yield Case(name=f"moving.{end}", make=made, refused=MANY)

    def thousands() -> bytes:
        frame = b"!\xf9\4\0\1\0\0\0" + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
        return gif((1, 1), (1, 1))[:-1] + frame * 100_000 + b";"

    yield Case(name="a hundred thousand frames.gif", make=thousands, refused=MANY)


def _bombs() -> Iterator[Case]:
    """Few bytes that say, or really are, more pixels than are read."""
    for width, height in (
        (40_000, 40_000),
        (10_000, 10_000),
        (65_535, 1_000),
        (2**31 - 1, 2**31 - 1),
        (2**31, 1),
    ):
        yield Case(
            name=f"{width} by {height}.png",
            make=lambda w=width, h=height: png((w, h), 8, 2, bytes(1000)),
            refused=f"{LARGE}|{BROKEN}",
        )
    yield Case(name="really large.png", make=lambda: flat_png(12_000, 9_000, 1, 0), refused=LARGE)
    plain = saved(art("bomb"), "JPEG")
    for width, height in ((65_500, 65_500), (8_001, 8_000), (65_500, 1_000)):
        yield Case(
            name=f"{width} by {height}.jpg",
            make=lambda w=width, h=height: jpeg_says(plain, w, h),
            refused=LARGE,
        )
    yield Case(name="large screen.gif", make=lambda: gif((65_535, 65_535), (1, 1)), refused=LARGE)
    yield Case(
        name="large frame.gif", make=lambda: gif((1, 1), (65_535, 65_535)), refused=f"{LARGE}|{BROKEN}"
    )
    for width, height in ((65_535, 65_535), (9_000, 9_000)):
        yield Case(
            name=f"{width} by {height}.bmp",
            make=lambda w=width, h=height: bmp(w, h, 24, bytes(100)),
            refused=LARGE,
        )
        yield Case(
            name=f"run lengths of {width} by {height}.bmp",
            make=lambda w=width, h=height: bmp(w, h, 8, b"\xff\1" * 100 + b"\0\1", bytes(1024), 1),
            refused=LARGE,
        )  # fmt: skip

    def canvas(width: int, height: int) -> bytes:
        head = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (width - 1).to_bytes(3, "little")
        body = head + (height - 1).to_bytes(3, "little") + saved(art("canvas"), "WEBP", lossless=True)[12:]
        return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body

    yield Case(name="large canvas.webp", make=lambda: canvas(16_384, 16_384), refused=f"{LARGE}|{BROKEN}")

    def avif() -> bytes:
        content = saved(art("ispe"), "AVIF")
        at = content.index(b"ispe") + 8
        return content[:at] + struct.pack(">II", 40_000, 40_000) + content[at + 8 :]

    yield Case(name="large.avif", make=avif, refused=f"{LARGE}|{BROKEN}")


def _lies() -> Iterator[Case]:
    """Headers that don't fit what follows."""
    data = rows(art("lies"), 8)
    for name, size in {
        "no width": (0, HIGH),
        "no height": (WIDE, 0),
        "more rows": (WIDE, 900),
        "wider": (900, HIGH),
    }.items():
        yield Case(name=f"{name}.png", make=lambda s=size: png(s, 8, 2, data), refused=BROKEN)
    for bits, colour in ((3, 2), (16, 3), (8, 7), (0, 0), (64, 2)):
        yield Case(
            name=f"{bits} bits of colour {colour}.png", make=lambda b=bits,
            c=colour: png((WIDE, HIGH), b, c, data),
            refused=BROKEN,
        )  # fmt: skip
    yield Case(
        name="64 million promised.png", make=lambda: png((8_000, 8_000), 8, 2, bytes(99)), refused=BROKEN
    )
    yield Case(
        name="64 million promised.jpg",
        make=lambda: jpeg_says(saved(art("p"), "JPEG"), 8_000, 8_000),
        refused=BROKEN,
    )
    yield Case(
        name="taller.jpg", make=lambda: jpeg_says(saved(art("t"), "JPEG"), WIDE, 60_000), refused=BROKEN
    )
    yield Case(name="frame outside.gif", make=lambda: gif((4, 4), (400, 400)), refused=BROKEN)
    yield Case(name="no rows.bmp", make=lambda: bmp(WIDE, 0, 24, data), refused=BROKEN)
    yield Case(name="odd bits.bmp", make=lambda: bmp(WIDE, HIGH, 7, data), refused=BROKEN)
    yield Case(name="palette without colours.png", make=lambda: png((WIDE, HIGH), 8, 3, data), refused=BROKEN)


def _tiff_lies() -> Iterator[Case]:
    small = art("tl", 8, 8)
    base: dict[int, Any] = {
        256: (4, [8]), 257: (4, [8]), 258: (3, [8, 8, 8]), 259: (3, [1]), 262: (3, [2]), 277: (3, [3]),
        278: (4, [8]),
    }  # fmt: skip
    lies: dict[str, dict[int, Any]] = {
        "a strip beyond the end": {273: (4, [2**31])},
        "a giant strip": {256: (4, [8000]), 257: (4, [8000]), 278: (4, [8000]), 259: (3, [5])},
        "packed by nothing known": {259: (3, [31_337])},
        "no colours known": {262: (3, [31_337])},
        "seventeen bits": {258: (3, [17, 17, 17])},
        "sixty thousand samples": {277: (3, [60_000])},
        "double floats": {258: (3, [64, 64, 64]), 339: (3, [3, 3, 3])},
        "large tiles": {322: (4, [2**30]), 323: (4, [2**30]), 324: (4, [8]), 325: (4, [9])},
    }
    for name, changed in lies.items():
        yield Case(
            name=f"{name}.tif",
            make=lambda c=changed: tiff({**base, **c}, small.tobytes()),
            pixels=(lambda: small) if name == "large tiles" else None,  # the picture is there for all that
            refused=f"{BROKEN}|{LARGE}",
        )
    large = {256: (4, [100_000]), 257: (4, [100_000])}
    yield Case(
        name="100000 by 100000.tif", make=lambda: tiff({**base, **large}, small.tobytes()), refused=LARGE
    )
    once = tiff(base, small.tobytes())
    at = struct.unpack_from("<I", once, 4)[0]
    yield Case(
        name="a circle.tif", make=lambda: tiff(base, small.tobytes(), next_at=at), pixels=lambda: small,
        refused=f"{MANY}|{BROKEN}",
    )  # fmt: skip

    def chain() -> bytes:
        """20,000 directories one after the other, each with a size only."""
        content = bytearray(b"II*\0" + struct.pack("<I", 8))
        for _ in range(20_000):
            entries = b"".join(struct.pack("<HHII", tag, 4, 1, 8) for tag in (256, 257))
            content += struct.pack("<H", 2) + entries + struct.pack("<I", len(content) + 30)
        return bytes(content[:-4]) + bytes(4)

    yield Case(name="twenty thousand pages.tif", make=chain, refused=f"{MANY}|{BROKEN}")
