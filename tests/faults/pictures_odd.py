"""Odd pictures that are to be read, and what should be read of them, worked out without a decoder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests.faults.pictures_case import Case
from tests.faults.pictures_made import (
    HIGH,
    WIDE,
    Pixels,
    art,
    chunk,
    flat_png,
    png,
    rows,
    saved,
    three,
    tiff_of,
    woven,
)  # fmt: skip

WHITE = "transparent parts were made white"
TURNED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2), 6: lambda p: p[::-1].transpose(1, 0, 2),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2), 8: lambda p: p[:, ::-1].transpose(1, 0, 2),
}  # fmt: skip
"""What is seen upright of stored pixels, by EXIF's orientation (the sides that row 0 and column 0 show)."""


def odd() -> list[Case]:
    """All of them."""
    from tests.faults.pictures_formats import formats

    return [*_turned(), *_depths(), *_opacity(), *formats(), *_shapes()]


def _exif(orientation: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _turned() -> Iterator[Case]:
    ways = {
        "jpg": ("JPEG", 6, {"quality": 95, "subsampling": 0}), "png": ("PNG", 0, {}),
        "webp": ("WEBP", 0, {"lossless": True}), "tif": ("TIFF", 0, {}),
    }  # fmt: skip
    for end, (format, within, options) in ways.items():
        for number, turn in TURNED.items():
            name = f"turned {number}.{end}"
            yield Case(
                name=name,
                make=lambda n=name, f=format, o=options, k=number: saved(art(n), f, exif=_exif(k), **o),
                pixels=lambda n=name, t=turn: t(art(n)),
                within=within,
            )
    for said in (0, 9, 65535):
        name = f"turned by {said}.png"
        yield Case(
            name=name,
            make=lambda n=name, s=said: saved(art(n), "PNG", exif=_exif(s)),
            pixels=lambda n=name: art(n),
        )


def _depths() -> Iterator[Case]:
    for bits in (1, 2, 4, 8, 16):
        for weave in (0, 1):
            name, top = f"gray {bits} bits{' woven' * weave}.png", 2**bits - 1

            def levels(n: str = name, t: int = top) -> Pixels:
                return np.rint(art(n, channels=1)[..., 0] / 255.0 * t)

            yield Case(
                name=name,
                make=lambda lv=levels, b=bits, w=weave: png(
                    (WIDE, HIGH), b, 0, (woven if w else rows)(lv()[..., None], b), woven=w
                ),
                pixels=lambda lv=levels, t=top: three(np.rint(lv() * 255 / t)),
                within=1 if bits == 16 else 0,
            )
    for weave in (0, 1):
        name = f"rgb 16 bits{' woven' * weave}.png"
        yield Case(
            name=name,
            make=lambda n=name, w=weave: png(
                (WIDE, HIGH), 16, 2, (woven if w else rows)(art(n).astype(np.uint16) * 257, 16), woven=w
            ),
            pixels=lambda n=name: art(n),
            within=1,
        )
    ramp = np.linspace(0, 65535, WIDE * HIGH).reshape(HIGH, WIDE).astype(np.uint16)
    yield Case(
        name="ramp 16 bits.png", make=lambda: png((WIDE, HIGH), 16, 0, rows(ramp[..., None], 16)),
        pixels=lambda: three(np.rint(ramp / 257.0)), within=1,
    )  # fmt: skip
    for bits in (1, 2, 4, 8):
        name, count = f"palette of {bits} bits.png", 2**bits
        yield Case(
            name=name,
            make=lambda n=name, b=bits, c=count: png(
                (WIDE, HIGH), b, 3, rows(indices(c)[..., None], b), chunk(b"PLTE", palette(n, c).tobytes())
            ),
            pixels=lambda n=name, c=count: palette(n, c)[indices(c)],
        )


def palette(name: str, count: int) -> Pixels:
    return art(f"colours of {name}", count, 1)[0]


def indices(count: int) -> Pixels:
    return np.arange(WIDE * HIGH).reshape(HIGH, WIDE) % count


def _opacity() -> Iterator[Case]:
    def over(colours: Pixels, alpha: Pixels, behind: float = 255.0) -> Pixels:
        share = alpha[..., None].astype(np.float64) / 255.0
        return np.rint(colours * share + behind * (1.0 - share))

    veil = np.linspace(0, 255, WIDE * HIGH).reshape(HIGH, WIDE).astype(np.uint8)
    for bits in (8, 16):
        more = 257 if bits == 16 else 1
        for colour, channels in ((4, 1), (6, 3)):
            name = f"opacity of {bits} bits, colour {colour}.png"

            def layers(n: str = name, c: int = channels, m: int = more) -> Pixels:
                return np.concatenate([art(n, channels=c), veil[..., None]], axis=2).astype(np.uint16) * m

            yield Case(
                name=name,
                make=lambda ly=layers, b=bits, k=colour: png((WIDE, HIGH), b, k, rows(ly(), b)),
                pixels=lambda n=name,
                c=channels: over(np.broadcast_to(art(n, channels=c), (HIGH, WIDE, 3)), veil),
                within=1, note=WHITE,
            )  # fmt: skip
    yield Case(
        name="all opaque.png", make=lambda: saved(np.dstack([art("all opaque"), veil * 0 + 255]), "PNG"),
        pixels=lambda: art("all opaque"),
    )  # fmt: skip
    yield Case(
        name="nothing to see.png", make=lambda: saved(np.dstack([art("nothing"), veil * 0]), "PNG"),
        pixels=lambda: art("nothing") * 0 + 255, note=WHITE,
    )  # fmt: skip
    yield Case(
        name="veiled.webp",
        make=lambda: saved(np.dstack([art("veiled"), veil]), "WEBP", lossless=True, exact=True),
        pixels=lambda: over(art("veiled"), veil), within=1, note=WHITE,
    )  # fmt: skip
    yield Case(
        name="veiled.tif", make=lambda: tiff_of(np.dstack([art("v"), veil]), 2, more={338: (3, [2])}),
        pixels=lambda: over(art("v"), veil), within=1, note=WHITE,
    )  # fmt: skip
    yield Case(
        name="veiled.avif",
        make=lambda: saved(np.dstack([art("va"), veil]), "AVIF", quality=100, subsampling="4:4:4"),
        pixels=lambda: over(art("va"), veil), within=8, note=WHITE,
    )  # fmt: skip
    yield from _keyed()


def _keyed() -> Iterator[Case]:
    """One colour of a PNG is said to be clear, and colours of a palette by their opacity."""
    for bits in (1, 2, 4, 8, 16):
        name, top = f"a clear gray of {bits} bits.png", 2**bits - 1

        def levels(n: str = name, t: int = top) -> Pixels:
            found = np.rint(art(n, channels=1)[..., 0] / 255.0 * t).astype(np.uint16)
            found[0, 0] = max(1, found[0, 0])  # zero is the same in any number of bits
            return found

        def seen(lv: Callable[[], Pixels] = levels, t: int = top) -> Pixels:
            return three(np.where(lv() == lv()[0, 0], 255, np.rint(lv() * (255 / t))))

        yield Case(
            name=name,
            make=lambda lv=levels, b=bits: png(
                (WIDE, HIGH), b, 0, rows(lv()[..., None], b), chunk(b"tRNS", int(lv()[0, 0]).to_bytes(2))
            ),
            pixels=seen, note=WHITE, within=1 if bits == 16 else 0,
        )  # fmt: skip
    name = "a clear colour.png"
    key = art(name)[0, 0]
    clear = (art(name) == key).all(axis=2, keepdims=True)
    yield Case(
        name=name,
        make=lambda: png((WIDE, HIGH), 8, 2, rows(art(name), 8), chunk(b"tRNS", key.astype(">u2").tobytes())),
        pixels=lambda: np.where(clear, 255, art(name)), note=WHITE,
    )  # fmt: skip
    wide = art("wide clear").astype(np.uint16) * 257
    first = (wide == wide[0, 0]).all(axis=2, keepdims=True)
    yield Case(
        name="a clear colour of 16 bits.png",
        make=lambda: png(
            (WIDE, HIGH), 16, 2, rows(wide, 16), chunk(b"tRNS", wide[0, 0].astype(">u2").tobytes())
        ),
        pixels=lambda: np.where(first, 255, art("wide clear")), within=1, note=WHITE,
    )  # fmt: skip
    veils = np.array([0, 51, 255, 102])
    colours = palette("veiled palette", 4).astype(np.float64)
    share = veils[:, None] / 255.0
    yield Case(
        name="veiled palette.png",
        make=lambda: png(
            (WIDE, HIGH), 2, 3, rows(indices(4)[..., None], 2),
            chunk(b"PLTE", colours.astype(np.uint8).tobytes()), chunk(b"tRNS", bytes(veils.tolist())),
        ),
        pixels=lambda: np.rint(colours * share + 255 * (1 - share))[indices(4)], within=1, note=WHITE,
    )  # fmt: skip
    flat = indices(4).astype(np.uint8)

    def clear_gif() -> bytes:
        picture = Image.fromarray(flat, mode="P")
        picture.putpalette(palette("clear.gif", 4).tobytes())
        content = io.BytesIO()
        picture.save(content, format="GIF", transparency=2, optimize=False)
        return content.getvalue()

    yield Case(
        name="clear.gif", make=clear_gif, note=WHITE,
        pixels=lambda: np.where(flat[..., None] == 2, 255, palette("clear.gif", 4)[flat]),
    )  # fmt: skip


def _shapes() -> Iterator[Case]:
    for format, end in {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif"}.items():
        name = f"one pixel.{end}"
        level = 40 + 10 * len(end) + ord(end[0])
        yield Case(
            name=name, make=lambda f=format, v=level: saved(np.full((1, 1, 3), v, np.uint8), f),
            pixels=lambda v=level: np.full((1, 1, 3), v), within=3,
        )  # fmt: skip
    for width, height in ((6000, 1), (1, 6000)):
        name = f"{width} by {height}.png"
        yield Case(
            name=name, make=lambda n=name, w=width, h=height: saved(art(n, w, h), "PNG"),
            pixels=lambda n=name, w=width, h=height: art(n, w, h),
        )  # fmt: skip
    yield Case(
        name="much to say.png",
        make=lambda: png(
            (WIDE, HIGH), 8, 2, rows(art("mts"), 8), *[chunk(b"tEXt", b"k\0" + b"x" * 500)] * 400
        ),
        pixels=lambda: art("mts"),
    )
    yield Case(name="black.png", make=lambda: flat_png(300, 200), pixels=lambda: np.zeros((200, 300, 3)))
