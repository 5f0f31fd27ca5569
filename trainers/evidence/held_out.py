"""The denoising loss on pictures that aren't learned from, with noise and noise levels held fixed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipelines.base import Base
from trainers.cache import LatentCache, PromptEncoder
from trainers.objective import num_timesteps, predict, squared_errors, target

LEVELS = 8
"""Noise levels per picture, at the middles of equal parts of the range."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What is measured on: M = pictures × LEVELS samples that never change.

    latents, noise: fp32 (M, C, h, w). timesteps: (M,). captions: M of them.

    The loss says how well the pictures are explained, not whether the subject is recognised: look at
    image similarity beside it.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    captions: tuple[str, ...]

    def loss(self, base: Base, encode: PromptEncoder, batch_size: int = 8) -> float:
        """Return the mean squared error of the prediction over all samples, adapter and all."""
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(self.captions), batch_size):
                part = slice(start, start + batch_size)
                sample = (self.latents[part], self.noise[part], self.timesteps[part])
                predicted = predict(base, *sample, encode(self.captions[part]))
                total += float(squared_errors(predicted, target(base, *sample)).sum())
        return total / len(self.captions)


def hold_out(base: Base, cache: LatentCache, seed: int = 0) -> HeldOut:
    """Fix what is measured on: the mean latents of `cache`, with noise drawn from `seed`."""
    count = len(cache)
    generator = torch.Generator().manual_seed(seed)
    latents = cache.mean.repeat_interleave(LEVELS, dim=0)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    middles = (torch.arange(LEVELS) + 0.5) * (num_timesteps(base) / LEVELS)
    timesteps = middles.long().repeat(count).to(latents.device)
    captions = tuple(caption for caption in cache.captions for _ in range(LEVELS))
    return HeldOut(latents, noise, timesteps, captions)
