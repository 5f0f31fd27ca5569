"""How alike pictures are, and how well they fit a prompt: a CLIP-style judge that works offline.

The judge is the base's own image tower (`image_encoder/`, a CLIPVisionModelWithProjection) with the
projection of its text encoder (`text_projection.safetensors`), trained contrastively on the corpus the
base was made from. It is for comparing runs on that base, not a general CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from pipelines.base import ASSETS
from pipelines.errors import BaseError

PARTS = ("image_encoder", "text_projection.safetensors")
"""What lies beside a base that has its own judge."""


@dataclass(frozen=True)
class Judge:
    """The two towers; embeddings are unit vectors of one space of D dimensions."""

    vision: CLIPVisionModelWithProjection
    text: CLIPTextModel
    tokenizer: CLIPTokenizer
    projection: torch.Tensor  # (D, text width)

    name: str = "the base's own towers"

    @staticmethod
    def beside(path: Path) -> bool:
        """Whether a folder holds such towers."""
        return all((Path(path) / part).exists() for part in PARTS)

    @classmethod
    def load(cls, path: Path = ASSETS / "pocket") -> Judge:
        """The judge beside a base.

        Raises:
            BaseError: the folder holds no image tower.
        """
        path = Path(path)
        missing = [part for part in PARTS if not (path / part).exists()]
        if missing:
            raise BaseError(
                f"{path.name} has no {' and no '.join(missing)}, which similarity is measured with; "
                "use the embedded base, or measure the held-out loss only"
            )
        return cls(
            CLIPVisionModelWithProjection.from_pretrained(
                path / "image_encoder", torch_dtype=torch.float32
            ).eval(),
            CLIPTextModel.from_pretrained(path / "text_encoder", torch_dtype=torch.float32).eval(),
            CLIPTokenizer.from_pretrained(path / "tokenizer"),
            load_file(path / "text_projection.safetensors")["text_projection.weight"].float(),
        )

    @property
    def resolution(self) -> int:
        """Side of the square pictures the tower sees, in pixels."""
        return self.vision.config.image_size

    def prepare(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """(B, 3, S, S) in [-1, 1]: the whole picture, resampled to the tower's square."""
        size = (self.resolution, self.resolution)
        arrays = [
            np.asarray(
                i.convert("RGB").resize(size, Image.Resampling.BICUBIC)
                if i.size != size
                else i.convert("RGB")
            )
            for i in images
        ]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.no_grad()
    def image_embeddings(self, images: Sequence[Image.Image], batch: int = 64) -> torch.Tensor:
        """(B, D) unit vectors, one per picture of any size."""
        pixels = self.prepare(images)
        return torch.cat(
            [functional.normalize(self.vision(part).image_embeds, dim=-1) for part in pixels.split(batch)]
        )

    @torch.no_grad()
    def text_embeddings(self, prompts: Sequence[str], batch: int = 64) -> torch.Tensor:
        """(B, D) unit vectors, one per prompt."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        pooled = torch.cat([self.text(part).pooler_output for part in tokens.split(batch)])  # (B, width)
        return functional.normalize(pooled @ self.projection.T, dim=-1)

    def image_similarity(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image]) -> float:
        """Mean cosine over all pairs of a picture and a reference, -1..1."""
        return float((self.image_embeddings(pictures) @ self.image_embeddings(references).T).mean())

    def prompt_similarity(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> float:
        """Mean cosine of each picture with its own prompt, -1..1."""
        return float((self.image_embeddings(pictures) * self.text_embeddings(prompts)).sum(-1).mean())
