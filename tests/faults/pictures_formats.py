"""Odd pictures of formats other than PNG, and odd profiles and shapes: what should be read of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
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
    gif,
    saved,
    three,
    tiff_of,
    with_segment,
)  # fmt: skip
from tests.faults.pictures_odd import WHITE, indices, palette


def formats() -> Iterator[Case]:
    """All of them."""
    for part in (_tiffs, _tiffs_of_other_colours, _jpegs, _bmps, _others, _profiles):
        yield from part()


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
        make=lambda: tiff_of((65535 - art("w1", channels=1)[..., 0].astype(np.uint16) * 257).astype("<u2"),
        0),
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
        name="print.tif", make=lambda: tiff_of(printed("print.tif"), 5),
        pixels=lambda: inked(printed("print.tif")),
        within=2,
    )  # fmt: skip
    yield Case(
        name="print.jpg", make=lambda: _cmyk_jpeg(printed("print.jpg")),
        pixels=lambda: inked(printed("print.jpg")),
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
        "plain": {"subsampling": 0}, "half the colours": {"subsampling": 2},
        "progressive": {"progressive": True},
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
        make=lambda: with_segment(saved(art("wb"), "JPEG", quality=97, subsampling=0), 0xFE,
        b"<script>" * 8000),
        pixels=lambda: art("wb"), within=12,
    )  # fmt: skip
    yield Case(
        name="words after.jpg",
        make=lambda: saved(art("wa"), "JPEG", quality=97, subsampling=0) + b"PK\x03\x04" * 999,
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
    colours = palette("bmp", 16)
    table = np.hstack([colours[:, ::-1], np.zeros((16, 1), np.uint8)]).tobytes()
    flat = indices(16).astype(np.uint8)
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
    flat = indices(16).astype(np.uint8)

    def still() -> bytes:
        picture = Image.fromarray(flat, mode="P")
        picture.putpalette(palette("still.gif", 16).tobytes())
        content = io.BytesIO()
        picture.save(content, format="GIF", optimize=False)
        return content.getvalue()

    yield Case(name="still.gif", make=still, pixels=lambda: palette("still.gif", 16)[flat])
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
        "the same": srgb, "of Lab": lab, "no": b"no profile at all", "half a": srgb[: len(srgb) // 2],
        "empty": b"\0",
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
            picture = Image.fromarray(indices(16).astype(np.uint8), mode="P")
            picture.putpalette(palette(n, 16).tobytes())
            content = io.BytesIO()
            picture.save(content, format="PNG", icc_profile=straight)
            return content.getvalue()

        yield Case(
            name=file, make=made, within=2,
            pixels=lambda n=file,
            m=mode: _srgb((art(n) if m == "RGB" else palette(n, 16)[indices(16)]) / 255.0),
        )  # fmt: skip


def _straight(srgb: bytes) -> bytes:
    """sRGB's profile with straight curves, and another name."""
    from tests.trainers.test_images import _linear

    return _linear(srgb)
