"""Pictures through the VAE's encoder: once for all runs that learn the same cuts with the same VAE."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import PIL
import torch

from pipelines.base import Base
from pipelines.errors import BaseError
from pipelines.exhausted import out_of_memory
from trainers.caching.latents import Encoded, LatentCache, OnDisk
from trainers.caching.store import Store, key_of, machine, weights_sha256
from trainers.events import TrainEvent
from trainers.frames import Cut, Frame
from trainers.images import to_pixels
from trainers.masks import weights

Tensors = dict[str, torch.Tensor]

LATENTS = "latents"
"""The folder of latents below the cache folder."""

MEMORY_BYTES = 2**26
"""What latents may take in memory; where they would take more, all are read from the disk as they are drawn,
so that neither memory nor a step's time depends on how many pictures there are."""

_VERSION = 1
_NOTED_EVERY = 16


def encode_frames(
    base: Base,
    frames: Sequence[Frame],
    folder: Path | None,
    *,
    unmasked: float = 1.0,
    stage: str = "latents",
    total: int = 0,
) -> Generator[TrainEvent, None, LatentCache]:
    """Encode every variant of every frame that isn't kept yet, saying so now and then; return them all.

    folder: the cache folder, which runs share; None: nothing is kept. unmasked: what positions outside a
    mask weigh. stage: what the events call it. total: steps of the run. An interrupted call goes on where
    it was, since each variant is kept at once. What is read from the disk is trusted only where its
    checksum holds: at once, or above `MEMORY_BYTES` at each draw, and is made again otherwise.

    Raises: BaseError where the VAE gives what is no number; PictureError where a picture has changed.
    """
    encoder = _Encoder(base, folder)
    small = folder is None or sum(_bytes(base, frame) for frame in frames) <= MEMORY_BYTES
    count = sum(len(frame.variants) for frame in frames)
    done = 0
    held: dict[tuple[int, int], Tensors] = {}
    for place, frame in enumerate(frames):
        cuts: Iterator[Cut] | None = None  # decoded only where a variant isn't kept
        for index in range(len(frame.variants)):
            found = encoder.kept(frame, index) if small else None
            if found is None and (small or not encoder.has(frame, index)):
                cuts = cuts if cuts is not None else _from(frame, index)
                found = encoder.made(frame, index, next(cuts))
                if encoder.number % _NOTED_EVERY == 0:
                    yield _event(stage, done + 1, count, total)
            elif cuts is not None:
                next(cuts)
            done += 1
            if found is not None and (small or not encoder.keeps):
                held[place, index] = found
    if encoder.number % _NOTED_EVERY:
        yield _event(stage, done, count, total)
    for note in encoder.close():
        yield TrainEvent(kind="warning", total=total, message=note)

    def read(place: int, index: int) -> Encoded:
        frame = frames[place]
        found = held.get((place, index)) or encoder.kept(frame, index)
        if found is None:  # damaged or removed since
            found = encoder.made(frame, index, frame.cut(index))
        return _encoded(found, frame.numbers(index), unmasked)

    return _cache(base, frames, read, small)


def _cache(
    base: Base, frames: Sequence[Frame], read: Callable[[int, int], Encoded], small: bool
) -> LatentCache:
    """Put together what `read` gives by frame and variant: all of it now where it is small."""
    captions, repeats = tuple(frame.caption for frame in frames), tuple(frame.repeats for frame in frames)
    counts = [len(frame.variants) for frame in frames]
    if small:
        pictures = tuple(tuple(read(place, index) for index in range(n)) for place, n in enumerate(counts))
        return LatentCache(pictures, captions, repeats)
    factor = base.vae_scale_factor
    sides = tuple((frame.size[0] // factor, frame.size[1] // factor) for frame in frames)
    return LatentCache(OnDisk(read, counts), captions, repeats, sides)


def _bytes(base: Base, frame: Frame) -> int:
    """What a frame's latents take in memory, but for masks."""
    positions = frame.size[0] * frame.size[1] // base.vae_scale_factor**2
    return 2 * 4 * base.latent_channels * positions * len(frame.variants)


class _Encoder:
    """A VAE's encoder over the store of what it has encoded before. number: cuts that had to be encoded."""

    def __init__(self, base: Base, folder: Path | None) -> None:
        self.number = 0
        self._base = base
        self._store = None if folder is None else Store(folder / LATENTS)
        self._made_by: list[str | int] = []
        if self._store is not None:
            how: Any = base.vae
            tiled = f"{how.tile_sample_min_size} {how.tile_overlap_factor}" if how.use_tiling else ""
            vae = weights_sha256([base.vae])
            self._made_by = [_VERSION, PIL.__version__, vae, tiled, *machine(base.device)]
        self._on_cpu = 0

    @property
    def keeps(self) -> bool:
        """Whether what is made stays on the disk."""
        return self._store is not None and self._store.failed is None

    def has(self, frame: Frame, index: int) -> bool:
        """Tell whether the store has a variant's tensors; they aren't looked at."""
        return self._store is not None and self._store.has(self._key(frame, index))

    def kept(self, frame: Frame, index: int) -> Tensors | None:
        """Return a variant's tensors where the store has them."""
        return None if self._store is None else self._store.read(self._key(frame, index))

    def made(self, frame: Frame, index: int, cut: Cut) -> Tensors:
        """Encode a variant and keep it: mean, std (C, h, w), and mask (h, w) in [0, 1] where it has one."""
        mean, std = self._encode(to_pixels([cut.picture]))
        tensors = {"mean": mean[0].float().cpu(), "std": std[0].float().cpu()}
        if not all(bool(one.isfinite().all()) for one in tensors.values()):
            raise BaseError(
                f"base {self._base.ref!r}: its VAE makes no numbers (NaN) of picture {frame.item.name!r} in "
                f"{str(self._base.vae.dtype)[6:]}; set run.precision to 'bf16' or 'fp32'"
            )
        if cut.mask is not None:
            height, width = mean.shape[-2:]
            tensors["mask"] = torch.from_numpy(weights(cut.mask, (height, width), 0.0))
        self.number += 1
        if self._store is not None:
            self._store.write(self._key(frame, index), tensors)
        return tensors

    def close(self) -> Iterator[str]:
        """Tidy the store; yield what a person should know."""
        if self._on_cpu:
            yield f"{self._on_cpu} pictures were encoded on the CPU, since the device's memory was full"
        if self._store is not None:
            yield from self._store.notes("latents")
            self._store.tidy()

    def _key(self, frame: Frame, index: int) -> str:
        return key_of(*self._made_by, frame.key(index))

    def _encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode one picture: a batch's composition would change the last bits.

        Where the device's memory is full, what is cached there is given back; where that isn't enough, a
        copy of the VAE on the CPU does it, which is slower and the same but for rounding.
        """
        for _ in range(2):
            try:
                return self._base.encode_images(pixels)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or self._base.device.type == "cpu":
                    raise
            gc.collect()
            if self._base.device.type == "cuda":
                torch.cuda.empty_cache()
        self._on_cpu += 1
        return _encode_on_cpu(self._base, pixels)


def _encode_on_cpu(base: Base, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode (1, 3, H, W) as `Base.encode_images` does, with a copy of the VAE in fp32 on the CPU."""
    from diffusers import AutoencoderKL

    vae: AutoencoderKL = AutoencoderKL.from_config(base.vae.config)
    vae.load_state_dict({name: value.detach().cpu() for name, value in base.vae.state_dict().items()})
    with torch.no_grad():
        latents = vae.float().eval().encode(pixels.float()).latent_dist
        return latents.mean * base.scaling_factor, latents.std * base.scaling_factor


def _from(frame: Frame, index: int) -> Iterator[Cut]:
    """Yield a frame's cuts from variant `index` on."""
    cuts = frame.cuts()
    for _ in range(index):
        next(cuts)
    return cuts


def _encoded(tensors: Tensors, frame: tuple[int, int, int, int, int, int], unmasked: float) -> Encoded:
    mask = tensors.get("mask")
    weighted = None if mask is None else (unmasked + (1.0 - unmasked) * mask)[None]  # (1, h, w)
    return Encoded(tensors["mean"], tensors["std"], weighted, frame)


def _event(stage: str, done: int, count: int, total: int) -> TrainEvent:
    data = {"stage": stage, "done": done, "of": count}
    return TrainEvent(kind="stage", total=total, message=f"{stage} {done}/{count}", data=data)
