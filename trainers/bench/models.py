"""Models and adapters to measure: the embedded base, a folder, or random weights in published shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pipelines.adapter import Adapter, LowRank
from pipelines.base import Base, load_base, quiet
from pipelines.device import choose_device
from pipelines.errors import ConfigError
from pipelines.families import FAMILIES, TEXT_TARGETS, UNET_TARGETS

RANDOM = ("sd15", "sdxl")
"""Models made of random weights: speed doesn't depend on what they are."""

_CLIP_L: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}  # fmt: skip
_CLIP_G: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "hidden_act": "gelu", "projection_dim": 1280,
}  # fmt: skip
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "latent_channels": 4,
}  # fmt: skip
_UNETS: dict[str, dict[str, Any]] = {
    "sd15": {
        "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    "sdxl": {
        "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
_SCALING = {"sd15": 0.18215, "sdxl": 0.13025}
_SMALLER = 8
_VOCABULARY, _LENGTH = 49408, 77


class StandInTokenizer:
    """Numbers in the place of words, for models of random weights; it answers as CLIP's tokenizers do."""

    model_max_length = _LENGTH
    bos_token_id, pad_token_id, eos_token_id = 0, 1, 2

    def __call__(
        self, prompts: str | Sequence[str], *, add_special_tokens: bool = True, **_: Any
    ) -> SimpleNamespace:
        """Return an object whose `input_ids` are (B, 77), or lists of words' ids without special tokens."""
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        rows = [[3 + sum(word.encode()) % 40_000 for word in text.split()] for text in texts]
        if not add_special_tokens:
            return SimpleNamespace(input_ids=rows[0] if isinstance(prompts, str) else rows)
        filled = [[self.bos_token_id, *row[: _LENGTH - 2], self.eos_token_id] for row in rows]
        return SimpleNamespace(
            input_ids=torch.tensor([row + [self.pad_token_id] * (_LENGTH - len(row)) for row in filled])
        )


@dataclass(frozen=True)
class Subject:
    """A model to be measured. name: its key among the figures. rank: of its adapters."""

    name: str
    source: str
    small: bool
    rank: int
    device: str | None = None

    def load(self) -> Base:
        """Load or make it; two calls give equal weights."""
        if self.source in RANDOM:
            return random_base(self.source, small=self.small, device=self.device)
        return load_base(self.source, device=self.device)


def subject(source: str, *, small: bool, rank: int | None, device: str | None) -> Subject:
    """Return what `--model source` means.

    Raises: ConfigError for a full-size random model without a CUDA device.
    """
    if source in RANDOM:
        if not small and choose_device(device).device.type != "cuda":
            raise ConfigError(
                f"model {source!r} in full size needs a CUDA device; add --small for an eighth of its width"
            )
        return Subject(f"{source}-small" if small else source, source, small, rank or 16, device)
    name = "pocket" if source == "pocket" else Path(source).name
    return Subject(name, source, False, rank or 8, device)


def random_base(family: str, *, small: bool = False, device: str | None = None) -> Base:
    """Make a model in the published shapes on the device, in its usual precision (bf16 on CUDA).

    small: an eighth of the width and of the picture's side, at the same depth and number of layers.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    chosen, row = choose_device(device), FAMILIES[family]
    divisor = _SMALLER if small else 1
    unet, vae, clips = _configs(family, divisor)
    default = torch.get_default_dtype()
    torch.set_default_dtype(chosen.dtype)
    try:
        with quiet(), torch.random.fork_rng(), torch.device(chosen.device):
            torch.manual_seed(0)
            parts: dict[str, Any] = {"unet": UNet2DConditionModel(**unet), "vae": AutoencoderKL(**vae)}
            kinds = {
                "CLIPTextModel": CLIPTextModel,
                "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
            }
            for encoder, config in zip(row.text_encoders, clips, strict=False):
                made = CLIPTextConfig(
                    **config, vocab_size=_VOCABULARY, max_position_embeddings=_LENGTH, bos_token_id=0,
                    eos_token_id=2, pad_token_id=1,
                )  # fmt: skip
                parts[encoder.component] = kinds[encoder.model_class](made)
                parts[encoder.tokenizer] = StandInTokenizer()
    finally:
        torch.set_default_dtype(default)
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    parts["scheduler"] = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    ref = f"{family}-random"
    return Base(ref=ref, path=Path(ref), family=row, device=chosen.device, dtype=chosen.dtype, **parts)


def _configs(family: str, divisor: int) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Configs of UNet, VAE and text encoders, an integer factor narrower."""
    unet, vae = dict(_UNETS[family]), {**_VAE, "scaling_factor": _SCALING[family]}
    clips = [dict(_CLIP_L), dict(_CLIP_G)] if FAMILIES[family].pooled else [dict(_CLIP_L)]
    if divisor > 1:
        for config in (unet, vae):
            config["block_out_channels"] = tuple(width // divisor for width in config["block_out_channels"])
            config["norm_num_groups"] = 8
        unet["sample_size"] //= divisor
        unet["cross_attention_dim"] //= divisor
        heads = unet["attention_head_dim"]
        unet["attention_head_dim"] = heads if isinstance(heads, tuple) else heads // 2
        for clip in clips:
            clip["num_attention_heads"] //= 4
            for side in ("hidden_size", "intermediate_size", "projection_dim"):
                if side in clip:
                    clip[side] //= divisor
        if "projection_class_embeddings_input_dim" in unet:
            ids = 6 * unet["addition_time_embed_dim"]
            unet["projection_class_embeddings_input_dim"] = clips[-1]["projection_dim"] + ids
    return unet, vae, clips


def targets(base: Base, unet: str = "attention+ff") -> list[str]:
    """The linear layers that the adapters are on: a named set of the UNet's, and of the text encoders' what
    training takes by default."""
    ends = {"unet": UNET_TARGETS[unet]}
    text = TEXT_TARGETS[base.family.text_targets]
    layers = base.modules()
    return [
        name
        for name, layer in layers.items()
        if isinstance(layer, torch.nn.Linear)
        and name.endswith(tuple(f".{end}" for end in ends.get(name.split(".", 1)[0], text)))
    ]


def adapters(base: Base, modules: Sequence[str], count: int, rank: int) -> dict[str, Adapter]:
    """`count` random LoRAs on `modules`, alpha = rank, ΔW about a tenth of the weight."""
    layers = base.modules()
    made = {}
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        factors = {}
        for module in modules:
            out, inner = layers[module].weight.shape
            down = torch.randn((rank, inner), generator=generator) / inner**0.5
            up = torch.randn((out, rank), generator=generator) * (0.06 / rank**0.5)
            factors[module] = LowRank(down=down, up=up, alpha=float(rank))
        made[f"a{index}"] = Adapter(name=f"a{index}", factors=factors, family=base.family.id)
    return made
