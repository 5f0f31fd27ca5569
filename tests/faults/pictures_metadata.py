"""Pictures with metadata that is broken or has no end: read as they are, or refused, but nothing between."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from tests.faults.pictures_case import Case
from tests.faults.pictures_made import (
    HIGH,
    WIDE,
    Pixels,
    art,
    chunk,
    png,
    rows,
    saved,
    with_segment,
)  # fmt: skip

BROKEN = r"is damaged \(.+\); remove it or save it again|isn't a picture"


def noise(name: str) -> Pixels:
    """What doesn't pack, so that cutting a file cuts pixels."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 255, (64, 96, 3), dtype=np.uint8)


@cache
def _bomb() -> bytes:
    """What unpacks to 200 MB."""
    return zlib.compress(bytes(200 << 20), 9)


def metadata() -> Iterator[Case]:
    """What isn't pixels, without end. Read or refused; but what is read is right."""
    data = rows(art("meta"), 8)

    def case(name: str, make: Callable[[], bytes], within: float = 0) -> Case:
        refused = f"{BROKEN}|MB of words beside its pixels"
        return Case(name=name, make=make, pixels=lambda: art("meta"), refused=refused, within=within)

    size = (WIDE, HIGH)
    yield case("words of 200 MB.png", lambda: png(size, 8, 2, data, chunk(b"zTXt", b"k\0\0" + _bomb())))
    yield case(
        "words of 200 MB in unicode.png",
        lambda: png(size, 8, 2, data, chunk(b"iTXt", b"k\0\1\0\0\0" + _bomb())),
    )
    yield case("a profile of 200 MB.png", lambda: png(size, 8, 2, data, chunk(b"iCCP", b"k\0\0" + _bomb())))
    yield case(
        "a hundred thousand words.png", lambda: png(size, 8, 2, data, *[chunk(b"tEXt", b"k\0v")] * 100_000)
    )
    many = zlib.compress(bytes(900_000), 9)
    yield case(
        "words of 270 MB in parts.png",
        lambda: png(
            size, 8, 2, data, late=b"".join(chunk(b"zTXt", b"k%d\0\0" % n + many) for n in range(300))
        ),
    )
    yield case(
        "exif of 40 MB.png",
        lambda: png(size, 8, 2, data, chunk(b"eXIf", b"Exif\0\0MM\0*" + b"\xff" * 40_000_000)),
    )
    yield case(
        "exif of noise.png", lambda: png(size, 8, 2, data, chunk(b"eXIf", noise("e").tobytes()[:5000]))
    )
    yield case(
        "exif that ends.png", lambda: png(size, 8, 2, data, chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff"))
    )
    circle = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    yield case("exif in a circle.png", lambda: png(size, 8, 2, data, chunk(b"eXIf", circle)))
    giant = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, 4, 2**31, 8) + bytes(4)
    yield case("exif that promises.png", lambda: png(size, 8, 2, data, chunk(b"eXIf", giant)))
    plain = saved(art("meta"), "JPEG", quality=97, subsampling=0)
    yield case(
        "exif of noise.jpg", lambda: with_segment(plain, 0xE1, b"Exif\0\0" + noise("j").tobytes()[:9000]), 12
    )

    def segments() -> bytes:
        one = b"\xff\xe2" + struct.pack(">H", 65_535) + b"ICC_PROFILE\0\1\xff" + bytes(65_519)
        return plain[:2] + one * 300 + plain[2:]

    yield case("profiles without end.jpg", segments, 12)
    photoshop = b"Photoshop 3.0\0" + b"8BIM\3\xed\0\0\xff\xff\xff\xff" * 900
    yield case("resources that lie.jpg", lambda: with_segment(plain, 0xED, photoshop), 12)
