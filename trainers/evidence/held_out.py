"""The denoising loss on pictures that aren't learned from, with noise and noise levels held fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pipelines.base import Base
from pipelines.conditioning import Conditioning
from trainers.batches import Batch
from trainers.caching.latents import LatentCache, frames_of
from trainers.objective import Levels, noise_levels, predict, squared_errors, target
from trainers.settings import ObjectiveConfig

LEVELS = 8
"""Noise levels per picture, at the middles of equal parts of the range."""

Encode = Callable[[Sequence[str]], Conditioning]
"""Captions as the UNet sees them."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What is measured on: pictures × LEVELS samples that never change, a batch for each shape of latents.

    levels: the base's own, whatever the objective learns on, so that losses can be compared.

    The loss says how well the pictures are explained, not whether the subject is recognised: look at
    image similarity beside it.
    """

    levels: Levels
    batches: tuple[Batch, ...]

    def loss(self, base: Base, encode: Encode, batch_size: int = 8) -> float:
        """Return the mean squared error of the prediction over all samples, adapter and all.

        It is that whatever the objective, and over whole pictures, whatever their masks.
        """
        total = 0.0
        with torch.no_grad():
            for batch in self.batches:
                for start in range(0, len(batch), batch_size):
                    rows = range(start, min(start + batch_size, len(batch)))
                    total += self._sum(base, encode, batch.take(rows).to(base.device))
        return total / sum(len(batch) for batch in self.batches)

    def _sum(self, base: Base, encode: Encode, batch: Batch) -> float:
        """Sum of the errors of a batch's samples."""
        sample = (batch.latents, batch.noise, batch.timesteps)
        predicted = predict(base, self.levels, *sample, encode(batch.captions), batch.frames)
        return float(squared_errors(predicted, target(self.levels, *sample)).sum())


def hold_out(base: Base, cache: LatentCache, seed: int = 0) -> HeldOut:
    """Fix what is measured on: the mean latents of each picture's first variant, with noise from `seed`."""
    levels = noise_levels(base, ObjectiveConfig())
    generator = torch.Generator().manual_seed(seed)
    middles = ((torch.arange(LEVELS) + 0.5) * (levels.count / LEVELS)).long()
    batches = []
    for shape in dict.fromkeys(cache.shapes):
        indices = [index for index, one in enumerate(cache.shapes) if one == shape for _ in range(LEVELS)]
        chosen = [cache.pictures[index][0] for index in indices]
        latents = torch.stack([one.mean for one in chosen])  # (M, C, h, w)
        noise = torch.randn(latents.shape, generator=generator)
        batches.append(
            Batch(
                latents=latents,
                noise=noise,
                input_noise=noise,
                timesteps=middles.repeat(len(indices) // LEVELS),
                share=torch.full((len(indices),), 1.0 / LEVELS),
                mask=None,
                frames=frames_of(chosen),
                captions=tuple(cache.captions[index] for index in indices),
                streams=(0,) * len(indices),
            )
        )
    return HeldOut(levels, tuple(batches))
