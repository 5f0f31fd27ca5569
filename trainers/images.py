"""Pictures from files to upright RGB: what is read, what is made of it, what is refused and why."""

from __future__ import annotations

import hashlib
import importlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from pipelines.errors import PictureError
from trainers.settings.data import BACKGROUNDS

if TYPE_CHECKING:
    import torch

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif",
)  # fmt: skip
OTHER_SUFFIXES = (
    ".psd", ".xcf", ".svg", ".jxl", ".jp2", ".tga", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".pdf",
)  # fmt: skip
"""Pictures too, but not read: a person is told so."""
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""Formats by Pillow's name that are read, whatever a file is called; HEIC needs a package of its own."""
MAX_PIXELS = 64_000_000
"""Pixels of a picture, by its header; larger ones are refused before they are decoded."""
MAX_BYTES = 512_000_000
"""Bytes of a picture's file."""
MASK = ".mask"
"""End of the stem of a file that is a mask and no picture: "a.mask.png" of "a.png"."""

# Brands of the container that HEIC and AVIF share (ISO/IEC 23008-12), with the package that reads them.
_PLUGINS = {
    b"heic": ("HEIC", "pillow_heif", "register_heif_opener"),
    b"heix": ("HEIC", "pillow_heif", "register_heif_opener"),
    b"hevc": ("HEIC", "pillow_heif", "register_heif_opener"),
    b"mif1": ("HEIC", "pillow_heif", "register_heif_opener"),
    b"msf1": ("HEIC", "pillow_heif", "register_heif_opener"),
    b"avif": ("AVIF", "pillow_avif", ""),
    b"avis": ("AVIF", "pillow_avif", ""),
}


@dataclass(frozen=True)
class Source:
    """One picture that was read and found good. Its pixels aren't kept: each use decodes the file again.

    size: (width, height) in pixels, upright. notes: what was done to it that a person should know, one
    line each. sha256: of the file. alpha: whether it has transparent parts. background: what lies behind
    them, a key of BACKGROUNDS or #rrggbb. forget: lets go of what is kept of the file for later runs, where
    it turns out to be another one; None: nothing is.
    """

    path: Path
    size: tuple[int, int]
    notes: tuple[str, ...]
    sha256: str
    alpha: bool = False
    background: str = "white"
    forget: Callable[[], None] | None = field(default=None, compare=False, repr=False)

    @property
    def image(self) -> Image.Image:
        """The picture: RGB, upright. Raises: PictureError where the file isn't what it was."""
        return self.layers()[0]

    def layers(self) -> tuple[Image.Image, Image.Image | None]:
        """Decode the picture: RGB, and its opacity (L, 255 opaque) or None where all of it is opaque.

        Raises: PictureError where the file is gone or another one.
        """
        content = _content(self.path)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            if self.forget is not None:
                self.forget()
            raise PictureError(f"picture {self.path.name!r} was changed while it was in use; start again")
        rgb, alpha, _ = _to_rgb(_decode(self.path.name, content), self.background)
        return rgb, alpha


def find_pictures(folder: Path) -> list[Path]:
    """List the pictures of a folder (not of its subfolders) by name; hidden files and masks are left out.

    Raises: PictureError where the folder is missing or has no pictures.
    """
    if not folder.is_dir():
        raise PictureError(
            f"pictures: {str(folder)!r} isn't a folder; give the folder that holds the pictures"
        )
    found = sorted(path for path in folder.iterdir() if is_picture(path))
    if not found:
        kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
        below = next((one for one in sorted(folder.iterdir()) if one.is_dir() and _has_pictures(one)), None)
        if below is not None:
            raise PictureError(
                f"pictures: {str(folder)!r} has none, its folder {below.name!r} has; give that one, or "
                "name it like “10_zuv dog” and set data.subfolders"
            )
        raise PictureError(f"pictures: {str(folder)!r} has none; expected at least one of {kinds}")
    return found


def _has_pictures(folder: Path) -> bool:
    try:
        return any(is_picture(path) for path in folder.iterdir())
    except OSError:
        return False


def is_picture(path: Path) -> bool:
    """Tell whether a file is to be learned from: not hidden, no mask, of a format that is read."""
    named = path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.stem.endswith(MASK)
    return named and path.is_file()


def unread(folder: Path) -> list[str]:
    """Names of the files that are pictures in formats that aren't read."""
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in OTHER_SUFFIXES)


def read_picture(path: Path, background: str = "white") -> Source:
    """Read a picture: upright by its EXIF orientation, 16 bits scaled to 8, sRGB, no transparency, RGB.

    The size is read from the header first, so that a decompression bomb is refused undecoded.
    background: what lies behind transparent parts.

    Raises: PictureError naming the file, for what isn't a picture, is damaged, animated or too large.
    """
    return decode_picture(path, background)[0]


def decode_picture(path: Path, background: str = "white") -> tuple[Source, Image.Image, Image.Image | None]:
    """Read a picture as `read_picture` does, and return what `Source.layers` would decode anew.

    Raises: PictureError as `read_picture`.
    """
    content = _content(path)
    image, alpha, notes = _to_rgb(_decode(path.name, content), background)
    digest = hashlib.sha256(content).hexdigest()
    return Source(path, image.size, notes, digest, alpha is not None, background), image, alpha


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PictureError(f"picture {path.name!r} has more than {MAX_BYTES} bytes; make it smaller")
        return path.read_bytes()
    except OSError as error:
        raise PictureError(f"picture {path.name!r} can't be read ({error.strerror}); put it back") from None


def _decode(name: str, content: bytes) -> Image.Image:
    """Decode a picture's bytes in its own mode, upright."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; the cap below is ours.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with _open(name, content) as opened:
                _check_header(name, opened)
                upright = ImageOps.exif_transpose(opened)
                upright.load()
                return upright
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(f"picture {name!r} isn't a picture; remove it or save it again") from None
    except Image.DecompressionBombError:
        raise PictureError(f"picture {name!r} is too large; expected at most {_megapixels()}") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PictureError(f"picture {name!r} is damaged ({reason}); remove it or save it again") from None


def _open(name: str, content: bytes) -> Image.Image:
    """Open with Pillow, and where it doesn't know HEIC or AVIF, with the package that adds them."""
    Image.init()
    # Of what Pillow knows besides, some starts other programs (EPS).
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError:
        brand = content[8:12] if content[4:8] == b"ftyp" else b""
        if brand not in _PLUGINS:
            raise
    kind, package, register = _PLUGINS[brand]
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise PictureError(
            f"picture {name!r} is {kind}, which needs the package {package.replace('_', '-')}; "
            "install it, or save the picture as JPEG or PNG"
        ) from None
    if register:
        getattr(module, register)()
    return Image.open(io.BytesIO(content))


def _check_header(name: str, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise PictureError(
            f"picture {name!r} has {image.width}×{image.height} pixels; expected at most {_megapixels()}"
        )
    frames = getattr(image, "n_frames", 1)
    # Phones put a small second picture into their JPEGs, which Pillow then calls MPO.
    if frames > 1 and image.format != "MPO":
        raise PictureError(f"picture {name!r} is animated ({frames} frames); save the one that is meant")


def _megapixels() -> str:
    return f"{MAX_PIXELS // 1_000_000} million pixels"


def _to_rgb(image: Image.Image, background: str) -> tuple[Image.Image, Image.Image | None, tuple[str, ...]]:
    """Convert any mode to RGB, keep the opacity (L) where there is any, and say what changed the look."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _eight_bits(image).convert("RGB"), None, ()
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layers = _to_srgb(image.convert("RGBA"))
        alpha = layers.getchannel("A")
        if alpha.getextrema()[0] == 255:
            return layers.convert("RGB"), None, ()
        behind = Image.new("RGBA", layers.size, BACKGROUNDS.get(background, background))
        note = f"transparent parts were made {background}"
        return Image.alpha_composite(behind, layers).convert("RGB"), alpha, (note,)
    return _to_srgb(image).convert("RGB"), None, ()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 or 32 bits a pixel to 8: 65535 is white, or the largest value where that is more."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    largest = max(float(values.max(initial=0.0)), 1.0)
    top = largest if image.mode == "F" else max(largest, 65535.0)
    return Image.fromarray(np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8))


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert the colours of an RGB or CMYK picture by its own profile; without one it stays as it is."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    mode = "RGB" if image.mode == "CMYK" else image.mode
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "CMYK" or "sRGB" not in ImageCms.getProfileDescription(own):
            changed = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode=mode)
            return changed or image
    except (ImageCms.PyCMSError, OSError, ValueError):
        pass  # A damaged profile, or one of another mode, says nothing of the pixels.
    return image


def to_pixels(pictures: list[Image.Image]) -> torch.Tensor:
    """Turn N RGB pictures of one size into fp32 (N, 3, H, W) in [-1, 1]."""
    import torch

    stacked = np.stack([np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous() / 127.5 - 1.0
