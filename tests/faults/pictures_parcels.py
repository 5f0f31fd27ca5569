"""Zips, names and captions as attackers and careless tools make them, and what should become of them."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.faults.pictures_made import art, saved

LONG = "x" * 400
HOSTILE = {
    "../../../up.png": "up.png", "..\\..\\up too.png": "up too.png", "/etc/cron.d/abs.png": "abs.png",
    "C:\\Windows\\win.png": "win.png", "\\\\host\\share\\unc.png": "unc.png", "a/../../b.png": "b.png",
    "<img src=x onerror=alert(1)>.png": "<img src=x onerror=alert(1)>.png",
    "'; DROP TABLE pictures; --.png": "'; DROP TABLE pictures; --.png",
    "%2e%2e%2fdots.png": "%2e%2e%2fdots.png",
    "two\nlines\r\n.png": "two lines .png", "bell\x07 and \x1b[31mred.png": "bell and [31mred.png",
    "gnp.\u202etxt.exe\u202c.png": "gnp.txt.exe.png", "\u2067turned.png": "turned.png",
    f"{LONG}.png": f"{'x' * 250}….png", f"{'猫' * 300}.png": f"{'猫' * 250}….png", "CON.png": "CON.png",
    "aux": "aux",
    "nul.png": "nul.png", "con .png": "con .png", "-rf.png": "-rf.png", "~.png": "~.png", " .png": ".png",
    "$(touch x).png": "$(touch x).png", "`x`.png": "`x`.png", "e\u0301.png": "e\u0301.png",
    "\U0001f40b.png": "\U0001f40b.png", "\ud800.png": ".png", "zero\u200bwidth.png": "zero\u200bwidth.png",
    "...": "...", "a.png.png": "a.png.png", "no end.": "no end.", "{0}%s%n.png": "{0}%s%n.png",
}  # fmt: skip
"""Names of files, and what they should be shown as."""
TOO_LONG = "is longer than 10000 bytes; shorten it"
NOT_TEXT = "isn't UTF-8 text; save it again as UTF-8"
CAPTIONS: dict[str, tuple[bytes, str, str]] = {
    "bom": (b"\xef\xbb\xbfa red  fox", "a red fox", ""),
    "lines": (b"a fox\r\nin\tthe snow\n\n", "a fox in the snow", ""),
    "html": (b"<script>alert(1)</script>", "<script>alert(1)</script>", ""),
    "nothing": (b"", "", ""),
    "space": (b" \n\t ", "", ""),
    "zeros": (b"a\0fox\x1b[2J", "afox[2J", ""),
    "turned": ("a \u202exof\u202c".encode(), "a xof", ""),
    "the longest": (b"y" * 10_000, "y" * 10_000, ""),
    "too long": (b"y" * 10_001, "", TOO_LONG),
    "ten MB": (b"y" * 10_000_000, "", TOO_LONG),
    "latin": ("Füchse".encode("latin-1"), "", NOT_TEXT),
    "utf-16": ("a fox".encode("utf-16"), "", NOT_TEXT),
    "broken": (b"a \xc3", "", NOT_TEXT),
    "binary": (bytes(range(256)), "", NOT_TEXT),
}
"""Beside a picture: the file, what the caption should be, or why it is refused."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Files that are dropped together.

    Attributes:
        files: contents by name. taken: captions of the pictures that should be there, by the names that are
            to be shown. refused: patterns of reasons by the names that stand in front of them.
    """

    name: str
    files: Mapping[str, Callable[[], bytes]]
    taken: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


FIRST = ("name up.png", "ratio", "4001 files", "caption too long", "link")
"""One for each safeguard, so that few are enough where one is taken away."""


def parcels() -> list[Parcel]:
    """All of them."""
    found = [*_names(), *_captions(), *_tables(), *_zips(), *_broken_zips(), *_bombs()]
    mixed = [one for number in range(7) for one in found[number::7]]
    return sorted(mixed, key=lambda one: one.name not in FIRST)


def png(name: str) -> bytes:
    """A picture that no other parcel has."""
    return saved(art(f"in a parcel: {name!r}", 12, 9), "PNG")


def zipped(members: Mapping[str | zipfile.ZipInfo, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of these members."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def _names() -> Iterator[Parcel]:
    for number, (name, shown) in enumerate(HOSTILE.items()):
        yield Parcel(name=f"name {shown[:40]}", files={name: lambda n=name: png(n)}, taken={shown: ""})
        if "\ud800" in name or "\0" in name:
            continue
        inside = f"inside {number}.zip"

        def made(name: str = name) -> bytes:
            return zipped({_info(name): png(f"zip {name}"), "good.png": png(f"good {name}")})

        hidden = any(part.startswith(".") and part.strip(".") for part in name.replace("\\", "/").split("/"))
        there = {} if hidden or not shown.strip(". ") else {shown: ""}
        yield Parcel(
            name=f"name in a zip {shown[:40]}", files={inside: made}, taken={"good.png": "", **there}
        )


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename = name
    return info


def _captions() -> Iterator[Parcel]:
    for name, (content, caption, reason) in CAPTIONS.items():
        files = {f"{name}.png": lambda n=name: png(n), f"{name}.txt": lambda c=content: c}
        refused = {f"{name}.txt": reason} if reason else {}
        yield Parcel(name=f"caption {name}", files=files, taken={f"{name}.png": caption}, refused=refused)
    yield Parcel(
        name="caption of nothing",
        files={"nobody.txt": lambda: b"x"},
        refused={"nobody.txt": "has no picture of its name"},
    )


def _tables() -> Iterator[Parcel]:
    rows = {
        "deep": (b'{"file": "t.png", "text": ' + b"[" * 90_000, "isn't JSON|longer than"),
        "no such picture": (b'{"file": "../../etc/passwd", "text": "x"}', "no picture '../../etc/passwd'"),
        "no object": (b"[1, 2]", "isn't an object"),
        "text of numbers": (b'{"file": "t.png", "text": 7}', "the caption is int"),
        "latin": ('{"file": "t.png", "text": "Füchse"}'.encode("latin-1"), "isn't UTF-8"),
        "zeros": (bytes(50_000), "isn't JSON"),
        "too long": (b'{"file": "t.png", "text": "' + b"y" * 10_001 + b'"}', "longer than 10000 bytes"),
    }  # fmt: skip
    for name, (content, reason) in rows.items():
        files = {"t.png": lambda n=name: png(f"table {n}"), "metadata.jsonl": lambda c=content: c}
        yield Parcel(
            name=f"table {name}", files=files, taken={"t.png": ""}, refused={"metadata.jsonl": reason}
        )


def _zips() -> Iterator[Parcel]:
    good = "good.png"

    def one(name: str, members: Mapping[Any, bytes], refused: Mapping[str, str], caption: str = "") -> Parcel:
        content = {**members, good: png(f"zip {name}")}
        lines = {f"{name}.zip/{member}": reason for member, reason in refused.items()}
        return Parcel(
            name=name, files={f"{name}.zip": lambda: zipped(content)}, taken={good: caption}, refused=lines
        )

    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    yield one("link", {link: b"/etc/passwd"}, {"link.png": "is a link and no file"})
    yield one("zip in a zip", {"in.zip": zipped({"a.png": png("in")})}, {"in.zip": "is a zip in a zip"})
    yield one("zip as a picture", {"in.png": zipped({"a.png": png("in2")})}, {"in.png": "isn't a picture"})
    yield one("cut picture", {"cut.png": png("cut")[:60]}, {"cut.png": "is damaged|isn't a picture"})
    yield one(
        "pickle",
        {"a.ckpt": b"\x80\x04.", "b.png": b"\x80\x04."},
        {"a.ckpt": "is a model", "b.png": "isn't a picture"},
    )
    yield one(
        "hidden", {"__MACOSX/._a.png": b"x", ".DS_Store": b"x", "Thumbs.db": b"x", ".git/a.png": b"x"}, {}
    )
    words = {"good.txt": b"\xef\xbb\xbfa fox", "bad.txt": b"\xff"}
    yield one("words", words, {"bad.txt": "has no picture of its name"}, "a fox")
    yield Parcel(
        name="lzma",
        files={"lzma.zip": lambda: zipped({"a.png": png("lzma")}, zipfile.ZIP_LZMA)},
        refused={"lzma.zip/a.png": "is packed in a way that isn't read"},
    )


def _broken_zips() -> Iterator[Parcel]:
    whole = zipped({"a.png": png("whole a"), "b.png": png("whole b"), "c.txt": b"x" * 500})
    central = whole.index(b"PK\x01\x02")
    end = whole.rindex(b"PK\x05\x06")

    def locked() -> bytes:
        content = bytearray(zipped({"a.png": png("locked")}))
        content[content.index(b"PK\x01\x02") + 8] |= 1
        return bytes(content)

    def wrong_sum() -> bytes:
        content = bytearray(zipped({"a.png": png("sum"), "b.png": png("sum b")}, zipfile.ZIP_STORED))
        content[60] ^= 1
        return bytes(content)

    damaged = "is damaged"
    for name, content in {
        "half": lambda: whole[: len(whole) // 2], "no end": lambda: whole[:end],
        "end alone": lambda: whole[end:],
        "no zip": lambda: b"x" * 999, "empty": lambda: b"", "one byte": lambda: b"P",
        "list gone": lambda: whole[:central] + bytes(end - central) + whole[end:],
        "far away": lambda: whole[: end + 16] + struct.pack("<I", 2**31) + whole[end + 20 :],
    }.items():  # fmt: skip
        yield Parcel(
            name=f"zip {name}", files={f"{name}.zip": content}, refused={f"{name}.zip": f"{damaged}|is empty"}
        )
    yield Parcel(name="locked", files={"l.zip": locked}, refused={"l.zip/a.png": "is locked with a password"})
    yield Parcel(
        name="wrong sum", files={"w.zip": wrong_sum}, refused={"w.zip/a.png": damaged}, taken={"b.png": ""}
    )
    yield Parcel(name="empty zip", files={"e.zip": lambda: zipped({})})
    yield Parcel(name="folders", files={"f.zip": lambda: zipped({"a/": b"", "a/b/": b""})})
    yield Parcel(
        name="program in front",
        files={"p.zip": lambda: b"MZ" * 500 + zipped({"a.png": png("pr")})},
        taken={"a.png": ""},
    )


def _bombs() -> Iterator[Parcel]:
    good = {"good.png": png("good beside bombs")}
    ratio = "unpacks to over 100 times its size, as bombs do"
    yield Parcel(
        name="ratio",
        files={"r.zip": lambda: zipped({"bomb.png": bytes(40 << 20), "good.png": png("ratio")})},
        taken={"good.png": ""}, refused={"r.zip/bomb.png": ratio},
    )  # fmt: skip
    yield Parcel(
        name="4001 files",
        files={"m.zip": lambda: zipped({f"{n}.png": b"" for n in range(4001)}), **_files(good)},
        taken={"good.png": ""}, refused={"m.zip": "has more than 4000 files|has 4001 files"},
    )  # fmt: skip

    def few_said() -> bytes:
        content = bytearray(zipped({f"{n}.png": b"" for n in range(4001)}))
        at = content.rindex(b"PK\x05\x06")
        content[at + 8 : at + 12] = struct.pack("<HH", 3, 3)
        return bytes(content)

    yield Parcel(name="4001 that say 3", files={"s.zip": few_said}, refused={"s.zip": "4000|is damaged"})

    def overlapping() -> bytes:
        """300 entries of the list are one file of 1 MB: 300 MB of 1."""
        content = zipped({"0.png": bytes(range(256)) * 4096}, zipfile.ZIP_STORED)
        central, end = content.index(b"PK\x01\x02"), content.rindex(b"PK\x05\x06")
        entry = content[central:end]
        tail = bytearray(content[end:])
        tail[8:16] = struct.pack("<HHI", 300, 300, 300 * len(entry))
        return content[:central] + entry * 300 + bytes(tail)

    yield Parcel(name="overlapping", files={"o.zip": overlapping}, refused={"o.zip": "overlap|is damaged"})


def _files(contents: Mapping[str, bytes]) -> dict[str, Callable[[], bytes]]:
    return {name: (lambda c=content: c) for name, content in contents.items()}
