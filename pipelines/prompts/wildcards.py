"""Choices in a prompt: `{red|green|blue}`, made by the seed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from fractions import Fraction

from pipelines.errors import ConfigError

_WEIGHT = re.compile(r"\s*(\d{1,6}(?:\.\d{1,6})?)::")
_SPECIAL = re.compile(r"\s*(?:[\d.+-]*::|[\d-]+\$\$)")
_PIECE = re.compile(r"\\.|[{|}]|[^\\{|}]+|\\", re.DOTALL)
_SHOWN = 40


@dataclass
class _Group:
    """An open brace: its number among all, and the pieces of its options so far."""

    number: int
    options: list[list[str]] = field(default_factory=lambda: [[]])

    def texts(self) -> list[str]:
        return ["".join(option) for option in self.options]


def resolve_wildcards(prompt: str, seed: int) -> str:
    """Put one of its options in the place of each `{a|b}`, the same for ever for a prompt and a seed.

    Groups nest; an option may be empty; `{3::a|b}` takes a three times as often as b; `\\{`, `\\|` and `\\}`
    are the signs themselves and stay as they are, since the backslash vanishes when the prompt is encoded.
    Braces without a bar, or without a partner, are text. Resolving a resolved prompt changes nothing. Each
    group's choice depends on the seed and on how many opening braces stand before it, on nothing else.

    Raises: ConfigError for a weight that isn't a number up to 999999, or where all weights are 0.
    """
    stack = [_Group(-1)]
    opened = 0
    for piece in _PIECE.findall(prompt):
        if piece == "{":
            stack.append(_Group(opened))
            opened += 1
        elif piece == "|" and len(stack) > 1:
            stack[-1].options.append([])
        elif piece == "}" and len(stack) > 1:
            group = stack.pop()
            texts = group.texts()
            one = len(texts) == 1
            stack[-1].options[-1].append(f"{{{texts[0]}}}" if one else _chosen(texts, seed, group.number))
        else:
            stack[-1].options[-1].append(piece)
    while len(stack) > 1:  # without a partner
        unclosed = stack.pop()
        stack[-1].options[-1].append("{" + "|".join(unclosed.texts()))
    return "".join(stack[0].options[0])


def _chosen(texts: list[str], seed: int, number: int) -> str:
    """Return the option that the seed draws."""
    weights, options = [], []
    for text in texts:
        found = _WEIGHT.match(text)
        if found is None and _SPECIAL.match(text):
            raise ConfigError(
                f"the prompt's choice {text[:_SHOWN]!r} begins with no weight that can be read; write "
                "{2::red|blue}, or put a backslash before its braces and bars"
            )
        weights.append(Fraction(found[1]) if found else Fraction(1))
        options.append(text[found.end() :] if found else text)
    total = sum(weights)
    if not total:
        raise ConfigError("a choice in the prompt has only weights of 0; give one option more than that")
    drawn = total * _share(seed, number)
    for option, weight in zip(options, weights, strict=True):
        if drawn < weight:
            return option
        drawn -= weight
    raise AssertionError("a share below 1 lies in some option")


def _share(seed: int, number: int) -> Fraction:
    """Return a number in [0, 1) of a seed and a group's number. Never change it: prompts rely on it."""
    digest = hashlib.sha256(f"wildcard {seed} {number}".encode()).digest()
    return Fraction(int.from_bytes(digest, "big"), 2 ** (8 * len(digest)))
