"""Who says how alike pictures are: the base's own towers, a CLIP or SigLIP, and a DINO-style model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch.nn import functional

from pipelines.base import Base
from pipelines.bases.libraries import quiet
from pipelines.bases.named import model_folder
from pipelines.errors import ConfigError
from trainers.evidence.similarity import Judge
from trainers.previews import chance_kept
from trainers.settings import EvidenceConfig


class Structure(Protocol):
    """Sees pictures. name: as people know it."""

    @property
    def name(self) -> str:
        """As people know it, never a whole path."""
        ...

    def image_embeddings(self, images: Sequence[Image.Image], batch: int = 64) -> torch.Tensor:
        """(B, D) unit vectors on the CPU, one per picture of any size."""
        ...


class Likeness(Structure, Protocol):
    """Sees pictures and reads prompts, in one space."""

    def text_embeddings(self, prompts: Sequence[str], batch: int = 64) -> torch.Tensor:
        """(B, D) unit vectors on the CPU, one per prompt."""
        ...


@dataclass(frozen=True, eq=False)
class Judges:
    """Who judges pictures; None where nobody can.

    likeness: CLIP-style, of pictures and prompts. structure: DINO-style, of pictures alone.
    """

    likeness: Likeness | None = None
    structure: Structure | None = None

    def describe(self) -> str:
        """Say who judges, in one line."""
        found = [f"likeness by {self.likeness.name}"] if self.likeness else []
        found += [f"structure by {self.structure.name}"] if self.structure else []
        return ", ".join(found) or "no judge: the base has no image tower; set evidence.judge"


@dataclass(frozen=True, eq=False)
class Tower:
    """A vision model of transformers. size: batches are cut to it."""

    name: str
    model: Any
    processor: Any
    see: Callable[[Any, torch.Tensor], torch.Tensor]  # (B, 3, H, W) → (B, D)

    @torch.no_grad()
    def image_embeddings(self, images: Sequence[Image.Image], batch: int = 16) -> torch.Tensor:
        """(B, D) unit vectors on the CPU, one per picture of any size."""
        found = []
        for start in range(0, len(images), batch):
            part = [image.convert("RGB") for image in images[start : start + batch]]
            pixels = self.processor(images=part, return_tensors="pt")["pixel_values"]
            seen = self.see(self.model, pixels.to(self.model.device, self.model.dtype))
            found.append(functional.normalize(seen.float(), dim=-1).cpu())
        return torch.cat(found)


@dataclass(frozen=True, eq=False)
class TwoTowers(Tower):
    """A vision model with the text model of the same space."""

    tokenizer: Any = None

    @torch.no_grad()
    def text_embeddings(self, prompts: Sequence[str], batch: int = 64) -> torch.Tensor:
        """(B, D) unit vectors on the CPU, one per prompt; longer ones are cut at the model's length."""
        found = []
        for start in range(0, len(prompts), batch):
            length = self.model.config.get_text_config().max_position_embeddings
            tokens = self.tokenizer(
                list(prompts[start : start + batch]),
                padding="max_length", max_length=length, truncation=True, return_tensors="pt",
            ).to(self.model.device)  # fmt: skip
            told = self.model.get_text_features(**tokens)
            found.append(functional.normalize(_tensor(told).float(), dim=-1).cpu())
        return torch.cat(found)


def load_judges(base: Base | None, config: EvidenceConfig, device: torch.device | str = "cpu") -> Judges:
    """Load who `config` names; without a name the towers beside the base, where it has them.

    device: for named models; the embedded towers are small and stay on the CPU. No random generator moves.
    Raises: ConfigError, in one line, for a model that isn't there, can't be fetched or is of another kind.
    """
    with chance_kept(torch.device(device)), quiet():
        if config.judge:
            likeness: Likeness | None = load_likeness(config.judge, device)
        else:
            likeness = Judge.load(base.path) if base is not None and Judge.beside(base.path) else None
        structure = load_structure(config.structure_judge, device) if config.structure_judge else None
    return Judges(likeness, structure)


def load_likeness(name: str, device: torch.device | str = "cpu") -> Likeness:
    """Load a CLIP or SigLIP of transformers, or the towers in a folder in the embedded base's layout.

    name: a folder, or a hub id, which is fetched where it isn't there. Only safetensors, and none of the
    model's own code. Raises: ConfigError.
    """
    if Judge.beside(Path(name)):
        return Judge.load(Path(name))

    def load(folder: Path, **options: Any) -> Likeness:
        from transformers import AutoModel, AutoTokenizer

        model = AutoModel.from_pretrained(folder, use_safetensors=True, **options)
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise ValueError(f"it is a {type(model).__name__}, which doesn't see and read in one space")
        return TwoTowers(
            name=Path(name).name,
            model=model.eval().to(device),
            processor=_processor(folder, options),
            see=lambda model, pixels: _tensor(model.get_image_features(pixel_values=pixels)),
            tokenizer=AutoTokenizer.from_pretrained(folder, **options),
        )

    return _loaded(load, name, "evidence.judge", "a CLIP or SigLIP model")


def load_structure(name: str, device: torch.device | str = "cpu") -> Structure:
    """Load a vision model of transformers (DINO, DINOv2, ViT): the class token of its last layer.

    name: a folder, or a hub id, which is fetched where it isn't there. Raises: ConfigError.
    Source: Ruiz et al. 2022, https://arxiv.org/abs/2208.12242, section 4.1 (there ViT-S/16 DINO).
    """

    def load(folder: Path, **options: Any) -> Structure:
        from transformers import AutoModel

        model = AutoModel.from_pretrained(folder, use_safetensors=True, **options)
        model = getattr(model, "vision_model", model)
        if model.main_input_name != "pixel_values":
            raise ValueError(f"it is a {type(model).__name__}, which sees no pictures")
        see = lambda model, pixels: model(pixel_values=pixels).last_hidden_state[:, 0]  # noqa: E731
        return Tower(Path(name).name, model.eval().to(device), _processor(folder, options), see)

    return _loaded(load, name, "evidence.structure_judge", "a DINO-style image model")


def _tensor(found: Any) -> torch.Tensor:
    """The features, which newer versions wrap."""
    return found if isinstance(found, torch.Tensor) else found.pooler_output


def _processor(folder: Path, options: dict[str, Any]) -> Any:
    """What makes pixels of pictures, by Pillow: torchvision isn't needed."""
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, backend="pil", **options)


def _loaded(load: Callable[..., Any], name: str, field: str, kind: str) -> Any:
    """Load from a folder, which is fetched where it isn't there. Raises: ConfigError."""
    try:
        return load(model_folder(name, "judge"), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, ImportError and others.
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise ConfigError(
            f"{field} {name!r} can't be loaded ({(reason or type(error).__name__)[:200]}); give a "
            f"folder that holds {kind}, go online, or leave it out"
        ) from None
