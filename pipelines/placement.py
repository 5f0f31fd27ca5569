"""How a base is put on a machine: what may be asked for, and the rules that choose the rest.

The rules are pure functions of a card's kind, its bytes and the sizes of a base's parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.attention import ATTENTION
from pipelines.errors import nearest
from pipelines.quantised import QUANTISED

Offload = Literal["none", "parts", "blocks"]
OFFLOADS: tuple[Offload, ...] = ("none", "parts", "blocks")

GIB = 2**30

# What isn't there for a base: the driver's and PyTorch's own, and what a desktop holds.
_CONTEXT, _USABLE = int(0.6 * GIB), 0.92
# A UNet's activations at its native size with guidance; a text encoder's.
_DENOISING, _ENCODING = int(1.5 * GIB), int(0.25 * GIB)
# Numbers that a VAE of the published kind holds at once per pixel while it decodes: 970 to 1000 by PyTorch's
# profiler on a CPU (128 and 256 pixels), and as much again for the kernels' own room and for fragments.
_NUMBERS_PER_PIXEL = 2048
_SMALLEST_TILE, _LARGEST_PICTURE = 512, 4096


def _known_attention(name: str | None) -> str | None:
    if name is not None and name not in ATTENTION:
        raise ValueError(f"unknown attention {name!r}{nearest(name, ATTENTION)}")
    return name


def _known_quantiser(name: str | None) -> str | None:
    if name is not None and name not in QUANTISED:
        raise ValueError(f"unknown quantisation {name!r}{nearest(name, QUANTISED)}")
    return name


class Placement(BaseModel):
    """What a person wants of a base's place on the machine; None leaves the choice to the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attention: Annotated[str | None, AfterValidator(_known_attention)] = Field(
        default=None,
        title="Attention",
        description=f"The kernel that the UNet's attention takes: {', '.join(ATTENTION)}.",
    )
    channels_last: bool | None = Field(
        default=None,
        title="Channels last",
        description="Lay convolutions' weights out with channels last; faster on most CUDA cards.",
    )
    vae_tiling: bool | None = Field(
        default=None,
        title="VAE tiling",
        description="Encode and decode large pictures in overlapping tiles, in less memory.",
    )
    vae_slicing: bool | None = Field(
        default=None,
        title="VAE slicing",
        description="Encode and decode the pictures of a batch one by one, in less memory.",
    )
    offload: Offload | None = Field(
        default=None,
        title="Offload",
        description="What is on the card only while it works: nothing, the text encoders and the VAE "
        "(parts), or these and the UNet block by block (blocks).",
    )
    quantise: Annotated[str | None, AfterValidator(_known_quantiser)] = Field(
        default=None,
        title="Quantise",
        description=f"Hold the UNet's linear layers in fewer bits: {', '.join(QUANTISED)}; empty: no.",
    )


@dataclass(frozen=True)
class Card:
    """What the rules go by.

    kind: "cuda", "rocm", "mps", "xpu" or "cpu". memory: bytes in all, None where it isn't known.
    bits: of a number of the chosen precision, 16 or 32. capability: of a CUDA card, (8, 0) for Ampere.
    """

    kind: str
    memory: int | None
    bits: int
    capability: tuple[int, int] | None = None

    @property
    def usable(self) -> int:
        """Bytes that a base may have; on a CPU, half of what there is."""
        memory = self.memory or 0
        return memory // 2 if self.kind in ("cpu", "mps") else int(memory * _USABLE) - _CONTEXT


def part_bytes(
    parameters: Mapping[str, int], card: Card, quantised_bits: float | None = None
) -> dict[str, int]:
    """Bytes of every part's weights from their numbers; quantised_bits: per number of the UNet's."""
    bits = {part: quantised_bits if part == "unet" and quantised_bits else card.bits for part in parameters}
    return {part: int(count * bits[part] / 8) for part, count in parameters.items()}


def choose_offload(card: Card, parts: Mapping[str, int]) -> Offload:
    """The least offload with which a base's parts (bytes by name) and their work fit.

    On a CPU and on Apple's, whose GPU shares the memory, nothing is won by it.
    """
    if card.kind in ("cpu", "mps") or card.memory is None or "unet" not in parts:
        return "none"
    unet, others = parts["unet"], [size for part, size in parts.items() if part != "unet"]
    if sum(parts.values()) + _DENOISING <= card.usable:
        return "none"
    if unet + max(_DENOISING, max(others, default=0) + _ENCODING) <= card.usable:
        return "parts"
    return "blocks"


def staying_bytes(parts: Mapping[str, int], offload: Offload) -> int:
    """Bytes of weights that are on the card while the VAE works."""
    if offload == "none":
        return sum(parts.values())
    return parts.get("vae", 0) + (parts.get("unet", 0) if offload == "parts" else 0)


def choose_tile(card: Card, staying: int) -> int | None:
    """Side in pixels of the largest square that the VAE takes whole beside `staying` bytes of weights.

    A multiple of 64, 512 at least; None where the largest picture (4096 pixels) fits, or where the memory
    isn't known.
    """
    if card.memory is None:
        return None
    room = max(0, card.usable - staying)
    side = math.isqrt(room * 8 // (_NUMBERS_PER_PIXEL * card.bits)) // 64 * 64
    return None if side >= _LARGEST_PICTURE else max(_SMALLEST_TILE, side)


def choose_slicing(card: Card) -> bool:
    """Whether a batch is decoded picture by picture: on cards below 12 GB."""
    return card.kind not in ("cpu", "mps") and card.memory is not None and card.memory < 11.5 * GIB


def choose_channels_last(card: Card) -> bool:
    """Whether convolutions take channels last: where tensor cores do, CUDA in 16 bits from Volta on."""
    return card.kind == "cuda" and card.bits == 16 and (card.capability or (0, 0)) >= (7, 0)


def choose_attention(card: Card) -> str:
    """The attention to try first.

    PyTorch's own holds a flash kernel from Ampere on; older CUDA cards gain by xformers where it is there.
    """
    return "xformers" if card.kind == "cuda" and (card.capability or (8, 0)) < (8, 0) else "sdpa"
