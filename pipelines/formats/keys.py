"""What every adapter form shares: names of parts, how a file's keys are sorted, odd files' marks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

from pipelines.errors import AdapterError
from pipelines.families import Family
from pipelines.methods import METHODS

DOWN = "down"
UP = "up"
ALPHA = "alpha"

TOKEN = "token"
"""Stands where a module's component would, for the key of a learned token: `token.<its name>`."""

_UNET_PATH = re.compile(
    r"(down_blocks|up_blocks|mid_block|conv_in|conv_out|conv_norm_out|time_embedding|add_embedding)(\.|$)"
)

# Endings of methods that no row of METHODS reads, so that a refusal can name them.
_OTHER_METHODS = {"hada_": "LoHa", "lokr_": "LoKr", "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA",
                  "oft_": "OFT", "boft_": "BOFT", "ia3_": "IA3", "on_input": "IA3", "vera_": "VeRA",
                  "lora_mid": "LoCon with Tucker decomposition", ".a1.weight": "GLoRA",
                  ".b1.weight": "GLoRA"}  # fmt: skip

ReadKey = Callable[[str, Family], tuple[str, str] | None]


@dataclass
class Parsed:
    """The keys of a file, sorted.

    parts: module → part name → key; learned tokens stand beside the modules as `token.<name>`, with the
    text encoders as their parts. unknown: keys left over. doubled: keys of a part that another key of
    the file names already.
    """

    parts: dict[str, dict[str, str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    @property
    def modules(self) -> dict[str, dict[str, str]]:
        """Part name → key by module, without tokens."""
        return {name: parts for name, parts in self.parts.items() if not name.startswith(f"{TOKEN}.")}

    @property
    def tokens(self) -> dict[str, dict[str, str]]:
        """Text encoder → key by token."""
        start = f"{TOKEN}."
        return {n.removeprefix(start): parts for n, parts in self.parts.items() if n.startswith(start)}


def sort_keys(keys: Iterable[str], family: Family, read_key: ReadKey) -> Parsed:
    """Sort a file's keys by module and part; nothing is left out: what isn't known is in `unknown`."""
    parsed = Parsed()
    for key in keys:
        found = read_key(key, family)
        if found is None:
            parsed.unknown.append(key)
            continue
        module, part = found
        parts = parsed.parts.setdefault(module, {})
        if part in parts:
            parsed.doubled.append(key)
        parts[part] = key
    return parsed


@cache
def lycoris_endings(forms: tuple[str, ...]) -> dict[str, str]:
    """Part name by key ending as kohya and LyCORIS spell it, of the methods that one of `forms` holds."""
    rows = [row for row in METHODS.values() if set(forms) & set(row.formats)]
    return {part.lycoris: part.name for row in rows for part in row.parts if part.lycoris} | {ALPHA: ALPHA}


@cache
def peft_endings(peft_type: str) -> dict[str, str]:
    """Part name by key ending as PEFT spells it, of the methods of one PEFT tuner."""
    rows = [row for row in METHODS.values() if row.peft_type == peft_type]
    found = {part.peft: part.name for row in rows for part in row.parts if part.peft}
    # PEFT's own state dicts leave ".weight" out of the names of bare parameters.
    return {ending.removesuffix(".weight"): name for ending, name in found.items()} | found | {ALPHA: ALPHA}


@cache
def ending_of(part: str, spelling: str) -> str:
    """Return the key ending of a part name; spelling: "lycoris" or "peft".

    Raises: AdapterError where that spelling has no such part.
    """
    if part == ALPHA:
        return ALPHA
    for row in METHODS.values():
        for known in row.parts:
            if known.name == part and getattr(known, spelling):
                return str(getattr(known, spelling))
    raise AdapterError(f"{spelling} files have no tensor for {part!r}; write it in the pigment form")


def plain_unet_path(path: str) -> str | None:
    """Return a UNet path if it begins like one of diffusers' names, else None."""
    return path if _UNET_PATH.match(path) else None


def other_method(keys: Iterable[str]) -> str | None:
    """Name the method that keys of an unsupported file belong to, or None."""
    for key in keys:
        if key.endswith((".diff", ".diff_b")):
            return "full-difference"
        for mark, method in _OTHER_METHODS.items():
            if mark in key:
                return method
    return None


def fraction(keys: Mapping[str, object], parsed: Parsed) -> str:
    """Say how many of the file's tensors were understood, for instance "62 of 64 tensors"."""
    return f"{len(keys) - len(parsed.unknown)} of {len(keys)} tensors"
