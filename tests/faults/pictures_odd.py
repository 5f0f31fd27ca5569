"""Odd pictures that are to be read, and what should be read of them, worked out without a decoder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from tests.faults.pictures_case import Case
from tests.faults.pictures_made import (
    HIGH,
    WIDE,
    Pixels,
    art,
    bmp,
    chunk,
    flat_png,
    gif,
    png,
    rows,
    saved,
    three,
    tiff_of,
    with_segment,
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
    parts = (
        _turned,
        _depths,
        _opacity,
        _tiffs,
        _tiffs_of_other_colours,
        _jpegs,
        _bmps,
        _others,
        _profiles,
        _shapes,
    )
    return [one for part in parts for one in part()]


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
                (WIDE, HIGH), b, 3, rows(_indices(c)[..., None], b), chunk(b"PLTE", _palette(n, c).tobytes())
            ),
            pixels=lambda n=name, c=count: _palette(n, c)[_indices(c)],
        )


def _palette(name: str, count: int) -> Pixels:
    return art(f"colours of {name}", count, 1)[0]


def _indices(count: int) -> Pixels:
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
                pixels=lambda n=name, c=channels: over(np.broadcast_to(art(n, channels=c), (HIGH, WIDE, 3)), veil),
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
        name="veiled.webp", make=lambda: saved(np.dstack([art("veiled"), veil]), "WEBP", lossless=True, exact=True),
        pixels=lambda: over(art("veiled"), veil), within=1, note=WHITE,
    )  # fmt: skip
    yield Case(
        name="veiled.tif", make=lambda: tiff_of(np.dstack([art("v"), veil]), 2, more={338: (3, [2])}),
        pixels=lambda: over(art("v"), veil), within=1, note=WHITE,
    )  # fmt: skip
    yield Case(
        name="veiled.avif", make=lambda: saved(np.dstack([art("va"), veil]), "AVIF", quality=100, subsampling="4:4:4"),
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
    colours = _palette("veiled palette", 4).astype(np.float64)
    share = veils[:, None] / 255.0
    yield Case(
        name="veiled palette.png",
        make=lambda: png(
            (WIDE, HIGH), 2, 3, rows(_indices(4)[..., None], 2),
            chunk(b"PLTE", colours.astype(np.uint8).tobytes()), chunk(b"tRNS", bytes(veils.tolist())),
        ),
        pixels=lambda: np.rint(colours * share + 255 * (1 - share))[_indices(4)], within=1, note=WHITE,
    )  # fmt: skip
    flat = _indices(4).astype(np.uint8)

    def clear_gif() -> bytes:
        picture = Image.fromarray(flat, mode="P")
        picture.putpalette(_palette("clear.gif", 4).tobytes())
        content = io.BytesIO()
        picture.save(content, format="GIF", transparency=2, optimize=False)
        return content.getvalue()

    yield Case(
        name="clear.gif", make=clear_gif, note=WHITE,
        pixels=lambda: np.where(flat[..., None] == 2, 255, _palette("clear.gif", 4)[flat]),
    )  # fmt: skip


def _tiffs() -> Iterator[Case]:
    gray = art("gray tiff", channels=1)[..., 0]
    for order in "<>":
        yield Case(
            name=f"16 bits {'little' if order == '<' else 'big'}.tif",
            make=lambda o=order: tiff_of((gray.astype(np.uint16) * 257).astype(f"{o}u2"), 1),
            pixels=lambda: three(gray), within=1,
        )  # fmt: skip
        yield Case(
            name=f"rgb of 16 bits {'little' if order == '<' else 'big'}.tif",
            make=lambda o=order: tiff_of((art(f"rgb16{o}").astype(np.uint16) * 257).astype(f"{o}u2"), 2),
            pixels=lambda o=order: art(f"rgb16{o}"), within=1,
        )  # fmt: skip
    yield Case(
        name="white is zero.tif", make=lambda: tiff_of(255 - art("w0", channels=1)[..., 0], 0),
        pixels=lambda: three(art("w0", channels=1)[..., 0]),
    )  # fmt: skip
    yield Case(
        name="white is zero of 16 bits.tif",
        make=lambda: tiff_of((65535 - art("w1", channels=1)[..., 0].astype(np.uint16) * 257).astype("<u2"), 0),
        pixels=lambda: three(art("w1", channels=1)[..., 0]), within=1,
    )  # fmt: skip
    pairs = (gray.astype(np.uint32) * 4095 // 255).reshape(-1, 2)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1
    )
    yield Case(
        name="12 bits.tif", pixels=lambda: three(gray), within=1,
        make=lambda: tiff_of(gray, 1, more={258: (3, [12])}, data=packed.astype(np.uint8).tobytes()),
    )  # fmt: skip
    light = gray / 255.0
    for name, values in {
        "light of 0 to 1.tif": light / light.max(),
        "light of 0 to 4.tif": light * 4,
        "light with holes.tif": np.where(gray < 60, np.nan, light),
        "light without end.tif": np.where(gray < 60, np.inf, light),
        "light below zero.tif": light - 0.5,
    }.items():
        finite = np.clip(np.nan_to_num(values, posinf=0.0, neginf=0.0), 0, None)
        yield Case(
            name=name, make=lambda v=values: tiff_of(v.astype("<f4"), 1, kind=3),
            pixels=lambda f=finite: three(np.rint(f * 255 / max(f.max(), 1.0))), within=1,
        )  # fmt: skip
    yield Case(
        name="whole numbers of 32 bits.tif", make=lambda: tiff_of(gray.astype("<i4") * 300, 1, kind=2),
        pixels=lambda: three(np.rint(gray * 300.0 * (255 / max(65535.0, gray.max() * 300.0)))), within=1,
    )  # fmt: skip
    for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"):
        name = f"packed by {packing}.tif"
        yield Case(
            name=name,
            make=lambda n=name, p=packing: saved(art(n), "TIFF", compression=p),
            pixels=lambda n=name: art(n),
        )


def _tiffs_of_other_colours() -> Iterator[Case]:
    def printed(name: str) -> Pixels:
        ink = art(name, channels=4)
        ink[..., 3] //= 4
        return ink

    def inked(ink: Pixels) -> Pixels:
        return np.rint((255.0 - ink[..., :3]) * (255.0 - ink[..., 3:]) / 255.0)

    yield Case(
        name="print.tif", make=lambda: tiff_of(printed("print.tif"), 5), pixels=lambda: inked(printed("print.tif")),
        within=2,
    )  # fmt: skip
    yield Case(
        name="print.jpg", make=lambda: _cmyk_jpeg(printed("print.jpg")), pixels=lambda: inked(printed("print.jpg")),
        within=12,
    )  # fmt: skip
    # Lab: L* 0 … 100 as a byte, a* and b* signed; grays are all that can be told without a profile.
    lightness = np.linspace(0, 255, WIDE * HIGH).reshape(HIGH, WIDE).astype(np.uint8)
    yield Case(
        name="lab gray.tif", make=lambda: tiff_of(np.dstack([lightness, lightness * 0, lightness * 0]), 8),
        pixels=lambda: three(_srgb(_light(lightness / 255.0 * 100.0))), within=6,
    )  # fmt: skip
    premultiplied = np.dstack([art("pre") // 2, np.full((HIGH, WIDE), 128, np.uint8)])
    yield Case(
        name="premultiplied.tif", make=lambda: tiff_of(premultiplied, 2, more={338: (3, [1])}),
        pixels=lambda: np.rint(premultiplied[..., :3] + 255 * (1 - 128 / 255)), within=2, note=WHITE,
    )  # fmt: skip


def _cmyk_jpeg(ink: Pixels) -> bytes:
    content = io.BytesIO()
    Image.fromarray(ink, mode="CMYK").save(content, format="JPEG", quality=100, subsampling=0)
    return content.getvalue()


def _light(lightness: Pixels) -> Pixels:
    """CIE L* 0 … 100 as light 0 … 1."""
    high = ((lightness + 16) / 116) ** 3
    return np.where(lightness > 8, high, lightness / 903.3)


def _srgb(light: Pixels) -> Pixels:
    """Light 0 … 1 on sRGB's scale, 0 … 255 (IEC 61966-2-1)."""
    light = np.clip(light, 0, 1)
    return np.rint(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


def _jpegs() -> Iterator[Case]:
    ways: dict[str, dict[str, Any]] = {
        "plain": {"subsampling": 0}, "half the colours": {"subsampling": 2}, "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 1}, "optimized": {"optimize": True},
    }  # fmt: skip
    for name, options in ways.items():
        yield Case(
            name=f"{name}.jpg", make=lambda n=name, o=options: saved(art(n), "JPEG", quality=97, **o),
            pixels=lambda n=name: art(n), within=12,
        )  # fmt: skip
    yield Case(
        name="gray.jpeg", make=lambda: saved(art("gray.jpeg", channels=1)[..., 0], "JPEG", quality=97),
        pixels=lambda: three(art("gray.jpeg", channels=1)[..., 0]), within=6,
    )  # fmt: skip

    def phone() -> bytes:
        content = io.BytesIO()
        second = Image.new("RGB", (8, 8), "blue")
        Image.fromarray(art("phone")).save(
            content, format="MPO", save_all=True, append_images=[second], quality=97, subsampling=0
        )
        return content.getvalue()

    yield Case(name="phone.jpg", make=phone, pixels=lambda: art("phone"), within=12)
    yield Case(
        name="words before.jpg",
        make=lambda: with_segment(saved(art("wb"), "JPEG", quality=97, subsampling=0), 0xFE, b"<script>" * 8000),
        pixels=lambda: art("wb"), within=12,
    )  # fmt: skip
    yield Case(
        name="words after.jpg", make=lambda: saved(art("wa"), "JPEG", quality=97, subsampling=0) + b"PK\x03\x04" * 999,
        pixels=lambda: art("wa"), within=12,
    )  # fmt: skip


def _bmps() -> Iterator[Case]:
    picture = art("bmp")
    rgb = picture[::-1, :, ::-1].tobytes()  # rows from below, blue first; 24 × 3 is a multiple of 4
    yield Case(name="plain.bmp", make=lambda: bmp(WIDE, HIGH, 24, rgb), pixels=lambda: picture)
    down = art("down.bmp")
    yield Case(
        name="from above.bmp",
        make=lambda: bmp(WIDE, -HIGH, 24, down[:, :, ::-1].tobytes()),
        pixels=lambda: down,
    )
    colours = _palette("bmp", 16)
    table = np.hstack([colours[:, ::-1], np.zeros((16, 1), np.uint8)]).tobytes()
    flat = _indices(16).astype(np.uint8)
    yield Case(
        name="palette.bmp",
        make=lambda: bmp(WIDE, HIGH, 8, flat[::-1].tobytes(), table),
        pixels=lambda: colours[flat],
    )
    packed = b"".join(b"".join(bytes([1, v]) for v in row) + b"\0\0" for row in flat[::-1]) + b"\0\1"
    dark = (colours // 2).astype(np.uint8)
    half = np.hstack([dark[:, ::-1], np.zeros((16, 1), np.uint8)]).tobytes()
    yield Case(
        name="run lengths.bmp", make=lambda: bmp(WIDE, HIGH, 8, packed, half, 1), pixels=lambda: dark[flat]
    )


def _others() -> Iterator[Case]:
    yield Case(
        name="plain.webp", make=lambda: saved(art("wp"), "WEBP", lossless=True), pixels=lambda: art("wp")
    )
    yield Case(
        name="lossy.webp",
        make=lambda: saved(art("wl"), "WEBP", quality=98),
        pixels=lambda: art("wl"),
        within=16,
    )
    yield Case(
        name="plain.avif", make=lambda: saved(art("av"), "AVIF", quality=100, subsampling="4:4:4"),
        pixels=lambda: art("av"), within=8,
    )  # fmt: skip
    flat = _indices(16).astype(np.uint8)

    def still() -> bytes:
        picture = Image.fromarray(flat, mode="P")
        picture.putpalette(_palette("still.gif", 16).tobytes())
        content = io.BytesIO()
        picture.save(content, format="GIF", optimize=False)
        return content.getvalue()

    yield Case(name="still.gif", make=still, pixels=lambda: _palette("still.gif", 16)[flat])
    yield Case(
        name="one pixel by hand.gif", make=lambda: gif((1, 1), (1, 1)), pixels=lambda: np.full((1, 1, 3), 255)
    )
    for end, format in {
        "jpg": "PNG", "png": "JPEG", "webp": "PNG", "gif": "BMP", "bmp": "WEBP", "tif": "PNG", "avif": "TIFF",
        "heic": "JPEG", "jpeg": "AVIF", "PNG": "GIF",
    }.items():  # fmt: skip
        name = f"really {format}.{end}"
        gray = art(name, channels=1)[..., 0]
        yield Case(
            name=name, make=lambda g=gray, f=format: saved(g, f), pixels=lambda g=gray: three(g), within=14
        )


def _profiles() -> Iterator[Case]:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    wrong = {
        "the same": srgb, "of Lab": lab, "no": b"no profile at all", "half a": srgb[: len(srgb) // 2], "empty": b"\0",
        "a lying": srgb[:128] + b"\xff" * 60 + srgb[188:],
    }  # fmt: skip
    for name, profile in wrong.items():
        file = f"{name} profile.png"
        yield Case(
            name=file,
            make=lambda n=file, p=profile: saved(art(n), "PNG", icc_profile=p),
            pixels=lambda n=file: art(n),
        )
    straight = _straight(srgb)
    for mode in ("RGB", "P"):
        file = f"straight profile, {mode}.png"

        def made(n: str = file, m: str = mode) -> bytes:
            if m == "RGB":
                return saved(art(n), "PNG", icc_profile=straight)
            picture = Image.fromarray(_indices(16).astype(np.uint8), mode="P")
            picture.putpalette(_palette(n, 16).tobytes())
            content = io.BytesIO()
            picture.save(content, format="PNG", icc_profile=straight)
            return content.getvalue()

        yield Case(
            name=file, make=made, within=2,
            pixels=lambda n=file, m=mode: _srgb((art(n) if m == "RGB" else _palette(n, 16)[_indices(16)]) / 255.0),
        )  # fmt: skip


def _straight(srgb: bytes) -> bytes:
    """sRGB's profile with straight curves, and another name."""
    from tests.trainers.test_images import _linear

    return _linear(srgb)


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
