"""What a base is shaped like and what a step of it costs, told from its configs: no weights, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from studio.bases import POCKET, Bases
from studio.examples import EXAMPLES
from studio.workspace import Workspace

_ASSETS = EXAMPLES.parent
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a base's pictures are like, and what they cost.

    Attributes:
        resolution: native side in pixels. multiple: what sides must be multiples of, in pixels.
        forward, step: FLOPs of a UNet's pass, and of learning, for one picture of the native side; again:
            of learning where every block is computed a second time.
        weights: numbers of all networks; unet: of the UNet. attention, feed_forward: of an adapter of rank 1
            there, those of the text encoders' attention among the first.
        kept: bytes of activations per picture in 32 bits; kept_again: where every block is computed a
            second time.
    """

    name: str
    resolution: int
    multiple: int
    forward: float
    step: float
    again: float
    weights: int
    unet: int
    attention: int
    feed_forward: int
    kept: float
    kept_again: float


PUBLISHED = {
    POCKET: Shape(
        name=POCKET, resolution=64, multiple=16, forward=0.894e9, step=2.05e9, again=2.9e9,
        weights=15_151_627, unet=11_008_132, attention=21_888, feed_forward=20_736,
        kept=9.5 * 2**20, kept_again=3.0 * 2**20,
    ),
    "sd15": Shape(
        name="sd15", resolution=512, multiple=64, forward=0.803e12, step=1.720e12, again=2.312e12,
        weights=1_066_235_307, unet=859_520_964, attention=273_024, feed_forward=224_640,
        kept=2 * 0.781 * GIB, kept_again=2 * 0.216 * GIB,
    ),
    "sd2": Shape(
        name="sd2", resolution=768, multiple=64, forward=2.149e12, step=4.901e12, again=6.574e12,
        weights=1_289_952_427, unet=865_910_724, attention=395_904, feed_forward=224_640,
        kept=2 * 1.659 * GIB, kept_again=2 * 0.400 * GIB,
    ),
    "sdxl": Shape(
        name="sdxl", resolution=1024, multiple=32, forward=6.761e12, step=14.147e12, again=19.305e12,
        weights=3_468_837_867, unet=2_567_463_684, attention=1_852_928, feed_forward=1_208_320,
        kept=2 * 5.328 * GIB, kept_again=2 * 0.509 * GIB,
    ),
}  # fmt: skip
"""Published models, and the embedded base.

Source: counted by `trainers.counting`, LoRA on attention, one picture; see `trainers.presets.COSTS`.
"""
_WIDTHS = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
"""Families by the width of what the UNet is told."""


def shape_of(workspace: Workspace | None, ref: str) -> Shape:
    """The shape of a base: "pocket", a folder, or what the list of bases knows of a file or hub id.

    A file that isn't in the list is taken for SD 1.x.
    """
    if ref == POCKET:
        return PUBLISHED[POCKET]
    folder = Path(ref)
    try:
        if (folder / "unet" / "config.json").is_file():
            return _of_folder(folder, (folder / "unet" / "config.json").stat().st_mtime)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        pass  # what is wrong with it is said where it is loaded
    known_bases = Bases(workspace).entries() if workspace is not None else []
    entry = next((one for one in known_bases if one.ref == ref), None)
    row = PUBLISHED.get(entry.family if entry is not None else "sd15", PUBLISHED["sd15"])
    known = int(entry.info.get("resolution") or 0) if entry is not None else 0
    return sized(row, known) if known else row


@lru_cache(maxsize=16)
def _of_folder(folder: Path, changed: float) -> Shape:
    unet, vae = (_config(folder, part) for part in ("unet", "vae"))
    row = PUBLISHED[_WIDTHS.get(int(unet.get("cross_attention_dim", 768)), "sd15")]
    own = _config(_ASSETS / "configs" / row.name, "unet")
    thinner = (int(unet["block_out_channels"][0]) / int(own["block_out_channels"][0])) ** 2
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    found = replace(
        row,
        multiple=scale * 2 ** (len(unet["block_out_channels"]) - 1),
        weights=int(row.weights * thinner),
        unet=int(row.unet * thinner),
        **{name: getattr(row, name) * thinner for name in ("forward", "step", "again")},
        **{name: getattr(row, name) * thinner**0.5 for name in ("kept", "kept_again")},
    )
    # The same positions in latents cost the same, whatever they stand for in pixels.
    native = int(own["sample_size"])
    latents = replace(found, resolution=native * scale)
    return sized(latents, int(unet["sample_size"]) * scale)


def _config(folder: Path, part: str) -> Mapping[str, Any]:
    found = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{part} has no config")
    return found


def sized(shape: Shape, resolution: int) -> Shape:
    """The same base with pictures of another side."""
    share = (resolution / shape.resolution) ** 2
    names = ("forward", "step", "again", "kept", "kept_again")
    return replace(shape, resolution=resolution, **{name: getattr(shape, name) * share for name in names})
