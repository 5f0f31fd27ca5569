"""Ways to spoil a file by what it says of itself, its numbers, and its bytes."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

from tests.faults.model_files_parts import HEADER, MAY, NUMBERS, VALUES, WORDS, Parts


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
