"""Pictures from a folder to squares of pixels."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.errors import PictureError

if TYPE_CHECKING:
    import torch

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAX_PIXELS = 64_000_000
"""Pixels of a picture, by its header; larger ones are refused before they are decoded."""


@dataclass(frozen=True)
class Source:
    """One picture as it was read.

    image: RGB, upright. notes: what was done to it that a person should know, one line each.
    sha256: of the file.
    """

    path: Path
    image: Image.Image
    notes: tuple[str, ...]
    sha256: str


def find_pictures(folder: Path) -> list[Path]:
    """List the pictures of a folder (not of its subfolders) by name; hidden files are left out.

    Raises: PictureError where the folder is missing or has no pictures.
    """
    if not folder.is_dir():
        raise PictureError(
            f"pictures: {str(folder)!r} isn't a folder; give the folder that holds the pictures"
        )
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise PictureError(f"pictures: {str(folder)!r} has none; expected at least one of {kinds}")
    return found


def read_picture(path: Path) -> Source:
    """Read a picture: upright by its EXIF orientation, 16 bits scaled to 8, transparency on white, RGB.

    The size is read from the header first, so that a decompression bomb is refused undecoded.

    Raises: PictureError naming the file, for what isn't a picture, is damaged, animated or too large.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; the cap below is ours.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                _check_header(path, opened)
                upright = ImageOps.exif_transpose(opened)
                upright.load()
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(f"picture {path.name!r} isn't a picture; remove it or save it again") from None
    except Image.DecompressionBombError:
        raise PictureError(f"picture {path.name!r} is too large; expected at most {_megapixels()}") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PictureError(
            f"picture {path.name!r} is damaged ({reason}); remove it or save it again"
        ) from None
    image, notes = _to_rgb(upright)
    return Source(path, image, notes, hashlib.sha256(path.read_bytes()).hexdigest())


def _check_header(path: Path, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise PictureError(
            f"picture {path.name!r} has {image.width}×{image.height} pixels; expected at most {_megapixels()}"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise PictureError(f"picture {path.name!r} is animated ({frames} frames); save the one that is meant")


def _megapixels() -> str:
    return f"{MAX_PIXELS // 1_000_000} million pixels"


def _to_rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert any mode to RGB, and say what changed the look."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode != "F" else max(float(values.max(initial=0.0)), 1.0)
        scaled = np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB"), ()
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layers = image.convert("RGBA")
        if layers.getchannel("A").getextrema()[0] == 255:
            return layers.convert("RGB"), ()
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layers).convert("RGB"), ("transparent parts were made white",)
    return image.convert("RGB"), ()


def squares(
    image: Image.Image, resolution: int, *, center: bool = True, flip: bool = False
) -> list[Image.Image]:
    """Cut squares of `resolution` pixels out of a picture whose shorter side is scaled to that.

    center: the middle one; else the first, the middle and the last along the longer side, once each
    where they are the same. flip: each mirrored as well.
    """
    scale = resolution / min(image.size)
    size = (max(resolution, round(image.width * scale)), max(resolution, round(image.height * scale)))
    scaled = image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)
    spare = (size[0] - resolution, size[1] - resolution)
    shares = (0.5,) if center else (0.0, 0.5, 1.0)
    corners = dict.fromkeys((round(spare[0] * share), round(spare[1] * share)) for share in shares)
    cut = [scaled.crop((x, y, x + resolution, y + resolution)) for x, y in corners]
    return cut + [ImageOps.mirror(one) for one in cut] if flip else cut


def to_pixels(pictures: list[Image.Image]) -> torch.Tensor:
    """Turn N RGB pictures of one size into fp32 (N, 3, H, W) in [-1, 1]."""
    import torch

    stacked = np.stack([np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous() / 127.5 - 1.0
