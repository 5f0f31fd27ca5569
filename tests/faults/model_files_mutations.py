"""Ways to spoil a safetensors file, by its structure: each takes a file apart and puts it together wrong.

A way says whether a file so spoilt has to be refused (`Must`), where that can be said for sure; else it may
be read, and what was read is looked at.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MAY, HEADER, NUMBERS = "may be read", "refused by its header", "refused by its numbers"
"""What has to come of a file: anything, or a refusal, which `inspect_adapter` must give as well or not."""

WORDS = ("lora", "<b>x</b>", "../../etc/x", "a\nb", "", "\0", "é\u202eabc", "\ud800", "1e999", "NaN", "-0",
         "true", "null", "[]", "{}", "[" * 900, "9" * 5000, "%s%n", "a" * 5000, "\U0001f600",
         "sdxl_base_v1-0", "stable-diffusion-v2-768-v/lora", "Flux.1-dev/lora", "text_encoder_2", "unet",
         "token", "alpha")  # fmt: skip
VALUES: tuple[Any, ...] = (None, True, False, 0, -1, 1, 2, 3, 4, 7, 32, 2**31, 2**53, 2**62, 2**63, -(2**63),
                           10**30, 10**4000, 0.5, 1e308, float("nan"), float("inf"), [], {}, [1], [[1]],
                           {"a": 1}, *WORDS)  # fmt: skip
"""What stands for anything that JSON can say."""
NAMES = ("<a/b>", "<a\nb>", "<a\0b>", "<..>", "../x", "/etc/x", "C:\\x", "a\u202eb", f"<{'a' * 300}>", "",
         "\ud800", "<\ud800>", "<a\tb>", "<\x1b[31m>", "a..b", "~", "$(x)", "`x`", "<a;b>", "<'>",
         '<">')  # fmt: skip
"""Names that no tensor may have."""
KINDS = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F3", "", "f32", "F32 ", "\ud800")
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}


@dataclass
class Parts:
    """A safetensors file taken apart.

    entries: by tensor, as the header has them. metadata: as the header has them. data: the tensors' bytes.
    raw: the header's bytes where they were spoilt as bytes, else None. length: what the file says of its
    header's length, None: the truth. tail: bytes cut from the end where negative, else put there.
    """

    entries: dict[str, Any]
    metadata: Any
    data: bytearray
    raw: bytes | None = None
    length: int | None = None
    tail: int = 0

    def header(self) -> bytes:
        """The header's bytes, unless `raw` stands for them."""
        if self.raw is not None:
            return self.raw
        stated = {} if self.metadata is None else {"__metadata__": self.metadata}
        return json.dumps({**stated, **self.entries}).encode()

    def file(self) -> bytes:
        """The file."""
        raw = self.header()
        whole = (
            struct.pack("<Q", (len(raw) if self.length is None else self.length) % 2**64) + raw + self.data
        )
        return whole[: self.tail] if self.tail < 0 else whole + b"\0" * self.tail

    def state_hash(self) -> None:
        """Let the file state the hash of the numbers that it has now."""
        if isinstance(self.metadata, dict) and "modelspec.hash_sha256" in self.metadata:
            digest = hashlib.sha256(self.data).hexdigest()
            self.metadata |= {"modelspec.hash_sha256": f"0x{digest}", "sshs_model_hash": digest}


def taken_apart(raw: bytes) -> Parts:
    """A sound file's parts."""
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    return Parts(
        entries={key: value for key, value in header.items() if key != "__metadata__"},
        metadata=header.get("__metadata__"), data=bytearray(raw[8 + length :]),
    )  # fmt: skip


Way = Callable[[Parts, random.Random], str]
"""Spoils the parts; returns what has to come of it."""


def _some(parts: Parts, chance: random.Random) -> str:
    return chance.choice(list(parts.entries))


def _renamed(parts: Parts, old: str, new: str) -> None:
    parts.entries = {new if key == old else key: value for key, value in parts.entries.items()}


def hostile_name(parts: Parts, chance: random.Random) -> str:
    """A name that no tensor may have."""
    _renamed(parts, _some(parts, chance), chance.choice(NAMES))
    return HEADER


def other_name(parts: Parts, chance: random.Random) -> str:
    """A name with a letter, a number or a piece changed, doubled or left out."""
    key = _some(parts, chance)
    at, pieces = chance.randrange(len(key)), key.split(".")
    piece = chance.randrange(len(pieces))
    spoilt = (
        key[:at] + chance.choice("abc019_.<>*-Ω") + key[at + 1 :],
        key[:at] + key[at + 1 :],
        key + chance.choice((".alpha", ".weight", "_a", ".", "0")),
        ".".join([*pieces[:piece], *pieces[piece + 1 :]]),
        ".".join([*pieces[:piece], pieces[piece], *pieces[piece:]]),
        ".".join(chance.sample(pieces, len(pieces))),
        chance.choice(("lora_unet_", "lora_te1_", "unet.", "text_encoder.", "transformer.", "tokens.0."))
        + key,
        key.replace("0", chance.choice(("1", "9", "00", "-1", "99999999999999999999"))),
        chance.choice(("<cat>", "emb_params", "clip_l", "bundle_emb.x.string_to_param.*", "__metadata__ ")),
    )  # fmt: skip
    new = chance.choice(spoilt)
    if new not in parts.entries:
        _renamed(parts, key, new)
    return MAY


def swapped_names(parts: Parts, chance: random.Random) -> str:
    """Two tensors with each other's names."""
    first, second = _some(parts, chance), _some(parts, chance)
    swap = {first: second, second: first}
    parts.entries = {swap.get(key, key): value for key, value in parts.entries.items()}
    return MAY


def dropped(parts: Parts, chance: random.Random) -> str:
    """A tensor gone, with its bytes or without."""
    entry = parts.entries.pop(_some(parts, chance))
    begin, end = entry["data_offsets"]
    if chance.random() < 0.3:
        return HEADER if end > begin else MAY
    del parts.data[begin:end]
    for other in parts.entries.values():
        if other["data_offsets"][0] >= end:
            other["data_offsets"] = [place - (end - begin) for place in other["data_offsets"]]
    parts.state_hash()
    return MAY if parts.entries else HEADER


def doubled(parts: Parts, chance: random.Random) -> str:
    """A tensor's key twice in the header."""
    key = _some(parts, chance)
    text = parts.header().decode()
    at = text.rindex("}")
    parts.raw = f"{text[:at]}, {json.dumps(key)}: {json.dumps(parts.entries[key])}}}".encode()
    return HEADER


def added(parts: Parts, chance: random.Random) -> str:
    """Tensors that weren't there, up to very many empty ones."""
    count = chance.choice((1, 1, 1, 3, 40, 20_001 if chance.random() < 0.02 else 2))
    end = len(parts.data)
    shape, kind, size = chance.choice((([0], "F32", 0), ([1], "F32", 4), ([], "F32", 4), ([2, 3], "F16", 12)))
    stem = chance.choice(("x", "alpha", _some(parts, chance)))
    for number in range(count):
        parts.entries[f"{stem}{number}"] = {
            "dtype": kind,
            "shape": list(shape),
            "data_offsets": [end, end + size],
        }
        parts.data += b"\0" * size
        end += size
    parts.state_hash()
    return HEADER if count > 20_000 else MAY


def other_kind(parts: Parts, chance: random.Random) -> str:
    """Another kind of numbers, with the bytes that it needs or not."""
    entry = parts.entries[_some(parts, chance)]
    before = entry["dtype"]
    entry["dtype"] = chance.choice(KINDS if chance.random() < 0.8 else VALUES)
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in WIDTHS:
        return HEADER
    if WIDTHS[entry["dtype"]] != WIDTHS[before]:
        return HEADER if entry["data_offsets"][1] > entry["data_offsets"][0] else MAY
    return MAY


def other_shape(parts: Parts, chance: random.Random) -> str:
    """Another shape, of as many numbers or not."""
    entry = parts.entries[_some(parts, chance)]
    shape: list[Any] = list(entry["shape"])
    spoilt: list[Any] = [
        shape[::-1], [1, *shape], [*shape, 1], [*shape, 1, 1], shape[1:], [sum(shape)], chance.choice(VALUES),
        [*shape, chance.choice(VALUES)], [2**61, *shape], [0, 2**61], [1] * 9, [1] * 40,
    ]  # fmt: skip
    if shape:
        at = chance.randrange(len(shape))
        spoilt.append([*shape[:at], chance.choice(VALUES), *shape[at + 1 :]])
        spoilt.append([shape[at] // 2, 2, *shape[at + 1 :]])
    entry["shape"] = chance.choice(spoilt)
    return MAY


def other_place(parts: Parts, chance: random.Random) -> str:
    """Another place of its bytes: moved, overlapping, inverted, far out, no numbers."""
    entry = parts.entries[_some(parts, chance)]
    begin, end = entry["data_offsets"]
    by = chance.choice((1, 2, 4, 64, -1, -4, 2**40, 2**63))
    entry["data_offsets"] = chance.choice(
        ([begin + by, end + by], [begin, end + by], [begin - by, end], [end, begin], [begin],
         [begin, end, end], chance.choice(VALUES), [chance.choice(VALUES), chance.choice(VALUES)],
         [float(begin), float(end)])
    )  # fmt: skip
    found = entry["data_offsets"]
    same = found == [begin, end] and all(type(one) is int for one in found)
    return MAY if same or begin == end else HEADER


def swapped_places(parts: Parts, chance: random.Random) -> str:
    """Two tensors with each other's bytes."""
    first, second = (parts.entries[_some(parts, chance)] for _ in range(2))
    first["data_offsets"], second["data_offsets"] = second["data_offsets"], first["data_offsets"]
    return MAY


def other_metadata(parts: Parts, chance: random.Random) -> str:
    """A value of the metadata that is something else, or no text at all."""
    if not isinstance(parts.metadata, dict) or chance.random() < 0.05:
        parts.metadata = chance.choice(VALUES)
        return MAY
    names = [*parts.metadata, "lora_adapter_metadata", "ss_network_alpha", "ss_base_model_version", "pigment",
             "modelspec.architecture", "modelspec.title", "ss_output_name", "modelspec.trigger_phrase",
             "modelspec.thumbnail"]  # fmt: skip
    name = chance.choice(names)
    if chance.random() < 0.3:
        value = chance.choice(VALUES)
        parts.metadata[name] = value
        return MAY if isinstance(value, str) else HEADER
    if chance.random() < 0.2:
        parts.metadata = {}
        return MAY
    parts.metadata[name] = chance.choice((*WORDS, json.dumps({"unet.lora_alpha": chance.choice(VALUES)})))
    return MAY


def other_words(parts: Parts, chance: random.Random) -> str:
    """What the `pigment` JSON says, with one thing in it something else."""
    if not isinstance(parts.metadata, dict) or "pigment" not in parts.metadata:
        return other_metadata(parts, chance)
    about = json.loads(parts.metadata["pigment"])
    spoil(about, chance)
    if chance.random() < 0.1:
        about = [about]
    parts.metadata["pigment"] = json.dumps(about, ensure_ascii=chance.random() < 0.5)
    return MAY


def spoil(value: Any, chance: random.Random) -> None:
    """Put anything in the place of one value, somewhere in a JSON object or list."""
    while isinstance(value, dict | list) and value:
        at = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if isinstance(value[at], dict | list) and value[at] and chance.random() < 0.8:
            value = value[at]
            continue
        if chance.random() < 0.2:
            del value[at]
        else:
            value[at] = chance.choice(VALUES)
        return


def cut(parts: Parts, chance: random.Random) -> str:
    """The file's end missing."""
    parts.tail = -chance.choice((1, 2, 4, chance.randrange(1, len(parts.file()))))
    return HEADER


def extended(parts: Parts, chance: random.Random) -> str:
    """More bytes after the tensors."""
    parts.tail = chance.choice((1, 8, 4096))
    return HEADER


def flipped(parts: Parts, chance: random.Random) -> str:
    """One bit of the numbers."""
    if not parts.data:
        return MAY
    parts.data[chance.randrange(len(parts.data))] ^= 1 << chance.randrange(8)
    return NUMBERS if isinstance(parts.metadata, dict) and "pigment" in parts.metadata else MAY


def not_finite(parts: Parts, chance: random.Random) -> str:
    """A number that is none, with the hash that belongs to it."""
    kinds = {"F32": (4, "<f"), "F16": (2, "<e"), "F64": (8, "<d")}
    floats = [one for one in parts.entries.values() if one["dtype"] in kinds and one["data_offsets"][1]]
    floats = [one for one in floats if one["data_offsets"][1] > one["data_offsets"][0]]
    if not floats:
        return MAY
    entry = chance.choice(floats)
    width, spelled = kinds[entry["dtype"]]
    begin, end = entry["data_offsets"]
    at = begin + width * chance.randrange((end - begin) // width)
    value = chance.choice((float("nan"), float("inf"), -float("inf")))
    parts.data[at : at + width] = struct.pack(spelled, value)
    parts.state_hash()
    return NUMBERS


def header_bytes(parts: Parts, chance: random.Random) -> str:
    """Bytes of the header changed, put in or left out; its length as before or as it is."""
    raw = bytearray(parts.header())
    length = len(raw)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        at = chance.randrange(len(raw))
        change = chance.randrange(3)
        if change == 0:
            raw[at] = chance.randrange(256)
        elif change == 1:
            raw[at:at] = bytes([chance.choice(b'"{}[],:\\ 0e-\xff\x00')])
        else:
            del raw[at]
    parts.raw = bytes(raw)
    parts.length = None if chance.random() < 0.8 else length
    return MAY


def header_length(parts: Parts, chance: random.Random) -> str:
    """Another length of the header than it has."""
    true = len(parts.header())
    by = chance.choice((-1, 1, -8, 8))
    parts.length = chance.choice((0, 1, true + by, 2**20, 10**6, 10**6 + 1, 2**31, 2**32, 2**63, 2**64 - 1))
    return HEADER


def long_header(parts: Parts, chance: random.Random) -> str:
    """More than a megabyte of header: blanks, or a text in the metadata."""
    if chance.random() < 0.5 or not isinstance(parts.metadata, dict):
        parts.raw = parts.header() + b" " * 1_000_000
    else:
        parts.metadata["modelspec.thumbnail"] = "A" * 1_000_001
    return HEADER


def tricks(parts: Parts, chance: random.Random) -> str:
    """JSON that isn't plain: deep, with a mark before it, in another encoding, something behind it."""
    raw = parts.header()
    spoilt = (
        b"\xef\xbb\xbf" + raw, raw + b"{}", raw.decode().encode("utf-16"), b"[" * 100_000, b"{" * 1000,
        b'{"a":' * 30_000 + b"1" + b"}" * 30_000, raw[:-1], raw.replace(b'"', b"'"), b"[" + raw + b"]",
        b"null", b"", raw[:-1] + b",}", b"/*x*/" + raw, raw[:-1] + b', "x": NaN}', b"\0" + raw,
        raw[:-1] + b', "x": ' + b"9" * 100_000 + b"}", raw[:-1] + b', "x": 1e99999}',
    )  # fmt: skip
    parts.raw = chance.choice(spoilt)
    return HEADER


def blanks(parts: Parts, chance: random.Random) -> str:
    """The same file with blanks in its header: it stays what it is."""
    raw = json.dumps(json.loads(parts.header()), indent=chance.choice((0, 1, 4)))
    parts.raw = (" " * chance.randrange(9) + raw + "\n" * chance.randrange(9)).encode()
    return MAY


WAYS: dict[str, tuple[Way, int]] = {
    "hostile name": (hostile_name, 6), "other name": (other_name, 8), "swapped names": (swapped_names, 4),
    "dropped": (dropped, 4), "doubled": (doubled, 4), "added": (added, 4), "other kind": (other_kind, 5),
    "other shape": (other_shape, 8), "other place": (other_place, 6), "swapped places": (swapped_places, 3),
    "other metadata": (other_metadata, 8), "other words": (other_words, 10), "cut": (cut, 4),
    "extended": (extended, 2), "flipped": (flipped, 4), "not finite": (not_finite, 6),
    "header bytes": (header_bytes, 10), "header length": (header_length, 2), "long header": (long_header, 2),
    "tricks": (tricks, 3), "blanks": (blanks, 2),
}  # fmt: skip
"""By name, with how often each is taken beside the others."""

LAST = ("doubled", "header bytes", "long header", "tricks", "blanks", "header length", "cut", "extended")
"""Ways that work on the header's bytes: nothing can come after them."""


def mutated(raw: bytes, chance: random.Random) -> tuple[bytes, str, str]:
    """A sound file spoilt in one to three ways: its bytes, what was done, what has to come of it."""
    parts, done, must = taken_apart(raw), [], MAY
    for _ in range(chance.choice((1, 1, 2, 3))):
        name = chance.choices(list(WAYS), [weight for _, weight in WAYS.values()])[0]
        try:
            found = WAYS[name][0](parts, chance)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
            continue  # what an earlier way left can't be spoilt in this one
        done.append(name)
        must = found if len(done) == 1 else MAY  # what was wrong may be right again by the next
        if name in LAST or not parts.entries:
            break
    return parts.file(), " + ".join(done) or "nothing", must


def mutated_json(raw: bytes, chance: random.Random) -> tuple[bytes, str]:
    """A JSON file spoilt: one thing in it something else, or its bytes."""
    if chance.random() < 0.7:
        value: Mapping[str, Any] = json.loads(raw)
        spoil(value, chance)
        return json.dumps(value).encode(), "a value"
    spoilt = bytearray(raw)
    spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
    return bytes(spoilt if chance.random() < 0.7 else spoilt[: chance.randrange(len(spoilt))]), "bytes"
