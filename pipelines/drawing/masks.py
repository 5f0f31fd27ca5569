"""What is drawn over: a picture, the part of it that a mask leaves open, and how it goes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.drawing.images import Size, drawing_size, fitted, plain
from pipelines.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base import Base
    from pipelines.generation import GenerationConfig, Inputs

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Canvas:
    """What is drawn over, at the size it is drawn, and how what is drawn goes back.

    size: (height, width) drawn. picture: RGB of that size, or None where nothing is drawn over.
    hole: L of that size, 255 where it is drawn anew, or None for everywhere. original: the whole picture
    that a hole is in. box: what of it is drawn. edge: L of the box's size, the share of what is drawn.
    notes: what was changed to fit.
    """

    size: Size
    picture: Image | None = None
    hole: Image | None = None
    original: Image | None = None
    box: Box | None = None
    edge: Image | None = None
    notes: tuple[str, ...] = ()

    def finish(self, drawn: Image) -> Image:
        """Put what was drawn back into the original; pixels beyond the mask's edge keep their bits."""
        from PIL.Image import Resampling

        if self.original is None or self.box is None or self.edge is None:
            return drawn
        if drawn.size != self.edge.size:
            drawn = drawn.resize(self.edge.size, Resampling.LANCZOS)
        whole = self.original.copy()
        whole.paste(drawn, self.box[:2], self.edge)
        return whole

    def cropped(self, image: Image) -> Image:
        """Return the part of a picture of the original's scene that is drawn, such as of a control."""
        if self.original is None or self.box is None:
            return image
        if image.size != self.original.size:
            image = fitted(image, (self.original.height, self.original.width), "")[0]
        return image.crop(self.box)


def make_canvas(base: Base, config: GenerationConfig, inputs: Inputs) -> Canvas:
    """Lay out what is drawn over.

    Raises: ConfigError for a mask without a picture, or together with a second pass.
    """
    if inputs.image is None:
        if inputs.mask is not None:
            raise ConfigError("got a mask without a picture; give the picture that it marks a part of")
        size, notes = drawing_size(base, config, None)
        return Canvas(size=size, notes=tuple(notes))
    picture, notes = plain(inputs.image, "the picture")
    if inputs.mask is None:
        size, changed = drawing_size(base, config, (picture.height, picture.width))
        shown, resized = fitted(picture, size, "the picture")
        return Canvas(size=size, picture=shown, notes=(*notes, *changed, *resized))
    mask, changed = _mask(inputs.mask, (picture.height, picture.width), config.mask_invert)
    notes += changed
    if mask.getbbox() is None:
        notes.append("the mask marks nothing: the picture is as it was")
    elif config.mask_padding is not None:
        return _part(base, config, picture, mask, notes)
    return _whole(base, config, picture, mask, notes)


def _whole(base: Base, config: GenerationConfig, picture: Image, mask: Image, notes: list[str]) -> Canvas:
    """Draw the whole picture, of which the mask's part is kept."""
    size, changed = drawing_size(base, config, (picture.height, picture.width))
    shown, resized = fitted(picture, size, "the picture")
    hole = _stretched(mask, size)
    return Canvas(
        size=size,
        picture=shown,
        hole=hole,
        original=shown,
        box=(0, 0, *shown.size),
        edge=blurred(hole, config.mask_blur),
        notes=(*notes, *changed, *resized),
    )


def _part(base: Base, config: GenerationConfig, picture: Image, mask: Image, notes: list[str]) -> Canvas:
    """Draw only the mask's surroundings, at full size."""
    size, changed = drawing_size(base, config, None)
    soft = blurred(mask, config.mask_blur)
    box = region(soft, config.mask_padding or 0, size)
    shown, _ = fitted(picture.crop(box), size, "")
    return Canvas(
        size=size,
        picture=shown,
        hole=_stretched(mask.crop(box), size),
        original=picture,
        box=box,
        edge=soft.crop(box),
        notes=(*notes, *changed),
    )


def _mask(image: Image, size: Size, invert: bool) -> tuple[Image, list[str]]:
    """Return a mask as L of 0 and 255 at (height, width); white is drawn anew, transparent isn't."""
    from PIL import Image as Images

    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Images.alpha_composite(Images.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    notes = []
    image = image.convert("L")
    if image.size != (size[1], size[0]):
        notes.append(f"the mask is {image.width}×{image.height}: resized to {size[1]}×{size[0]}")
    low, high = (255, 0) if invert else (0, 255)
    return _stretched(image, size).point([low] * 128 + [high] * 128), notes


def _stretched(mask: Image, size: Size) -> Image:
    """Return a mask of 0 and 255 at (height, width), without levels between."""
    from PIL.Image import Resampling

    wanted = (size[1], size[0])
    if mask.size == wanted:
        return mask
    return mask.resize(wanted, Resampling.BILINEAR).point([0] * 128 + [255] * 128)


def blurred(mask: Image, radius: float) -> Image:
    """Return a mask with an edge softened over about `radius` pixels to both sides."""
    from PIL import ImageFilter

    return mask.filter(ImageFilter.GaussianBlur(radius)) if radius else mask


def region(mask: Image, padding: int, size: Size) -> Box:
    """Return the box around what a mask marks, `padding` pixels wider, in the shape of (height, width).

    It stays within the picture, so near an edge, or where the picture is too small, the shape gives way.
    Source: A1111's `expand_crop_region`, as diffusers' `VaeImageProcessor.get_crop_region` has it.
    """
    found = mask.getbbox()
    assert found is not None
    left, top = max(found[0] - padding, 0), max(found[1] - padding, 0)
    right, bottom = min(found[2] + padding, mask.width), min(found[3] + padding, mask.height)
    shape = size[1] / size[0]
    if (right - left) / (bottom - top) > shape:
        top, bottom = _widened(top, bottom, int((right - left) / shape), mask.height)
    else:
        left, right = _widened(left, right, int((bottom - top) * shape), mask.width)
    return left, top, right, bottom


def _widened(low: int, high: int, length: int, limit: int) -> tuple[int, int]:
    """Widen low … high to both sides to `length`, moved to lie within 0 … limit."""
    more = max(length - (high - low), 0)
    low, high = low - more // 2, high + more - more // 2
    low, high = (low - (high - limit), limit) if high > limit else (low, high)
    return max(low, 0), min(high - min(low, 0), limit)


def latent_mask(hole: Image, factor: int) -> torch.Tensor:
    """Return (1, 1, h, w) fp32, 1 where a latent covers any marked pixel.

    factor: pixels per latent position along one side. (diffusers takes every latent's first pixel, by
    which thin lines are lost; for masks of whole latents both are the same.)
    """
    import torch

    from pipelines.drawing.images import to_pixels

    return torch.nn.functional.max_pool2d(to_pixels(hole), factor)
