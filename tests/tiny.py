"""Small random models and adapters: the whole way in milliseconds, on a CPU, offline."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from pipelines.adapter import Adapter, LowRank
from pipelines.base import Base, pipeline_extras, quiet
from pipelines.families import FAMILIES, TEXT_TARGETS, UNET_TARGETS

# Every UNet here has cross-attention, so that all module kinds that adapters reach are there.
_UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
}
_VAE: dict[str, Any] = {
    "sample_size": 16,
    "latent_channels": 4,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "scaling_factor": 0.5,
}
_SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
# What differs per family. SDXL's two text encoders have different widths: equal ones load silently wrong.
_FAMILY_UNETS: dict[str, dict[str, Any]] = {
    "sd15": {},
    "sd2": {"use_linear_projection": True, "attention_head_dim": (2, 4)},
    "sdxl": {
        "layers_per_block": 2,
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (2, 4, 4),
        "use_linear_projection": True,
        "cross_attention_dim": 32 + 40,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
    },
}
_TEXT_ENCODERS: dict[str, tuple[dict[str, Any], ...]] = {
    "sd15": ({"hidden_size": 32, "intermediate_size": 48},),
    "sd2": ({"hidden_size": 32, "intermediate_size": 48, "hidden_act": "gelu"},),
    "sdxl": (
        {"hidden_size": 32, "intermediate_size": 48},
        {"hidden_size": 40, "intermediate_size": 56, "hidden_act": "gelu", "projection_dim": 24},
    ),
}


def save_tiny_pipeline(
    folder: Path,
    *,
    family: str = "sd15",
    seed: int = 0,
    unet: dict[str, Any] | None = None,
    prediction_type: str = "epsilon",
) -> Path:
    """Write a random pipeline of some 0.3 MB to `folder`: 16×16 pixels, f2, 4 latent channels.

    family: a key of FAMILIES. unet: fields of the UNet's config that differ from the usual ones; with
    `in_channels` 9 it is an inpainting pipeline.
    """
    import diffusers
    import transformers
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig

    row = FAMILIES[family]
    inpainting = (unet or {}).get("in_channels") == 9
    pipeline = row.inpaint_class if inpainting else row.pipeline_class
    index: dict[str, Any] = {"_class_name": pipeline, "unet": ["diffusers", "UNet2DConditionModel"]}
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizers = {
            encoder.tokenizer: _byte_tokenizer(folder / encoder.tokenizer) for encoder in row.text_encoders
        }
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**{**_UNET, **_FAMILY_UNETS[family], **(unet or {})}),
            **tokenizers,
        }
        for encoder, fields in zip(row.text_encoders, _TEXT_ENCODERS[family], strict=True):
            tokenizer = tokenizers[encoder.tokenizer]
            config = CLIPTextConfig(
                vocab_size=len(tokenizer),
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=16,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **fields,
            )
            parts[encoder.component] = getattr(transformers, encoder.model_class)(config)
            index[encoder.component] = ["transformers", encoder.model_class]
            index[encoder.tokenizer] = ["transformers", "CLIPTokenizer"]
        parts["vae"] = AutoencoderKL(**_VAE)
        parts["scheduler"] = DDIMScheduler(**{**_SCHEDULER, "prediction_type": prediction_type})
        for name, part in parts.items():
            part.save_pretrained(folder / name)
    index |= {"vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "DDIMScheduler"]}
    index |= pipeline_extras(getattr(diffusers, pipeline), row.pooled)
    for name in ("safety_checker", "feature_extractor", "image_encoder"):
        if name in index:
            index[name] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _byte_tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer of 16 tokens' length without merges: one token per byte."""
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
    names = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({name: index for index, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=16)


def target_modules(base: Base, unet: str = "attention", text: str = "attention") -> list[str]:
    """Canonical names of the modules of two named target sets; "none" leaves a component out."""

    def endings(component: str) -> tuple[str, ...]:
        return UNET_TARGETS.get(unet, ()) if component == "unet" else TEXT_TARGETS.get(text, ())

    return [
        name
        for name in base.modules()
        if any(name.endswith(f".{end}") for end in endings(name.split(".", 1)[0]))
    ]


def random_adapter(
    base: Base,
    modules: Iterable[str] | None = None,
    *,
    rank: int = 4,
    alpha: float = 8.0,
    strength: float = 0.3,
    seed: int = 0,
    name: str = "tiny",
) -> Adapter:
    """An adapter of random factors on `modules` (None: attention), alpha other than its rank.

    strength: size of ΔW against the weight it is added to, roughly, at alpha = rank.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = base.modules()
    factors = {}
    for module in target_modules(base) if modules is None else modules:
        weight = layers[module].weight
        down = torch.randn((rank, *weight.shape[1:]), generator=generator) / weight[0].numel() ** 0.5
        up = torch.randn((weight.shape[0], rank, *(1 for _ in weight.shape[2:])), generator=generator)
        up = up * strength * weight.detach().std() * (weight[0].numel() / rank) ** 0.5
        factors[module] = LowRank(down=down, up=up, alpha=alpha)
    return Adapter(
        name=name, factors=factors, family=base.family.id, triggers=("zwx",), metadata={"steps": "300"}
    )


def weights_of(base: Base) -> dict[str, torch.Tensor]:
    """A copy of every parameter of UNet and text encoders, by component and name."""
    return {
        f"{component}.{name}": parameter.detach().clone()
        for component in base.family.components
        for name, parameter in base.component(component).named_parameters()
    }


def assert_unchanged(base: Base, before: dict[str, torch.Tensor]) -> None:
    """Fail unless every parameter is bit for bit what `weights_of` saw."""
    after = weights_of(base)
    assert after.keys() == before.keys()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert not changed, f"{len(changed)} parameters changed, for instance {changed[0]}"
