"""The order in which pictures come: each once per epoch, samples of one shape together where it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

Shape = tuple[int, int]


@dataclass(eq=False)
class Order:
    """Endless order over pictures: one epoch after another, each entry once in each.

    entries: indices of the pictures of one epoch, int64; a repeated one stands there as often. shapes: of
    the pictures' latents, by index. permutation, position: the epoch's order, and how much of it is taken.
    """

    entries: torch.Tensor
    shapes: Sequence[Shape]
    permutation: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    position: int = 0

    def take(self, number: int, generator: torch.Generator) -> list[int]:
        """Return the next `number` indices, of one shape wherever possible: ask for as many each time."""
        taken: list[int] = []
        while len(taken) < number:
            if self.position >= len(self.permutation):
                shuffled = self.entries[torch.randperm(len(self.entries), generator=generator)]
                like = self.shapes[taken[0]] if taken else None
                self.permutation = lay_out(
                    shuffled.tolist(), self.shapes, number, number - len(taken) if taken else 0, like
                )
                self.position = 0
            part = self.permutation[self.position : self.position + number - len(taken)].tolist()
            self.position += len(part)
            taken += part
        return taken


def lay_out(
    shuffled: Sequence[int], shapes: Sequence[Shape], size: int, head: int, like: Shape | None
) -> torch.Tensor:
    """Order one epoch so that takes of `size` have one shape wherever possible; int64.

    shuffled: indices of pictures. shapes: by index. head: how many belong to a take that the epoch before
    has begun, with `like` as its shape. What is left over in the shapes is taken together: those takes
    have several shapes, and the last may end in the next epoch. With one shape the order stays as it was.
    """
    near = sorted(range(len(shuffled)), key=lambda place: shapes[shuffled[place]] != like)[:head]
    taken = set(near)
    by_shape: dict[Shape, list[int]] = {}
    for place, index in enumerate(shuffled):
        if place not in taken:
            by_shape.setdefault(shapes[index], []).append(place)
    takes: list[list[int]] = []
    over: list[int] = []
    for places in by_shape.values():
        whole, rest = _takes(places, size)
        takes += whole
        over += rest
    mixed, last = _takes(over, size)
    # Takes come as chance put the first of each.
    ordered = near + [place for take in sorted(takes + mixed) for place in take] + last
    return torch.tensor([shuffled[place] for place in ordered], dtype=torch.long)


def _takes(places: list[int], size: int) -> tuple[list[list[int]], list[int]]:
    """Cut places into as many whole takes as there are, and the rest."""
    whole = len(places) // size * size
    return [places[start : start + size] for start in range(0, whole, size)], places[whole:]
