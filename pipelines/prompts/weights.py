"""Brackets and BREAK in a prompt: which words count how much."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.errors import ConfigError

ROUND = 1.1
SQUARE = 1 / 1.1
LARGEST = 100.0
"""Largest weight: beyond it a picture is noise, and half precision overflows."""

Segments = list[list[tuple[str, float]]]
"""Per BREAK, the texts and their weights."""

_PIECE = re.compile(
    r"(?P<escaped>\\[()\[\]\\]?)|(?P<open>[(\[])|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|(?P<close>[)\]])"
    r"|(?P<text>[^\\()\[\]:]+|:)"
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_AND = re.compile(r"\bAND\b")
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_SHOWN = 40


def parse_weights(prompt: str) -> Segments:
    """Return the prompt's texts with their weights, one list per part between BREAKs.

    Neighbours of equal weight are one text, so that a prompt without brackets is tokenized as it stands.
    A backslash before anything but a bracket or a backslash vanishes.

    Raises: ConfigError for a weight that is no number, or that comes to more than `LARGEST`.
    Source: A1111 web UI, `modules/prompt_parser.py`, whose rules these are. Deviation: a BREAK within
    brackets is one, not a word.
    """
    import numpy as np

    texts: list[str | None] = []  # None: a BREAK
    ranges: list[tuple[int, int, float]] = []  # first, end, factor, in the order in which brackets close
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for found in _PIECE.finditer(prompt):
        kind, piece = found.lastgroup, found[0]
        if kind == "escaped":
            texts.append(piece[1:])
        elif kind == "open":
            opened[piece].append(len(texts))
        elif kind == "weight" and opened["("]:
            ranges.append((opened["("].pop(), len(texts), _number(found["weight"])))
        elif piece == ")" and opened["("]:
            ranges.append((opened["("].pop(), len(texts), ROUND))
        elif piece == "]" and opened["["]:
            ranges.append((opened["["].pop(), len(texts), SQUARE))
        else:
            for index, part in enumerate(_BREAK.split(piece)):
                texts.extend([None, part] if index else [part])
    ranges += [(first, len(texts), ROUND) for first in opened["("]]
    ranges += [(first, len(texts), SQUARE) for first in opened["["]]
    weights = np.ones(len(texts))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for first, end, factor in ranges:
            weights[first:end] *= factor
    worst = max((abs(weight) for weight in weights.tolist()), default=0.0)
    if not worst <= LARGEST:
        raise ConfigError(
            f"the prompt's brackets come to a weight of {worst:.3g}, expected at most {LARGEST:g}; use fewer"
        )
    return _merged(texts, weights.tolist())


def _merged(texts: list[str | None], weights: list[float]) -> Segments:
    """Join neighbours of equal weight, and part at the BREAKs (None)."""
    segments: Segments = [[]]
    joined: list[str] = []
    for index, (text, weight) in enumerate(zip(texts, weights, strict=True)):
        if text is None:
            segments.append([])
            continue
        joined.append(text)
        last = index + 1 == len(texts) or texts[index + 1] is None or weights[index + 1] != weight
        if last:
            segments[-1].append(("".join(joined), weight))
            joined = []
    return segments


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"the prompt's weight {text[:_SHOWN]!r} isn't a number; write (words:1.2), or \\( and \\) for "
            "brackets themselves"
        ) from None


@dataclass
class _Open:
    """An open bracket: its kind, where its inside begins, and what stood right in it."""

    kind: str
    start: int
    colons: int = 0
    bars: int = 0


def refuse_unsupported(prompt: str, *, negative: bool = False) -> None:
    """Refuse what A1111 reads as another prompt at some steps, or as several prompts.

    negative: it is a negative prompt, in which A1111 takes AND for a word.
    Raises: ConfigError that quotes the place and says how to write it otherwise.
    """
    if not negative and _AND.search(prompt):
        raise ConfigError(
            "the prompt holds AND, which composes pictures in A1111 and isn't supported; write 'and' for the "
            "word, or BREAK"
        )
    for start, end, what in _scheduled(prompt):
        shown = prompt[start:end] if end - start <= _SHOWN else prompt[start : start + _SHOWN] + "…"
        raise ConfigError(
            f"the prompt holds {shown!r}, which is {what} in A1111 and isn't supported; keep one of its "
            "sides, or write \\[ and \\] for the brackets themselves"
        )


def _scheduled(prompt: str) -> Iterator[tuple[int, int, str]]:
    """Yield where square brackets mean prompt editing or alternation, and which of the two.

    A bracket without a partner is text, and what is open within a closed pair has none.
    """
    stack: list[_Open] = []
    count = {"(": 0, "[": 0}
    bare = False  # whether the piece before was a single backslash
    for found in _PIECE.finditer(prompt):
        kind, piece = found.lastgroup, found[0]
        if kind == "open":
            stack.append(_Open(piece, found.end()))
            count[piece] += 1
        elif kind in ("close", "weight"):
            partner = "[" if piece == "]" else "("
            direct = bool(stack) and stack[-1].kind == partner
            while count[partner]:
                inside = stack.pop()
                count[inside.kind] -= 1
                if inside.kind != partner:
                    continue
                if what := _meaning(prompt, inside, found.start()) if direct and piece == "]" else "":
                    yield inside.start - 1, found.end(), what
                break
        elif kind == "text" and stack:
            text = piece[1:] if bare else piece
            stack[-1].colons += text.count(":")
            stack[-1].bars += text.count("|")
        bare = piece == "\\"


def _meaning(prompt: str, inside: _Open, end: int) -> str:
    """Say what a pair of square brackets means in A1111, or "" where it only weakens."""
    colon = prompt.rfind(":", inside.start, end) if inside.colons in (1, 2) else -1
    if colon >= 0 and _NUMBER.fullmatch(prompt, colon + 1, end):
        return "prompt editing"
    return "alternation" if inside.bars else ""
