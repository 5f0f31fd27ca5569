"""Pictures as latents and prompts as embeddings, as the loop takes them until it uses `trainers.caching`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from pipelines.base import Base
from trainers.caching.latents import Encoded, LatentCache
from trainers.images import to_pixels

__all__ = ["LatentCache", "PromptEncoder", "encode_pictures"]

_ENCODE_BATCH = 8


def encode_pictures(base: Base, pictures: Sequence[Image.Image], captions: Sequence[str]) -> LatentCache:
    """Encode N square pictures of one size, each with its caption."""
    assert len(pictures) == len(captions) and pictures
    parts = [
        base.encode_images(to_pixels(list(pictures[start : start + _ENCODE_BATCH])))
        for start in range(0, len(pictures), _ENCODE_BATCH)
    ]
    mean, std = (torch.cat([part[side].float().cpu() for part in parts]) for side in (0, 1))
    encoded = tuple((Encoded(one, spread),) for one, spread in zip(mean, std, strict=True))
    return LatentCache(encoded, tuple(captions))


@dataclass(eq=False)
class PromptEncoder:
    """Prompts as embeddings: each different prompt of a batch once, and once for all where nothing trains.

    trained: whether a text encoder is being trained, so that embeddings carry gradients and change.
    """

    base: Base
    trained: bool
    _kept: dict[str, torch.Tensor] = field(default_factory=dict)

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Encode B prompts: (B, L, D)."""
        unique = list(dict.fromkeys(prompts))
        if self.trained:
            encoded = self.base.encode_prompts(unique)
            place = {prompt: index for index, prompt in enumerate(unique)}
            return encoded[[place[prompt] for prompt in prompts]]
        # One at a time: a batch's composition changes the last bits, and after a resume it is another.
        with torch.no_grad():
            for prompt in unique:
                if prompt not in self._kept:
                    self._kept[prompt] = self.base.encode_prompts([prompt])[0]
        return torch.stack([self._kept[prompt] for prompt in prompts])
