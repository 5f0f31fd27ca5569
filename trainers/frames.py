"""What is cut from a picture: a frame of some shape, and the variants of it that are encoded.

Each variant is encoded once, so that flips and light changes work with cached latents.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from pipelines.errors import ConfigError, PictureError
from trainers.buckets import Size, covering, nearest_shape, shapes
from trainers.colours import PLAIN, Colours, coloured
from trainers.config import DataConfig
from trainers.decoded import MAX_PIXELS

if TYPE_CHECKING:
    from trainers.dataset import Item

_HUE = 0.2  # of the strength, in turns
_SPARE = 0.04  # of a side, below which one part shows all that matters


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to cut a frame: scale the picture, mirror it where `flip`, cut at `crop`, change the colours.

    scaled: (height, width) of the picture when it is cut. crop: (top, left) in that, after mirroring.
    """

    scaled: Size
    crop: tuple[int, int]
    flip: bool = False
    colours: Colours = PLAIN


@dataclass(frozen=True)
class Cut:
    """A variant as pixels. picture: RGB of the frame's size. mask: L of the same size, or None."""

    picture: Image.Image
    mask: Image.Image | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """A part of one picture that is learned from. size: (height, width). variants: the plain one first."""

    item: Item
    size: Size
    variants: tuple[Variant, ...]

    @property
    def caption(self) -> str:
        """The picture's caption as it is written; what a sample says is `captions.spoken` of it."""
        return self.item.caption

    @property
    def repeats(self) -> int:
        """How often the frame comes in one round through all."""
        return self.item.repeats

    @property
    def original(self) -> Size:
        """(height, width) of the picture."""
        width, height = self.item.source.size
        return height, width

    @property
    def crop(self) -> tuple[int, int]:
        """(top, left) of the plain variant's cut in the scaled picture."""
        return self.variants[0].crop

    def cuts(self) -> Iterator[Cut]:
        """Yield every variant as pixels; the picture is decoded once."""
        picture, mask = self.item.layers()
        for variant in self.variants:
            yield self._cut(picture, mask, variant)

    def cut(self, index: int = 0) -> Cut:
        """Return one variant as pixels."""
        return self._cut(*self.item.layers(), self.variants[index])

    def _cut(self, picture: Image.Image, mask: Image.Image | None, variant: Variant) -> Cut:
        (height, width), (top, left) = self.size, variant.crop
        box = (left, top, left + width, top + height)

        def placed(layer: Image.Image) -> Image.Image:
            size = (variant.scaled[1], variant.scaled[0])
            layer = layer if layer.size == size else layer.resize(size, Image.Resampling.LANCZOS)
            return (ImageOps.mirror(layer) if variant.flip else layer).crop(box)

        return Cut(coloured(placed(picture), variant.colours), None if mask is None else placed(mask))

    def numbers(self, index: int = 0) -> tuple[int, int, int, int, int, int]:
        """Return what SDXL is told of a variant: original height, width, crop top, left, height, width.

        Source: Podell et al. 2023, https://arxiv.org/abs/2307.01952, section 2.2.
        """
        return (*self.original, *self.variants[index].crop, *self.size)

    def key(self, index: int = 0) -> str:
        """Return a hash of everything that a variant's pixels and mask depend on, without decoding them."""
        item = self.item
        mask = item.mask_source.sha256 if item.mask_source else item.masked
        variant = vars(self.variants[index])
        parts = [1, item.source.sha256, item.source.background, mask, self.size, variant]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def cut_off(self) -> tuple[float, float, float, float]:
        """What the plain variant leaves out, as shares of the picture's sides: top, right, bottom, left."""
        (height, width), (top, left), (h, w) = self.variants[0].scaled, self.crop, self.size
        return top / height, (width - left - w) / width, (height - top - h) / height, left / width

    @property
    def enlarged(self) -> float:
        """How many times as large as in the file the picture is learned; below 1: smaller."""
        return self.variants[0].scaled[0] / self.original[0]


def frames(
    items: Sequence[Item], data: DataConfig, resolution: int, multiple: int, *, seed: int = 0,
    plain: bool = False,
) -> list[Frame]:  # fmt: skip
    """Say what is cut from each picture.

    resolution: side in pixels of the square, and of the square that has as many pixels as other shapes.
    multiple: pixels that sides must be multiples of for the base. seed: of light changes, which depend on
    the picture's content too. plain: without variants, as for held-out pictures.

    Raises: ConfigError for a resolution or step that isn't a multiple of `multiple`; PictureError for a
    picture that would have to be scaled to more than MAX_PIXELS.
    """
    for name, value in (("resolution", resolution), ("bucket_step", data.bucket_step or multiple)):
        if value % multiple:
            near = max(multiple, round(value / multiple) * multiple)
            raise ConfigError(f"data.{name}: got {value}, expected a multiple of {multiple}; use {near}")
    known: Sequence[Size] = ((resolution, resolution),)
    if data.buckets:
        known = shapes(resolution * resolution, data.bucket_step or multiple, data.bucket_aspect)
    found: list[Frame] = []
    for item in items:
        width, height = item.source.size
        size = nearest_shape((height, width), known)
        scaled = covering((height, width), size)
        if scaled[0] * scaled[1] > MAX_PIXELS:
            raise PictureError(
                f"picture {item.name!r} has {width}×{height} pixels, too long a strip; "
                "cut out of it what matters"
            )
        spare = max(1.0 - size[axis] / scaled[axis] for axis in (0, 1))
        # Three parts that are nearly the same would only count the picture three times.
        several = not data.center_crop and spare > _SPARE
        for share in (0.0, 0.5, 1.0) if several else (0.5,):
            first = Variant(scaled=scaled, crop=_corner(scaled, size, share))
            one = Frame(item=item, size=size, variants=(first,))
            found.append(one if plain else replace(one, variants=_variants(one, data, seed)))
    return found


def _corner(scaled: Size, size: Size, share: float) -> tuple[int, int]:
    """(top, left) of a cut at a share of the room there is."""
    return round((scaled[0] - size[0]) * share), round((scaled[1] - size[1]) * share)


def _variants(frame: Frame, data: DataConfig, seed: int) -> tuple[Variant, ...]:
    """The plain variant, the changed ones, and each mirrored: as `data` asks."""
    first, strength = frame.variants[0], data.augment_strength
    found = [first]
    others = data.variants - 1 if data.augment != "none" else 0
    for index in range(1, others + 1):
        text = f"{seed}\0{frame.item.source.sha256}\0{frame.crop}\0{index}"
        chance = random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest()))
        zoom, down, right, *changes = (chance.random() for _ in range(6))
        one = first
        if data.augment in ("crop", "both"):
            # Spread over the strength, so that no two of a small picture are the same.
            share = (index - 0.5 * zoom) / others
            one = _closer(frame, 1.0 / (1.0 - strength * share), down, right)
        if data.augment in ("colour", "both"):
            light, contrast, hue = ((2.0 * value - 1.0) * strength for value in changes)
            one = replace(one, colours=Colours(1.0 + light, 1.0 + contrast, hue * _HUE))
        found.append(one)
    if data.flip:
        found += [_mirrored(one, frame.size) for one in found]
    return tuple(found)


def _closer(frame: Frame, zoom: float, down: float, right: float) -> Variant:
    """Cut a part of what the plain variant shows: 1 / zoom of its sides, at shares of the room there is."""
    first = frame.variants[0]
    scaled = (round(first.scaled[0] * zoom), round(first.scaled[1] * zoom))
    corner = []
    for axis, share in ((0, down), (1, right)):
        start = first.crop[axis] * zoom
        room = max(0.0, frame.size[axis] * zoom - frame.size[axis])
        corner.append(min(round(start + room * share), scaled[axis] - frame.size[axis]))
    return Variant(scaled=scaled, crop=(corner[0], corner[1]))


def _mirrored(variant: Variant, size: Size) -> Variant:
    """The same part of the picture, mirrored; its left edge is counted in the mirrored picture."""
    top, left = variant.crop
    return replace(variant, flip=True, crop=(top, variant.scaled[1] - size[1] - left))


def changed(frame: Frame, mirrored: bool) -> Variant:
    """The same thing in a picture that no step has seen: mirrored, and cut a little closer.

    mirrored: whether mirrored pictures are learned; it is then cut closer, and towards a corner.
    """
    zoom, place = (1.15, 1.0) if mirrored else (1.06, 0.5)
    return _mirrored(_closer(frame, zoom, place, place), frame.size)


def frame_notes(found: Sequence[Frame], most: int = 5) -> list[str]:
    """Say what is cut off pictures and which are enlarged: lines that a person should read.

    most: how many lines there are; the others are counted.
    """
    parts: dict[int, list[Frame]] = {}
    for frame in found:
        parts.setdefault(id(frame.item), []).append(frame)
    lines = [line for frames_of_one in parts.values() for line in _notes(frames_of_one)]
    if len(lines) > most:
        lines = lines[:most] + [f"and {len(lines) - most} more notes of what is cut off or enlarged"]
    return lines


def _notes(found: Sequence[Frame]) -> Iterator[str]:
    """What there is to say of one picture's frames: what is cut off is what none of them shows."""
    frame, cut_off = found[0], [min(shares) for shares in zip(*(one.cut_off for one in found), strict=True)]
    sides = zip(("top", "right", "bottom", "left"), cut_off, strict=True)
    said = [f"{share:.0%} at the {side}" for side, share in sides if share >= 0.015]
    if said:
        yield f"picture {frame.item.name!r}: cut off are {' and '.join(said)}"
    if frame.enlarged > 1.1:
        yield (
            f"picture {frame.item.name!r} is enlarged {frame.enlarged:.1f} times, which blurs it; "
            "a larger one is better"
        )
