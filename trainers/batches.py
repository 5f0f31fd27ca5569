"""Batches: so many samples from each stream of pictures, with noise, noise levels and captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from pipelines.errors import StudioError
from trainers.caching.latents import LatentCache, frames_of, masks_of, sample
from trainers.objective import Levels, draw_noise, draw_timesteps, perturbed
from trainers.orders import Order
from trainers.settings import ObjectiveConfig

Speak = Callable[[str, torch.Generator], str]
"""(caption, the stream's generator) → the words of one sample: shuffled, left out, or as they are."""


@dataclass(eq=False)
class Stream:
    """Pictures that a batch takes `size` samples from, which together weigh `weight` in the loss.

    A stream has its own order and its own source of chance, so that another one beside it changes
    nothing of what it gives. speak: how its captions are said at each draw; None: as they are.
    """

    name: str
    cache: LatentCache
    size: int
    weight: float
    generator: torch.Generator
    order: Order
    speak: Speak | None = None

    @classmethod
    def of(
        cls,
        name: str,
        cache: LatentCache,
        size: int,
        weight: float,
        seed: int,
        speak: Speak | None = None,
    ) -> Stream:
        """Begin a stream; seed: of its order, variants, noise, noise levels and captions."""
        order = Order(cache.entries, cache.shapes)
        return cls(name, cache, size, weight, torch.Generator().manual_seed(seed), order, speak)

    def state(self) -> dict[str, torch.Tensor]:
        """What decides how the stream goes on: its order, the place in it, and its source of chance."""
        return {
            "permutation": self.order.permutation.clone(),
            "position": torch.tensor(self.order.position),
            "generator": self.generator.get_state(),
        }

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on where `state` was taken. Raises: StudioError where it isn't of these pictures."""
        permutation, position = state["permutation"], int(state["position"])
        begun = bool(len(permutation))
        same = torch.equal(permutation.sort().values, self.order.entries.sort().values)
        if not (0 <= position <= len(permutation) and (same or not begun)):
            raise StudioError(
                f"checkpoint's order of the {self.name} pictures is of others "
                f"({len(permutation)} against {len(self.order.entries)}); start afresh"
            )
        self.order.permutation, self.order.position = permutation.clone(), position
        self.generator.set_state(state["generator"])


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """B samples whose latents have one shape, stream after stream.

    latents, noise: fp32 (B, C, h, w). input_noise: what the latents are mixed with; `noise` itself unless
    that is perturbed. timesteps: (B,). share: fp32 (B,), what each sample counts in the loss; over all
    batches of a step Σ = Σ stream weights. mask: fp32 (B, 1, h, w) in [0, 1], how much each position
    counts; None: all alike. frames: int64 (B, 6) in pixels, see `Encoded`. streams: of each sample, the
    stream's number. captions: B.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    input_noise: torch.Tensor
    timesteps: torch.Tensor
    share: torch.Tensor
    mask: torch.Tensor | None
    frames: torch.Tensor
    captions: tuple[str, ...]
    streams: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.captions)

    @classmethod
    def of(cls, streams: tuple[int, ...], tensors: Mapping[str, torch.Tensor]) -> Batch:
        """Put together what `tensors` returned; the captions are left out."""
        return cls(
            latents=tensors["latents"],
            noise=tensors["noise"],
            input_noise=tensors.get("input_noise", tensors["noise"]),
            timesteps=tensors["timesteps"],
            share=tensors["share"],
            mask=tensors.get("mask"),
            frames=tensors["frames"],
            captions=("",) * len(streams),
            streams=streams,
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name, each once."""
        found = {name: getattr(self, name) for name in ("latents", "noise", "timesteps", "share", "frames")}
        if self.input_noise is not self.noise:
            found["input_noise"] = self.input_noise
        if self.mask is not None:
            found["mask"] = self.mask
        return found

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each stream."""
        return tuple(self.streams.count(index) for index in range(max(self.streams) + 1))

    def take(self, rows: Sequence[int]) -> Batch:
        """Return the samples at `rows`, which may be none; views where they stand behind each other."""
        where = where_of(rows, self.latents.device)
        noise = self.noise[where]
        return Batch(
            latents=self.latents[where],
            noise=noise,
            input_noise=noise if self.input_noise is self.noise else self.input_noise[where],
            timesteps=self.timesteps[where],
            share=self.share[where],
            mask=None if self.mask is None else self.mask[where],
            frames=self.frames[where],
            captions=tuple(self.captions[row] for row in rows),
            streams=tuple(self.streams[row] for row in rows),
        )

    def rows(self, stream: int) -> list[int]:
        """Return where the samples of stream `stream` stand."""
        return [row for row, one in enumerate(self.streams) if one == stream]

    def part(self, stream: int) -> Batch:
        """Return the samples of stream `stream`; none where it has none here."""
        return self.take(self.rows(stream))

    def split(self, count: int) -> list[Batch]:
        """Cut into at most `count` batches of nearly equal length, in order; none is empty."""
        parts = torch.arange(len(self)).tensor_split(min(count, len(self)))
        return [self.take(part.tolist()) for part in parts]

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on `device`.

        On a CUDA card they go there from pinned memory, behind what the card is doing, and nobody waits.
        """
        noise = _moved(self.noise, device)
        return replace(
            self,
            latents=_moved(self.latents, device),
            noise=noise,
            input_noise=noise if self.input_noise is self.noise else _moved(self.input_noise, device),
            timesteps=_moved(self.timesteps, device),
            share=_moved(self.share, device),
            mask=None if self.mask is None else _moved(self.mask, device),
            frames=_moved(self.frames, device),
        )


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a tensor; PyTorch keeps its pinned copy until the card has read it."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def where_of(rows: Sequence[int], device: torch.device) -> slice | torch.Tensor:
    """Return rows as an index: a slice where they stand behind each other, which asks nothing of a card."""
    if rows and list(rows) == list(range(rows[0], rows[-1] + 1)):
        return slice(rows[0], rows[-1] + 1)
    return torch.as_tensor(rows, dtype=torch.long, device=device)


def draw_step(
    streams: Sequence[Stream], levels: Levels, objective: ObjectiveConfig, accumulate: int = 1
) -> list[Batch]:
    """Draw all batches of the next optimizer step, on the CPU.

    Each of the `accumulate` rounds takes every stream's `size` samples; those of one shape share a batch,
    so that a round gives one batch or, with pictures of several shapes, more. Drawn are, from each stream's
    own generator: the order, a picture's variant, latents, noise, noise levels, words.
    """
    batches: list[Batch] = []
    for _ in range(accumulate):
        by_shape: dict[torch.Size, list[Batch]] = {}
        for number, stream in enumerate(streams):
            share = stream.weight / (stream.size * accumulate)
            for part in _draw(stream, number, share, levels, objective):
                by_shape.setdefault(part.latents.shape[1:], []).append(part)
        batches += [_joined(parts) for parts in by_shape.values()]
    return batches


def _draw(
    stream: Stream, number: int, share: float, levels: Levels, objective: ObjectiveConfig
) -> list[Batch]:
    """Draw a stream's next `size` samples: one batch for each shape among them."""
    generator = stream.generator
    indices = stream.order.take(stream.size, generator)
    timesteps = draw_timesteps(len(indices), levels, objective, generator)
    by_shape: dict[tuple[int, int], list[int]] = {}
    for place, index in enumerate(indices):
        by_shape.setdefault(stream.cache.shapes[index], []).append(place)
    found: list[Batch] = []
    for places in by_shape.values():
        chosen = [stream.cache.choose(indices[place], generator) for place in places]
        latents = sample(chosen, generator)
        noise = draw_noise(tuple(latents.shape), generator, objective)
        found.append(
            Batch(
                latents=latents,
                noise=noise,
                input_noise=perturbed(noise, generator, objective),
                timesteps=timesteps[places],
                share=torch.full((len(places),), share),
                mask=masks_of(chosen),
                frames=frames_of(chosen),
                captions=tuple(_spoken(stream, indices[place]) for place in places),
                streams=(number,) * len(places),
            )
        )
    return found


def _spoken(stream: Stream, index: int) -> str:
    caption = stream.cache.captions[index]
    return caption if stream.speak is None else stream.speak(caption, stream.generator)


def _joined(parts: Sequence[Batch]) -> Batch:
    """Put batches of one shape behind each other."""
    if len(parts) == 1:
        return parts[0]
    noise = torch.cat([part.noise for part in parts])
    plain = all(part.input_noise is part.noise for part in parts)
    mask = None
    if any(part.mask is not None for part in parts):
        mask = torch.cat(
            [torch.ones_like(part.latents[:, :1]) if part.mask is None else part.mask for part in parts]
        )
    return Batch(
        latents=torch.cat([part.latents for part in parts]),
        noise=noise,
        input_noise=noise if plain else torch.cat([part.input_noise for part in parts]),
        timesteps=torch.cat([part.timesteps for part in parts]),
        share=torch.cat([part.share for part in parts]),
        mask=mask,
        frames=torch.cat([part.frames for part in parts]),
        captions=tuple(caption for part in parts for caption in part.captions),
        streams=tuple(stream for part in parts for stream in part.streams),
    )
