"""Learned tokens (textual inversion): the file that A1111, Forge, ComfyUI and InvokeAI read.

SD 1.x and 2.x: one tensor `emb_params` (n, width); SDXL: `clip_l` and `clip_g`. The token is the
file's name there; files written here state it in their metadata too. diffusers' own files have the
token itself as the key (`<cat>`); they are read as well, for families with one text encoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from pipelines.adapter import AnyFactors
from pipelines.errors import AdapterError
from pipelines.families import FAMILIES, Family
from pipelines.formats.container import Entry
from pipelines.formats.keys import TOKEN

SELF = "*"
"""Stands for the token in keys that don't name it."""

_BRACKETED = re.compile(r"<[^<>]+>")
_OTHER_FORMS = ("lora_", "lycoris_", "unet", "text_encoder", "transformer", "base_model")


def read_key(key: str, family: Family) -> tuple[str, str] | None:
    """Return `token.<name>` and the text encoder of a key, or None where it is none.

    A bare word as a key is a token only where `plausible` says so of the whole file.
    """
    for encoder in family.text_encoders:
        if key == encoder.embedding_key:
            return f"{TOKEN}.{SELF}", encoder.component
    if key in _fixed():
        return None
    bare = "." not in key and not key.startswith(_OTHER_FORMS)
    if len(family.text_encoders) == 1 and (bare or _BRACKETED.fullmatch(key)):
        return f"{TOKEN}.{key}", family.text_encoders[0].component
    return None


def plausible(entries: Mapping[str, Entry]) -> bool:
    """Whether tensors of these shapes can be tokens: few, at most two axes, of a known width or bracketed."""
    return len(entries) <= 64 and all(
        len(entry.shape) in (1, 2) and (known_key(key) or entry.shape[-1] in _widths())
        for key, entry in entries.items()
    )


def known_key(key: str) -> bool:
    """Whether a key can only be a token's: a form's fixed name, or a word in angle brackets."""
    return key in _fixed() or _BRACKETED.fullmatch(key) is not None


@cache
def _fixed() -> frozenset[str]:
    return frozenset(enc.embedding_key for row in FAMILIES.values() for enc in row.text_encoders)


@cache
def _widths() -> frozenset[int]:
    """Widths of the text encoders of families that have one: the text's own width there."""
    single = (row for row in FAMILIES.values() if len(row.text_encoders) == 1)
    return frozenset(width for row in single for width in row.context_widths)


def write_key(module: str, part: str, family: Family) -> str:
    """Return the key of a token's vectors; part: the text encoder they are for."""
    for encoder in family.text_encoders:
        if encoder.component == part:
            return encoder.embedding_key
    raise AdapterError(f"{family.label} has no text encoder {part!r}")


def keep(factors: Mapping[str, AnyFactors]) -> dict[str, AnyFactors]:
    """This form has no modules."""
    return {}
