"""The table of the doctor's checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from trainers.doctor import amounts, pictures, words
from trainers.doctor.case import Case, Finding


@dataclass(frozen=True)
class Check:
    """One thing that is looked for. id: the kind of its findings. label: what it is called for people."""

    id: str
    label: str
    find: Callable[[Case], Iterable[Finding]]


_ROWS = (
    Check("too_few", "Enough pictures", amounts.too_few),
    Check("too_many", "Not too many pictures", amounts.too_many),
    Check("near_duplicates", "No picture twice", pictures.near_duplicates),
    Check("seen_before", "Held-out pictures are new", pictures.seen_before),
    Check("blank", "Something to see", pictures.blank),
    Check("blur", "Sharp", pictures.blur),
    Check("too_small", "Large enough", pictures.too_small),
    Check("extreme_aspect", "Not too long", pictures.extreme_aspect),
    Check("missing_trigger", "Trigger in the caption", words.missing_trigger),
    Check("caption_length", "Captions of like length", words.caption_length),
    Check("caption_unlike", "Captions of one kind", words.caption_unlike),
    Check("caption_duplicates", "Captions of their own", words.caption_duplicates),
)

CHECKS: dict[str, Check] = {row.id: row for row in _ROWS}
"""Checks by id, in the order in which they are run."""
