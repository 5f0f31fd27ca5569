"""Ways to spoil a safetensors file, by its structure: each takes a file apart and puts it together wrong.

A way says whether a file so spoilt has to be refused, where that can be said for sure; else it may be read,
and what was read is looked at.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from tests.faults import model_files_ways as ways
from tests.faults.model_files_parts import HEADER, KINDS, MAY, NAMES, VALUES, WIDTHS, Parts, Way, taken_apart
from tests.faults.model_files_ways import spoil


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


WAYS: dict[str, tuple[Way, int]] = {
    "hostile name": (hostile_name, 6), "other name": (other_name, 8), "swapped names": (swapped_names, 4),
    "dropped": (dropped, 4), "doubled": (doubled, 4), "added": (added, 4), "other kind": (other_kind, 5),
    "other shape": (other_shape, 8), "other place": (other_place, 6), "swapped places": (swapped_places, 3),
    "other metadata": (ways.other_metadata, 8), "other words": (ways.other_words, 10), "cut": (ways.cut, 4),
    "extended": (ways.extended, 2), "flipped": (ways.flipped, 4), "not finite": (ways.not_finite, 6),
    "header bytes": (ways.header_bytes, 10), "header length": (ways.header_length, 2),
    "long header": (ways.long_header, 2),
    "tricks": (ways.tricks, 3), "blanks": (ways.blanks, 2),
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
