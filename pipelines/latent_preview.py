"""A quick look at latents: colours by a linear map, fitted to each base's own autoencoder.

A latent position is nearly a linear function of the mean colour of the pixels under it, in any
autoencoder of this kind; so the way back is a matrix of C+1 by 3, found by least squares from
made-up pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pipelines.errors import BaseError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import nn

    from pipelines.base import Base

_PICTURES, _SIDE = 12, 12  # of the made-up pictures, the side in latent positions
_FITTED: WeakKeyDictionary[nn.Module, LatentToRGB] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class LatentToRGB:
    """Colours of latents: (C, 3) fp32 weights and (3,) bias on the CPU, pixels in [-1, 1].

    scale: pixels per latent position along one side.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    scale: int

    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, h, w) colours in [-1, 1] of (B, C, h, w) latents, scaled as the UNet sees them."""
        import torch

        colours = torch.einsum("bchw,cd->bdhw", latents.detach().float().cpu(), self.weight)
        return (colours + self.bias[:, None, None]).nan_to_num(0.0).clamp(-1.0, 1.0)

    def picture(self, latents: torch.Tensor) -> Image:
        """Return the first of (B, C, h, w) latents as a picture of the final size, smoothly enlarged."""
        import torch
        from PIL import Image

        levels = ((self.pixels(latents[:1])[0] + 1) * 127.5).round().to(torch.uint8)  # (3, h, w)
        small = Image.fromarray(levels.permute(1, 2, 0).numpy())
        size = (small.width * self.scale, small.height * self.scale)
        return small.resize(size, Image.Resampling.BICUBIC)


def fit(base: Base) -> LatentToRGB:
    """Return the map of a base's autoencoder, made at its first use and kept as long as the autoencoder is.

    Raises: BaseError where the autoencoder encodes to nothing finite.
    """
    found = _FITTED.get(base.vae)
    if found is None:
        found = _FITTED[base.vae] = _fitted(base)
    return found


def _fitted(base: Base) -> LatentToRGB:
    """Solve min ‖[latents, 1] · M − colours‖² over the positions of made-up pictures."""
    import torch

    scale = base.vae_scale_factor
    with torch.no_grad():
        pictures = _made_up(_SIDE * scale)  # (N, 3, s, s)
        latents = base.encode_images(pictures)[0].float().cpu()  # (N, C, h, w)
        colours = torch.nn.functional.avg_pool2d(pictures, scale)  # (N, 3, h, w)
        known = latents.movedim(1, -1).flatten(0, 2).double()  # (N·h·w, C)
        wanted = colours.movedim(1, -1).flatten(0, 2).double()  # (N·h·w, 3)
        if not known.isfinite().all():
            raise BaseError(
                f"the VAE of base {base.ref!r} gives values that are no numbers; load it in another "
                "precision (fp32, bf16)"
            )
        known = torch.cat([known, torch.ones(len(known), 1, dtype=torch.float64)], dim=1)
        solved = torch.linalg.lstsq(known, wanted, driver="gelsd").solution.float()  # (C + 1, 3)
    return LatentToRGB(weight=solved[:-1], bias=solved[-1], scale=scale)


def _made_up(side: int) -> torch.Tensor:
    """Return (N, 3, side, side) in [-1, 1]: colours that fade into each other around a patch."""
    import torch

    generator = torch.Generator().manual_seed(0)
    fields = []
    for coarse in (1, 2, 3, 4):
        grid = torch.rand((_PICTURES // 4, 3, coarse, coarse), generator=generator) * 2 - 1
        fields.append(
            torch.nn.functional.interpolate(grid, size=(side, side), mode="bilinear", align_corners=True)
        )
    pictures = torch.cat(fields)
    for picture in pictures:
        left, top, width, height = (torch.rand(4, generator=generator) * side / 2).int().tolist()
        colour = torch.rand((3, 1, 1), generator=generator) * 2 - 1
        picture[:, top : top + height + 1, left : left + width + 1] = colour
    return pictures
