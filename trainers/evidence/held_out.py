"""The denoising loss on fixed samples: pictures, noise and noise levels that never change.

What is measured on are the sets of `record.SETS`: held-out pictures, those that are learned from as they are,
mirrored and told without the trigger, and pictures of the class and of other things by the base itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from pipelines.base import Base
from pipelines.conditioning import Conditioning
from trainers.batches import Batch
from trainers.caching.latents import LatentCache, frames_of
from trainers.evidence.record import BANDS, LEVELS, Loss
from trainers.objective import Levels, noise_levels, predict, squared_errors, target
from trainers.settings import ObjectiveConfig


def at_once(sample: torch.Tensor) -> int:
    """Return how many samples of this shape (…, h, w) are predicted together: as many as fill the device
    without filling its memory, 64 of 16×16 latents and 4 of 128×128."""
    return max(4, min(64, 2**16 // (sample.shape[-2] * sample.shape[-1])))


Encode = Callable[[Sequence[str]], Conditioning]
"""Captions as the UNet sees them."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What is measured on: samples that never change, a batch for each shape of latents.

    levels: the base's own, whatever the objective learns on, so that losses can be compared.

    The loss says how well the pictures are explained, not whether the subject is recognised: look at
    image similarity beside it.
    """

    levels: Levels
    batches: tuple[Batch, ...]

    @property
    def captions(self) -> tuple[str, ...]:
        """All that is asked for."""
        return tuple(dict.fromkeys(caption for batch in self.batches for caption in batch.captions))

    def loss(self, base: Base, encode: Encode, batch_size: int | None = None) -> float:
        """Return the mean squared error of the prediction over all samples, adapter and all.

        It is that whatever the objective, and over whole pictures, whatever their masks.
        """
        return self.measure(base, encode, batch_size).mean

    def measure(self, base: Base, encode: Encode, batch_size: int | None = None) -> Loss:
        """Return the mean squared error over all samples, and in each of BANDS parts of the schedule."""
        return self.judge(self.predictions(base, encode, batch_size))

    def judge(self, predicted: Sequence[torch.Tensor]) -> Loss:
        """Return the loss of what `predictions` returned; a band without samples counts as the mean."""
        errors, places = [], []
        for batch, found in zip(self.batches, predicted, strict=True):
            sample = (batch.latents.to(found), batch.noise.to(found), batch.timesteps.to(found.device))
            errors.append(squared_errors(found, target(self.levels, *sample)).double().cpu())  # (M,)
            places.append(batch.timesteps * BANDS // self.levels.count)
        error, place = torch.cat(errors), torch.cat(places)
        mean = float(error.sum() / len(error))
        bands = [error[place == band] for band in range(BANDS)]
        return Loss(mean=mean, bands=tuple(float(own.mean()) if len(own) else mean for own in bands))

    def predictions(self, base: Base, encode: Encode, batch_size: int | None = None) -> list[torch.Tensor]:
        """Return what the base predicts for every sample, adapter and all: fp32 (M, C, h, w) per batch.

        batch_size: samples that are predicted together; None: as `at_once` says.
        """
        with torch.no_grad():
            return [
                torch.cat(
                    [
                        self._predict(base, encode, part)
                        for part in _parts(batch, batch_size or at_once(batch.latents))
                    ]
                )
                for batch in self.batches
            ]

    def _predict(self, base: Base, encode: Encode, batch: Batch) -> torch.Tensor:
        batch = batch.to(base.device)
        sample = (batch.latents, batch.noise, batch.timesteps)
        return predict(base, self.levels, *sample, encode(batch.captions), batch.frames)


def distance(found: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Mean squared difference between two results of `predictions` of one set."""
    total = sum(float((a - b).double().square().sum()) for a, b in zip(found, other, strict=True))
    return total / sum(one.numel() for one in found)


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, len(batch), size):
        yield batch.take(range(start, min(start + size, len(batch))))


def hold_out(
    base: Base,
    cache: LatentCache,
    seed: int = 0,
    *,
    variant: int = 0,
    captions: Sequence[str] | None = None,
    levels: int = LEVELS,
    dealt: bool = False,
) -> HeldOut:
    """Fix what is measured on: the mean latents of a variant of each picture, with noise from `seed`.

    captions: in the place of the pictures' own. levels: noise levels per picture, at the middles of equal
    parts of the range. dealt: let every picture have levels of its own, so that all together lie in N times
    as many parts.
    """
    schedule = noise_levels(base, ObjectiveConfig())
    generator = torch.Generator().manual_seed(seed)
    said = cache.captions if captions is None else captions
    batches = []
    for shape in dict.fromkeys(cache.shapes):
        own = [index for index, one in enumerate(cache.shapes) if one == shape]
        indices = [index for index in own for _ in range(levels)]
        chosen = [cache.pictures[index][variant] for index in indices]
        latents = torch.stack([one.mean for one in chosen])  # (M, C, h, w)
        noise = torch.randn(latents.shape, generator=generator)
        batches.append(
            Batch(
                latents=latents,
                noise=noise,
                input_noise=noise,
                timesteps=_timesteps(schedule.count, len(own), levels, dealt),
                share=torch.full((len(indices),), 1.0 / levels),
                mask=None,
                frames=frames_of(chosen),
                captions=tuple(said[index] for index in indices),
                streams=(0,) * len(indices),
            )
        )
    return HeldOut(schedule, tuple(batches))


def _timesteps(count: int, pictures: int, levels: int, dealt: bool) -> torch.Tensor:
    """Timesteps (pictures · levels,), those of a picture together."""
    if not dealt:
        return ((torch.arange(levels) + 0.5) * (count / levels)).long().repeat(pictures)
    parts = pictures * levels
    middles = ((torch.arange(parts) + 0.5) * (count / parts)).long()  # dealt out like cards
    return middles.reshape(levels, pictures).T.reshape(-1)


def measure_sets(
    sets: Mapping[str, HeldOut], base: Base, encode: Encode, before: Mapping[str, Sequence[torch.Tensor]]
) -> tuple[dict[str, Loss], dict[str, float]]:
    """Measure every set; return (losses, how far predictions have moved from `before`), both by set.

    before: what the base itself predicts, by set. Sets whose predictions aren't numbers are left out.
    """
    losses, moved = {}, {}
    for name, one in sets.items():
        found = one.predictions(base, encode)
        if all(bool(part.isfinite().all()) for part in found):
            losses[name], moved[name] = one.judge(found), distance(found, before[name])
    return losses, moved
