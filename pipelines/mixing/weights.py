"""What a person says about one adapter of a mix: how much, where, and when."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipelines.errors import AdapterError, nearest

MIN_WEIGHT, MAX_WEIGHT = -2.0, 3.0


@dataclass(frozen=True)
class Weights:
    """The weight of one adapter in a mix. What it comes to in any block lies from −2 to 3.

    unet: on the UNet. text: on the text encoders; None is as `unet`.
    blocks: what the weight is multiplied by in some blocks, by the names of `families.block_of`
    ("down_blocks.1", "mid_block", "up_blocks.0", …, a text encoder's own name); the others keep it.
    begin, end: when it acts on the UNet, as shares of the denoising in [0, 1]; step i of n stands at i / n.
    - begin ≤ end: 0 before `begin`, rising in a straight line, full from `end` on (a style that comes
      late); begin = end switches on at that point, and both 0 is always full.
    - end < begin: full until `end`, falling, 0 from `begin` on (a composition that lets go early).
    """

    unet: float = 1.0
    text: float | None = None
    blocks: Mapping[str, float] = field(default_factory=dict)
    begin: float = 0.0
    end: float = 0.0

    @property
    def pair(self) -> tuple[float, float]:
        """(UNet, text encoders), as they are in blocks that aren't named."""
        return self.unet, self.unet if self.text is None else self.text

    @property
    def steady(self) -> bool:
        """Whether it is the same at every denoising step."""
        return self.begin == 0 and self.end == 0

    def share(self, progress: float) -> float:
        """The share of the UNet's weight that holds when `progress` of the denoising is done, [0, 1]."""
        if self.end < self.begin:
            return min(1.0, max(0.0, (self.begin - progress) / (self.begin - self.end)))
        if progress >= self.end:
            return 1.0
        return max(0.0, (progress - self.begin) / (self.end - self.begin)) if progress > self.begin else 0.0

    def row(self, blocks: Sequence[str], encoders: Iterable[str], progress: float | None) -> list[float]:
        """The weight in each of `blocks`; those among `encoders` are text encoders.

        progress: the share of the denoising that is done; None gives the full weights.
        """
        unet, text = self.pair
        if progress is not None:
            unet *= self.share(progress)
        row = [text if block in encoders else unet for block in blocks]
        if self.blocks:
            row = [weight * self.blocks.get(block, 1.0) for weight, block in zip(row, blocks, strict=True)]
        return row


Weight = float | tuple[float, float] | Weights
"""One number for everything, (UNet, text encoders), or all there is to say."""


def resolve(name: str, weight: Weight, blocks: Sequence[str], encoders: Iterable[str]) -> Weights:
    """Return the full form of adapter `name`'s weight, with numbers as floats.

    blocks: every block of the base; encoders: those that are text encoders.
    Raises: AdapterError for anything but numbers, a weight out of bounds, an unknown block.
    """
    given = weight if isinstance(weight, Weights) else _of_numbers(name, weight)
    text = given.pair[1]
    for number in (given.unet, text):
        _check(name, number)
    if not isinstance(given.blocks, Mapping):
        kind = type(given.blocks).__name__
        raise AdapterError(f"blocks of {name!r} are a {kind}; expected numbers by the blocks' names")
    for block, factor in given.blocks.items():
        if block not in blocks:
            raise AdapterError(f"weights of {name!r} name block {block!r}{nearest(str(block), blocks)}")
        if not _is_number(factor):
            raise AdapterError(f"weight of {name!r} in {block} is {factor!r}; expected a number")
        _check(name, _float(factor) * (text if block in encoders else given.unet), f" in {block}")
    for field_name, share in (("begin", given.begin), ("end", given.end)):
        if not (_is_number(share) and 0 <= share <= 1):
            raise AdapterError(
                f"{field_name} of {name!r} is {_shown(share)}; expected a share of the denoising from 0 to 1"
            )
    return replace(
        given,
        unet=float(given.unet),
        text=None if given.text is None else float(given.text),
        blocks={block: float(factor) for block, factor in given.blocks.items()},
        begin=float(given.begin),
        end=float(given.end),
    )


def _of_numbers(name: str, weight: float | tuple[float, float]) -> Weights:
    parts = weight if isinstance(weight, tuple) else (weight, weight)
    if len(parts) != 2 or not all(_is_number(part) for part in parts):
        raise AdapterError(f"weight of {name!r} is {weight!r}; expected a number or (UNet, text encoder)")
    return Weights(unet=parts[0], text=parts[1] if isinstance(weight, tuple) else None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float(number: float) -> float:
    """As a float; ±infinity for an integer that is too large for one."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _shown(value: object) -> str:
    return f"{_float(value):g}" if isinstance(value, int | float) and _is_number(value) else repr(value)


def _check(name: str, weight: float, where: str = "") -> None:
    if not _is_number(weight):
        raise AdapterError(f"weight of {name!r} is {weight!r}; expected a number")
    if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        raise AdapterError(
            f"weight of {name!r}{where} is {_shown(weight)}; choose from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}"
        )
