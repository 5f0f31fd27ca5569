"""Pictures that are handed in: to plain RGB, to the size that is drawn, to numbers and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base import Base
    from pipelines.generation import GenerationConfig

Size = tuple[int, int]
"""(height, width) in pixels."""

_LARGEST = 2  # times the base's own side: how large a picture is drawn over where no size is asked for
_BACKGROUND = (255, 255, 255)


def plain(image: Image, what: str) -> tuple[Image, list[str]]:
    """Return a picture upright in 8-bit RGB, and what was done to it that a person should know.

    what: its name in the notes. Transparency goes onto white, 16 bits are scaled to 8.
    """
    import numpy as np
    from PIL import Image as Images
    from PIL import ImageOps

    notes = []
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        notes.append(f"{what} has more than 8 bits a channel: scaled to 8")
        levels: Any = np.asarray(image, dtype=np.float32) / (1 if image.mode == "F" else 257)  # 65535 → 255
        image = Images.fromarray(levels.round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        if layer.getchannel("A").histogram()[255] < layer.width * layer.height:
            notes.append(f"{what} is transparent in places: laid on white")
        image = Images.alpha_composite(Images.new("RGBA", layer.size, (*_BACKGROUND, 255)), layer)
    return image.convert("RGB"), notes


def drawing_size(base: Base, config: GenerationConfig, picture: Size | None) -> tuple[Size, list[str]]:
    """Return the (height, width) to draw, whole numbers of latents, and what was changed to get there.

    picture: the size of what is drawn over, where it gives what `config` leaves open: its own size, or
    the side that keeps its shape. One larger than twice the base's own side is drawn smaller.
    """
    notes: list[str] = []
    height, width = config.height, config.width
    if picture is None:
        wanted: tuple[float, float] = (height or base.resolution, width or base.resolution)
    elif height is None and width is None:
        scale = min(1.0, _LARGEST * base.resolution / max(picture))
        wanted = (picture[0] * scale, picture[1] * scale)
        if max(picture) > _LARGEST * base.resolution:
            shown = f"{picture[1]}×{picture[0]}"
            notes.append(
                f"the picture is {shown}, more than twice the base's {base.resolution}: drawn smaller"
            )
    elif height is None:
        wanted = (picture[0] * (width or 1) / picture[1], width or 1)
    else:
        wanted = (height, width or picture[1] * height / picture[0])
    step = base.vae_scale_factor
    sides = []
    for name, side in zip(("height", "width"), wanted, strict=True):
        whole = round(side)
        sides.append(max(step, (whole + step // 2) // step * step))
        if sides[-1] != whole:
            notes.append(f"{name} {whole} isn't a multiple of {step}: drawn at {sides[-1]}")
    return (sides[0], sides[1]), notes


def fitted(image: Image, size: Size, what: str) -> tuple[Image, list[str]]:
    """Return a picture at (height, width), and a note where it had another size."""
    from PIL.Image import Resampling

    wanted = (size[1], size[0])
    if image.size == wanted:
        return image, []
    note = f"{what} is {image.width}×{image.height}: resized to {wanted[0]}×{wanted[1]}"
    return image.resize(wanted, Resampling.LANCZOS), [note]


def to_pixels(image: Image) -> torch.Tensor:
    """Turn an 8-bit picture into (1, C, H, W) fp32 in [0, 1]."""
    import numpy as np
    import torch

    levels = np.asarray(image)
    planes = levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)
    return torch.from_numpy(planes.astype(np.float32) / 255.0)[None]


def to_images(pixels: torch.Tensor) -> list[Image]:
    """Turn (B, 3, H, W) in [-1, 1] into 8-bit pictures, rounding to the nearest level."""
    import torch
    from PIL import Image as Images

    levels = ((pixels.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)  # (B, 3, H, W)
    return [Images.fromarray(picture) for picture in levels.permute(0, 2, 3, 1).cpu().numpy()]


def encoded(base: Base, pixels: torch.Tensor) -> torch.Tensor:
    """Return (B, C, h, w) fp32 latents of (B, 3, H, W) pixels in [-1, 1], on the base's device.

    The mean of what the autoencoder says is taken, so that no noise of the seed is spent on it.
    """
    return base.encode_images(pixels)[0].float()
