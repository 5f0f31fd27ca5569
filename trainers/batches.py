"""Batches: so many samples from each stream of pictures, with noise and noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from trainers.cache import LatentCache
from trainers.objective import draw_noise, draw_timesteps


@dataclass(eq=False)
class Shuffle:
    """Endless order over N items: one permutation after another, each item once in each."""

    count: int
    permutation: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    position: int = 0

    def take(self, number: int, generator: torch.Generator) -> list[int]:
        """Return the next `number` indices."""
        taken: list[int] = []
        while len(taken) < number:
            if self.position >= len(self.permutation):
                self.permutation = torch.randperm(self.count, generator=generator)
                self.position = 0
            part = self.permutation[self.position : self.position + number - len(taken)].tolist()
            self.position += len(part)
            taken += part
        return taken


@dataclass(eq=False)
class Stream:
    """Pictures that a batch takes `size` samples from, which together weigh `weight` in the loss.

    A stream has its own order and its own source of chance, so that another one beside it changes
    nothing of what it gives.
    """

    name: str
    cache: LatentCache
    size: int
    weight: float
    generator: torch.Generator
    order: Shuffle

    @classmethod
    def of(cls, name: str, cache: LatentCache, size: int, weight: float, seed: int) -> Stream:
        """Begin a stream; seed: of its order, noise and noise levels."""
        return cls(name, cache, size, weight, torch.Generator().manual_seed(seed), Shuffle(len(cache)))


@dataclass(frozen=True, eq=False)
class Batch:
    """B samples of all streams, stream after stream; `part` gives those of one.

    latents, noise: fp32 (B, C, h, w). timesteps: (B,). share: (B,), what each sample counts in the loss,
    Σ = Σ stream weights. captions: B. sizes: samples of each stream.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    share: torch.Tensor
    captions: tuple[str, ...]
    sizes: tuple[int, ...]

    def part(self, index: int) -> Batch:
        """Return the samples of stream `index`."""
        start = sum(self.sizes[:index])
        rows = slice(start, start + self.sizes[index])
        tensors = (self.latents[rows], self.noise[rows], self.timesteps[rows], self.share[rows])
        return Batch(*tensors, self.captions[rows], (self.sizes[index],))


def draw_batch(streams: Sequence[Stream], levels: int, noise_offset: float, device: torch.device) -> Batch:
    """Draw the next batch. levels: number of noise levels of the base."""
    latents, noise, timesteps, share, captions = [], [], [], [], []
    for stream in streams:
        chosen = stream.order.take(stream.size, stream.generator)
        latents.append(stream.cache.sample(chosen, stream.generator))
        noise.append(draw_noise(tuple(latents[-1].shape), stream.generator, noise_offset))
        timesteps.append(draw_timesteps(stream.size, levels, stream.generator))
        share.append(torch.full((stream.size,), stream.weight / stream.size))
        captions += [stream.cache.captions[index] for index in chosen]
    return Batch(
        torch.cat(latents).to(device),
        torch.cat(noise).to(device),
        torch.cat(timesteps).to(device),
        torch.cat(share).to(device),
        tuple(captions),
        tuple(stream.size for stream in streams),
    )
