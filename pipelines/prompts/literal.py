"""Text that has to be read as it stands."""

from __future__ import annotations

import re

from pipelines.errors import ConfigError
from pipelines.prompts.wildcards import resolve_wildcards

_SIGN = re.compile(r"[\\()\[\]{|}]")
_WORD = re.compile(r"\b([AB])(?=ND\b|REAK\b)")
_BRACE = re.compile(r"\\.|[{|}]", re.DOTALL)
_TAG = re.compile(r"<(?=(?:lora|lyco):)")


def literal(text: str) -> str:
    """Return a prompt that means `text` itself: its brackets, braces, tags and big words are only text.

    A backslash goes before each sign and into each word that the prompt language knows; it vanishes
    when the prompt is encoded.
    """
    return _TAG.sub(r"<\\", _WORD.sub(r"\1\\", _SIGN.sub(r"\\\g<0>", text)))


def without_choices(prompt: str) -> str:
    """Return a prompt of a program without wildcards, so that its braces mean as little here.

    It stays as it is where `resolve_wildcards` sees no choice in it.
    """
    try:
        if resolve_wildcards(prompt, 0) == prompt:
            return prompt
    except ConfigError:
        pass
    return _BRACE.sub(lambda found: found[0] if len(found[0]) == 2 else f"\\{found[0]}", prompt)
