"""Checks of the captions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from statistics import median

from trainers.captions import listed
from trainers.doctor.case import Case, Finding, Look

LONG = 4.0
"""Times the middle length, or a fourth of it, at which a caption's length is unlike the others'."""
ENOUGH = 4
"""Captions that there must be before one is called unlike the others."""


def missing_trigger(case: Case) -> Iterator[Finding]:
    """Find captions without the trigger."""
    for one in case.looks:
        if case.data.trigger.casefold() not in one.item.caption.casefold():
            yield Finding(
                "missing_trigger",
                one.name,
                f"its caption has no {case.data.trigger!r}, which won't learn from it",
                "write it in, or set data.add_trigger",
            )


def caption_length(case: Case) -> Iterator[Finding]:
    """Find captions that are much longer or shorter than most."""
    own = _own(case)
    if len(own) < ENOUGH:
        return
    lengths = [len(_words(one.item.caption)) for one in own]
    middle = median(lengths)
    for one, length in zip(own, lengths, strict=True):
        longer, shorter = length > LONG * middle, length * LONG < middle
        # Of short captions, a few words more or less are no matter.
        if (longer or shorter) and abs(length - middle) > 5:
            yield Finding(
                "caption_length",
                one.name,
                f"its caption has {length} words, most have {middle:.0f}",
                "shorten it to what the others say" if longer else "say as much as the others do",
            )


def caption_unlike(case: Case) -> Iterator[Finding]:
    """Find the caption that shares no word with the others, where those share some with each other."""
    own = _own(case)
    if len(own) < ENOUGH:
        return
    trigger = set(_words(case.data.trigger))
    said = [_telling(one.item.caption) - trigger for one in own]
    counts = Counter(word for words in said for word in words)
    alone = [index for index, words in enumerate(said) if all(counts[word] == 1 for word in words)]
    if len(alone) * 4 > len(own):
        return
    for index in alone:
        yield Finding(
            "caption_unlike",
            own[index].name,
            "its caption shares no word with the others"
            + (f" ({_short(own[index].item.caption)})" if said[index] else ""),
            "check that it belongs to this picture",
        )


def caption_duplicates(case: Case) -> Iterator[Finding]:
    """Find one caption written for several pictures, where others have their own."""
    by_caption: dict[str, list[Look]] = {}
    for one in _own(case):
        by_caption.setdefault(" ".join(_words(one.item.caption)), []).append(one)
    if len(by_caption) < 2:
        return
    for looks in by_caption.values():
        if len(looks) > 1:
            names = listed([one.name for one in looks[1:]])
            yield Finding(
                "caption_duplicates",
                looks[0].name,
                f"its caption is also that of {names}",
                "say what differs between them, or it goes into the trigger",
            )


def _own(case: Case) -> list[Look]:
    """Pictures whose caption was written for them."""
    return [one for one in case.looks if one.item.own]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _telling(text: str) -> set[str]:
    """The words that say something: not "a", "of" and "the"."""
    return {word for word in _words(text) if len(word) > 3}


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
