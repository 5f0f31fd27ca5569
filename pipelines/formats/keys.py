"""What every adapter form shares: the roles of a module's tensors, and how to tell odd files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipelines.families import Family

Role = Literal["down", "up", "alpha"]
DOWN: Role = "down"
UP: Role = "up"
ALPHA: Role = "alpha"

_UNET_PATH = re.compile(
    r"(down_blocks|up_blocks|mid_block|conv_in|conv_out|time_embedding|add_embedding)(\.|$)"
)

# Endings that belong to other methods, so that a refusal can name them.
_OTHER_METHODS = {"hada_": "LoHa", "lokr_": "LoKr", "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA",
                  "oft_": "OFT", "boft_": "BOFT", "ia3_": "IA3", "on_input": "IA3", "vera_": "VeRA",
                  "lora_mid": "LoCon with Tucker decomposition"}  # fmt: skip


@dataclass
class Parsed:
    """The keys of a file, sorted by module. parts: module → role → key. unknown: keys left over."""

    parts: dict[str, dict[Role, str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)


def sort_keys(
    keys: Iterable[str], family: Family, parse_key: Callable[[str, Family], tuple[str, Role] | None]
) -> Parsed:
    """Sort a file's keys by module and role; nothing is left out: what isn't known is in `unknown`."""
    parsed = Parsed()
    for key in keys:
        found = parse_key(key, family)
        if found is None:
            parsed.unknown.append(key)
            continue
        module, role = found
        roles = parsed.parts.setdefault(module, {})
        if role in roles:
            parsed.doubled.append(key)
        roles[role] = key
    return parsed


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


def fraction(shapes: Mapping[str, tuple[int, ...]], parsed: Parsed) -> str:
    """Say how many of the file's tensors were understood, for instance "62 of 64 tensors"."""
    known = len(shapes) - len(parsed.unknown)
    return f"{known} of {len(shapes)} tensors"
