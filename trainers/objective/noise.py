"""The noise that is added to latents, and that the UNet learns to tell from them."""

from __future__ import annotations

import torch
from torch.nn import functional

from trainers.settings import ObjectiveConfig


def draw_noise(
    shape: tuple[int, ...], generator: torch.Generator, objective: ObjectiveConfig
) -> torch.Tensor:
    """Draw fp32 noise of `shape` (B, C, h, w) on the generator's device."""
    noise = torch.randn(shape, generator=generator, device=generator.device)
    if objective.pyramid_levels:
        noise = pyramid(noise, generator, objective.pyramid_levels, objective.pyramid_discount)
    if objective.noise_offset:
        noise = offset(noise, generator, objective.noise_offset)
    return noise


def offset(noise: torch.Tensor, generator: torch.Generator, strength: float) -> torch.Tensor:
    """Add to every channel of every sample one number of standard deviation `strength`.

    Source: Guttenberg 2023, https://www.crosslabs.org/blog/diffusion-with-offset-noise
    """
    whole = torch.randn((*noise.shape[:2], 1, 1), generator=generator, device=generator.device)
    return noise + strength * whole


def pyramid(noise: torch.Tensor, generator: torch.Generator, levels: int, discount: float) -> torch.Tensor:
    """Add ever coarser noise: level i is 2^i times as coarse and discount^i times as strong.

    It ends at `levels`, or where a side is one position. The sum is scaled back to a standard deviation of 1
    in each sample.
    Source: Whitaker 2023, "Multi-Resolution Noise for Diffusion Model Training",
    https://wandb.ai/johnowhitaker/multires_noise/reports/--VmlldzozNjYyOTU2; there each level's coarseness is
    drawn and the scale is the batch's, here it is 2 and each sample's own.
    """
    height, width = noise.shape[-2:]
    for level in range(1, levels + 1):
        side = max(1, height >> level), max(1, width >> level)
        coarse = torch.randn((*noise.shape[:2], *side), generator=generator, device=generator.device)
        smooth = functional.interpolate(coarse, size=(height, width), mode="bilinear")
        noise = noise + discount**level * smooth
        if 1 in side:
            break
    return noise / noise.std(dim=(1, 2, 3), keepdim=True)


def perturbed(noise: torch.Tensor, generator: torch.Generator, objective: ObjectiveConfig) -> torch.Tensor:
    """Return the noise that latents are mixed with for the UNet's input; the target keeps `noise`.

    It is the same tensor where `objective.input_perturbation` is 0.
    Source: Ning et al. 2023, https://arxiv.org/abs/2301.11706, DDPM-IP (there with γ = 0.1).
    """
    if not objective.input_perturbation:
        return noise
    more = torch.randn(noise.shape, generator=generator, device=generator.device)
    return noise + objective.input_perturbation * more
