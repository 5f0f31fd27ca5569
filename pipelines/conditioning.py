"""What a base is told beside its weights: the prompts as the UNet sees them, and who holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


class Holder(Protocol):
    """What holds a base: a mixer whose weights may follow the denoising steps."""

    def at(self, step: int, total: int) -> None:
        """Write the UNet's weights of a denoising step, 0 … total − 1."""

    def rest(self) -> None:
        """Write the weights back as they are outside of denoising."""


class Words(Protocol):
    """Learned words that prompts may hold while adapters with such are in the mix."""

    def expand(self, prompt: str, component: str) -> str:
        """Put a word's further vectors behind it."""

    def tokenizer(self, component: str) -> CLIPTokenizer:
        """Return a text encoder's tokenizer that knows the words."""


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told about B prompts.

    hidden: (B, L, D), all text encoders side by side in D. pooled: (B, P), or None where the family has none.
    mask: bool (B, L), which positions belong to the prompt, where some are longer than others; None: all.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    def arguments(self, size: tuple[int, int]) -> dict[str, Any]:
        """Return the UNet's arguments for pictures of (height, width) pixels.

        Where the family has them: original and target size are the picture's, nothing was cropped.
        """
        return self.arguments_for(torch.tensor([[*size, 0, 0, *size]]).expand(len(self.hidden), -1))

    def arguments_for(self, frames: torch.Tensor) -> dict[str, Any]:
        """Return the UNet's arguments for pictures that were cut, each in its own way.

        frames: (B, 6) in pixels: original height and width, top and left of the cut, height and width of what
        is left; families without pooled prompts don't look at it.
        Source: Podell et al. 2023, https://arxiv.org/abs/2307.01952, section 2.2.
        """
        told = {"encoder_hidden_states": self.hidden}
        if self.mask is not None:
            told["encoder_attention_mask"] = self.mask
        if self.pooled is None:
            return told
        ids = frames.to(device=self.pooled.device, dtype=self.pooled.dtype)
        added = {"text_embeds": self.pooled, "time_ids": ids}  # (B, P), (B, 6)
        return {**told, "added_cond_kwargs": added}

    def after(self, other: Conditioning) -> Conditioning:
        """Return B + B prompts: the other's, then these."""
        assert self.mask is None and other.mask is None
        pooled = None
        if self.pooled is not None and other.pooled is not None:
            pooled = torch.cat([other.pooled, self.pooled])
        return Conditioning(torch.cat([other.hidden, self.hidden]), pooled)
