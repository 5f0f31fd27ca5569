"""Files that would take much memory, made without taking much: at the limits, beyond them, and bombs."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.pictures_made import WIDE, art, bmp, flat_png, png, rows, saved, tiff

SIDE = 7_990
"""Pixels: its square is just below what is read at most."""
PLAIN = np.zeros((1, 1, 3), np.uint8)


@dataclass(frozen=True, kw_only=True)
class Heavy:
    """A file to be dropped. make: writes it. taken: whether it is to be taken, or refused; None: either."""

    name: str
    make: Callable[[Path], object]
    taken: bool | None


FIRST = ("64 million, rgb.png", "64 million.webp", "metadata.jsonl", "exif of 400 MB.png")
"""One for each safeguard, so that few are enough where one is taken away."""


def heavy() -> list[Heavy]:
    """All of them."""
    found = [*_pngs(), *_jpegs(), *_others(), *_written(), *_zips()]
    return sorted(found, key=lambda one: one.name not in FIRST)


def _put(content: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content())


def _flat(path: Path, format: str, side: int, mode: str = "RGB", **options: object) -> None:
    Image.new(mode, (side, side), None).save(path, format=format, **options)


def _saved(format: str, side: int, mode: str = "RGB", **options: object) -> Callable[[Path], object]:
    return lambda path: _flat(path, format, side, mode, **options)


def _pngs() -> list[Heavy]:
    kinds = {"rgb": (8, 2), "rgba": (8, 6), "gray of 16 bits": (16, 0), "rgb of 16 bits": (16, 2),
    "bits": (1, 0),
             "gray and alpha": (8, 4)}  # fmt: skip
    found = [
        Heavy(name=f"64 million, {name}.png", taken=True,
              make=_put(lambda b=bits, c=colour: flat_png(SIDE, SIDE, b, c)))  # type: ignore[misc]
        for name, (bits, colour) in kinds.items()
    ]  # fmt: skip
    return [
        *found,
        Heavy(name="400 million, bits.png", taken=False, make=_put(lambda: flat_png(20_000, 20_000, 1, 0))),
        Heavy(name="exif of 400 MB.png", taken=None, make=_long_chunk),
    ]


def _long_chunk(path: Path) -> None:
    """A PNG with one chunk of 400 MB in front of its pixels, which takes no room on the disk."""
    whole, long = png((WIDE, 16), 8, 2, rows(art("long"), 8)), 400_000_000
    check = zlib.crc32(b"eXIf")
    for _ in range(long // 1_000_000):
        check = zlib.crc32(bytes(1_000_000), check)
    with path.open("wb") as file:
        file.write(whole[:33] + struct.pack(">I", long) + b"eXIf")
        file.seek(long, 1)
        file.write(struct.pack(">I", check) + whole[33:])


def _jpegs() -> list[Heavy]:
    upright = Image.Exif()
    upright[0x0112] = 6
    return [
        Heavy(name="64 million.jpg", taken=True, make=_saved("JPEG", SIDE)),
        Heavy(name="64 million on their side.jpg", taken=True, make=_saved("JPEG", SIDE, exif=upright)),
        Heavy(name="64 million, print.jpg", taken=True, make=_saved("JPEG", SIDE, "CMYK")),
        Heavy(name="64 million, progressive.jpg", taken=True, make=_saved("JPEG", SIDE, progressive=True)),
        Heavy(name="64 million, progressive, all colours.jpg", taken=False,
              make=_saved("JPEG", SIDE, progressive=True, subsampling=0)),
        Heavy(name="64 million, gray, progressive.jpg", taken=True,
              make=_saved("JPEG", SIDE, "L", progressive=True)),
    ]  # fmt: skip


def _others() -> list[Heavy]:
    strip = {256: (4, [SIDE]), 257: (4, [SIDE]), 258: (3, [8, 8, 8]), 259: (3, [8]), 262: (3, [2]),
             277: (3, [3]), 278: (4, [SIDE])}  # fmt: skip
    runs = (b"\xff\0" * (SIDE // 255) + bytes([SIDE % 255, 0]) + b"\0\0") * SIDE + b"\0\1"
    return [
        Heavy(name="16 million.webp", taken=True,
        make=_saved("WEBP", 4_096, lossless=True, method=0, quality=0)),
        Heavy(name="16 million, lossy.webp", taken=True, make=_saved("WEBP", 4_096, method=0)),
        Heavy(name="64 million.webp", taken=False,
        make=_saved("WEBP", SIDE, lossless=True, method=0, quality=0)),
        Heavy(name="24 million.avif", taken=True, make=_saved("AVIF", 4_900, speed=10, max_threads=1)),
        Heavy(name="64 million.tif", taken=True, make=_saved("TIFF", SIDE, compression="tiff_lzw")),
        Heavy(name="64 million, light.tif", taken=True,
        make=_saved("TIFF", SIDE, "F", compression="tiff_lzw")),
        Heavy(name="64 million in one strip.tif", taken=False,
              make=_put(lambda: tiff(strip, zlib.compress(bytes(SIDE * SIDE * 3), 1)))),  # type: ignore[arg-type]
        Heavy(name="64 million.gif", taken=True, make=_saved("GIF", SIDE, "P")),
        Heavy(name="64 million, run lengths.bmp", taken=True,
              make=_put(lambda: bmp(SIDE, SIDE, 8, runs, bytes(1024), 1))),
    ]  # fmt: skip


def _written() -> list[Heavy]:
    """Captions and tables. Beside nothing, so none of them is taken."""

    def sparse(size: int) -> Callable[[Path], object]:
        def made(path: Path) -> None:
            with path.open("wb") as file:
                file.truncate(size)

        return made

    def told(text: str) -> Callable[[Path], object]:
        return lambda path: path.write_text(text)

    lists = "[" + "[]," * 6_000_000 + "[]]"
    return [
        Heavy(name="caption of 400 MB.txt", taken=False, make=sparse(400_000_000)),
        Heavy(name="metadata.jsonl", taken=False, make=sparse(450_000_000)),
        Heavy(name="captions.jsonl", taken=False, make=told(lists)),
        Heavy(name="metadata.csv", taken=False, make=told("file" + "," * 19_000_000)),
        Heavy(name="captions.csv", taken=False, make=told("file,caption\n" + '"\n",' * 4_000_000)),
        Heavy(name="METADATA.JSONL", taken=False, make=told('{"file":"' + "\U0001f600" * 4_900_000 + '"}')),
    ]


def _zips() -> list[Heavy]:
    def members(count: int, size: int, name: str = "a") -> Callable[[Path], object]:
        def made(path: Path) -> None:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for number in range(count):
                    archive.writestr(f"{name}{number}.png", bytes(size))

        return made

    def large_table(path: Path) -> None:
        row = json.dumps({"file": "a.png", "caption": "x" * 9000}) + "\n"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("metadata.jsonl", row * 50_000)

    return [
        Heavy(name="ten bombs of 200 MB.zip", taken=False, make=members(10, 200_000_000)),
        Heavy(name="four thousand long names.zip", taken=False, make=members(4_000, 9, "n" * 900)),
        Heavy(name="a table of 450 MB.zip", taken=False, make=large_table),
        Heavy(name="no zip of 400 MB.zip", taken=False, make=lambda path: _hole(path, 400_000_000)),
        Heavy(name="bomb beside a picture.zip", taken=True, make=_beside),
    ]


def _hole(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _beside(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(300_000_000))
        archive.writestr("good.png", saved(art("good beside a bomb"), "PNG"))
