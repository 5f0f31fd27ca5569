"""Pictures as the encoder's distributions: in memory, or read from the disk as they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Encoded:
    """One variant of a picture: its latents' distribution, on the CPU.

    mean, std: fp32 (C, h, w), scaled as the UNet sees them. mask: fp32 (1, h, w) in [0, 1], how much each
    position counts; None: all alike. frame: in pixels original height and width, top and left of the cut,
    height and width of what is left.
    """

    mean: torch.Tensor
    std: torch.Tensor
    mask: torch.Tensor | None = None
    frame: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)


class Drawn(Sequence["Encoded"]):
    """The variants of one picture, read when they are asked for and not kept."""

    def __init__(self, read: Callable[[int], Encoded], count: int) -> None:
        self._read, self._count = read, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(self._count)[index]]
        return self._read(range(self._count)[index])


class OnDisk(Sequence[Drawn]):
    """Pictures of which nothing is in memory but how many variants each has.

    read: (picture, variant) → what is kept of it. counts: variants of each picture.
    """

    def __init__(self, read: Callable[[int, int], Encoded], counts: Sequence[int]) -> None:
        self._read, self._counts = read, counts

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        return Drawn(partial(self._read, place), self._counts[place])


@dataclass(frozen=True, eq=False)
class LatentCache:
    """N pictures as the encoder's distributions, with their captions, on the CPU.

    Each draw samples anew, so that the objective is the same as without a cache. pictures: the variants of
    each (flips and the like), at least one, all of one shape. captions: N. repeats: how often each comes
    in an epoch; None: once. sides: (h, w) of each picture's latents, where `pictures` are on disk.
    """

    pictures: Sequence[Sequence[Encoded]]
    captions: tuple[str, ...]
    repeats: tuple[int, ...] | None = None
    sides: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        assert len(self.pictures) == len(self.captions) > 0
        assert self.repeats is None or len(self.repeats) == len(self.pictures)
        if self.sides is None:
            assert all(len({one.mean.shape for one in variants}) == 1 for variants in self.pictures)
        else:
            assert len(self.sides) == len(self.pictures)

    def __len__(self) -> int:
        return len(self.captions)

    @cached_property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of each picture's latents."""
        return self.sides or tuple(
            (variants[0].mean.shape[1], variants[0].mean.shape[2]) for variants in self.pictures
        )

    @cached_property
    def entries(self) -> torch.Tensor:
        """Indices of the pictures of one epoch, each as often as it is repeated; int64."""
        indices = torch.arange(len(self))
        return indices if self.repeats is None else indices.repeat_interleave(torch.tensor(self.repeats))

    def choose(self, index: int, generator: torch.Generator) -> Encoded:
        """Choose one of a picture's variants, each as likely."""
        variants = self.pictures[index]
        if len(variants) == 1:
            return variants[0]
        return variants[int(torch.randint(len(variants), (), generator=generator))]


def sample(chosen: Sequence[Encoded], generator: torch.Generator) -> torch.Tensor:
    """Draw latents (B, C, h, w) of variants of one shape: mean + std · noise; generator: on the CPU."""
    mean = torch.stack([one.mean for one in chosen])
    std = torch.stack([one.std for one in chosen])
    return mean + std * torch.randn(mean.shape, generator=generator)


def masks_of(chosen: Sequence[Encoded]) -> torch.Tensor | None:
    """Return the masks (B, 1, h, w) of variants of one shape, 1 where one has none; None: none has any."""
    if all(one.mask is None for one in chosen):
        return None
    return torch.stack(
        [torch.ones_like(one.mean[:1]) if one.mask is None else one.mask for one in chosen]
    )  # (B, 1, h, w)


def frames_of(chosen: Sequence[Encoded]) -> torch.Tensor:
    """Return the frames of variants, int64 (B, 6)."""
    return torch.tensor([one.frame for one in chosen], dtype=torch.long)
