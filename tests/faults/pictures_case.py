"""What a file of the corpus is, and what should become of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.faults.pictures_made import Pixels

GRID = 64
"""A picture that is held against one of its size too is compared at no more than so many rows and columns."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file to drop.

    Attributes:
        name: what it is called; a picture's suffix, so that folders are read with it too.
        make: its content.
        pixels: what should be read of it (H, W, 3), 0 … 255; None: nothing, it should be refused.
        refused: what the reason says, a pattern. With `pixels` too: either is right, but nothing between.
        within: how far a value may be off, of 255; formats that lose something differ a little.
        note: what a person should be told of a picture that is taken, a pattern; empty: nothing.
    """

    name: str
    make: Callable[[], bytes]
    pixels: Callable[[], Pixels] | None = None
    refused: str = ""
    within: float = 0.0
    note: str = ""

    def wrong_refusal(self, reason: str) -> str | None:
        """What is wrong with its being refused for that reason; None: nothing."""
        if not self.refused:
            return f"a good file was refused: {reason}"
        if len(reason.splitlines()) != 1 or not re.search(self.refused, reason):
            return f"refused, but with {reason[:200]!r}, not {self.refused!r}"
        return None

    def wrong_picture(self, got: Pixels, notes: tuple[str, ...]) -> str | None:
        """What is wrong with the pixels that were read (H, W, 3) and what was said of them; None: nothing."""
        if self.pixels is None:
            return f"was taken, {self.refused!r} was wanted"
        wanted = self.pixels()
        if got.shape != wanted.shape:
            return f"read as {got.shape}, {wanted.shape} was wanted"
        off = float(np.abs(got.astype(np.float64) - wanted).max())
        if off > self.within:
            return f"a value is off by {off:.0f} of 255, at most {self.within:g} wanted"
        said = "; ".join(notes)
        if bool(said) != bool(self.note) or not re.search(self.note, said):
            return f"a person is told {said!r}, {self.note!r} was wanted"
        return None
