"""The pictures of a run, as drawn ones are held against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from trainers.dataset import Dataset, Item
from trainers.evidence.judges import Structure

SIDES = {400: 256, 100_000: 128}
"""Pixels of a picture's longer side, at most, by the number of pictures: as many as judges look at, or of
very many pictures fewer, so that they fit in memory."""

COMPARED = 24
"""Pictures, at most, that likeness is measured with."""


@dataclass(frozen=True, eq=False)
class References:
    """Pictures, RGB and of any size, with their names.

    taught: what was learned from. held_out: what wasn't. likeness is measured with the latter, where there
    are any: pictures that a run has seen can be met by copying them.
    """

    names: tuple[str, ...]
    taught: tuple[Image.Image, ...]
    held_out: tuple[Image.Image, ...] = ()
    most: int = COMPARED
    _known: dict[tuple[int, bool], torch.Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, dataset: Dataset, most: int = COMPARED) -> References:
        """Those of a run's data, each decoded once."""
        learn, held_out = dataset.learn, dataset.held_out
        return cls(tuple(item.name for item in learn), _small(learn), _small(held_out), most)

    def embedded(self, judge: Structure, *, taught: bool) -> torch.Tensor:
        """(M, D) unit vectors of the taught pictures, or of the held-out ones; computed once."""
        key = id(judge), taught
        if key not in self._known:
            self._known[key] = judge.image_embeddings(self.taught if taught else self.held_out)
        return self._known[key]

    def compared(self, judge: Structure) -> torch.Tensor:
        """(M, D) unit vectors of the pictures that likeness is measured with, `most` of them."""
        return evenly(self.embedded(judge, taught=not self.held_out), self.most)


def evenly(rows: torch.Tensor, most: int) -> torch.Tensor:
    """At most so many rows, at even distances."""
    return rows if len(rows) <= most else rows[torch.arange(most) * len(rows) // most]


def _small(items: Sequence[Item]) -> tuple[Image.Image, ...]:
    """Decode pictures one by one, so that only small ones stay in memory."""
    side = next((side for count, side in SIDES.items() if len(items) <= count), min(SIDES.values()))
    found = []
    for item in items:
        picture = item.source.image.convert("RGB")
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        found.append(picture)
    return tuple(found)
