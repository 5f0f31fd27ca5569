"""Every module of the published models has a key in each spelling that reads back, one to one."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.families import FAMILIES
from pipelines.formats import FORMATS
from pipelines.formats.keys import ALPHA, DOWN, UP
from pipelines.formats.kohya import read_kohya, read_lycoris, write_key
from pipelines.formats.sgm import from_sgm, to_sgm
from pipelines.methods import METHODS

_SD_BLOCKS: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd15": {**_SD_BLOCKS, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {
        **_SD_BLOCKS,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
_CLIP_L: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
TEXT_ENCODERS: dict[str, tuple[dict[str, Any], ...]] = {
    "sd15": (_CLIP_L,),
    "sd2": ({"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23},),
    "sdxl": (
        _CLIP_L,
        {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "projection_dim": 1280},
    ),
}
# Linear layers and convolutions of UNet and text encoders: counted by hand from the published models.
COUNTS = {"sd15": 282 + 72, "sd2": 282 + 138, "sdxl": 794 + 72 + 193}
NORMS = (nn.GroupNorm, nn.LayerNorm)


@cache
def published(family: str) -> dict[str, tuple[int, ...]]:
    """Shape by canonical name of every layer and norm of a family's published models, without weights."""
    import transformers
    from diffusers import UNet2DConditionModel

    row = FAMILIES[family]
    found: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        parts = {"unet": UNet2DConditionModel(sample_size=64, **UNETS[family])}
        for encoder, fields in zip(row.text_encoders, TEXT_ENCODERS[family], strict=True):
            config = transformers.CLIPTextConfig(num_attention_heads=fields["hidden_size"] // 64, **fields)
            parts[encoder.component] = getattr(transformers, encoder.model_class)(config)
    for component, model in parts.items():
        for name, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, *NORMS)):
                plain = name.removeprefix("text_model.")
                found[f"{component}.{plain}"] = tuple(module.weight.shape)
    return found


def layers(family: str) -> list[str]:
    """Canonical names of a family's linear layers and convolutions."""
    return [name for name, shape in published(family).items() if len(shape) > 1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("format", [row.id for row in FORMATS.values() if row.read_key and row.holds("lora")])
def test_every_module_has_a_key_that_reads_back(family: str, format: str) -> None:
    row, kind, modules = FORMATS[format], FAMILIES[family], layers(family)
    assert len(modules) == COUNTS[family]
    parts = (DOWN, UP, ALPHA) if row.alpha_tensors else (DOWN, UP)
    assert row.read_key is not None
    keys = {}
    for module in modules:
        for part in parts:
            key = row.write_key(module, part, kind)
            assert row.read_key(key, kind) == (module, part)
            keys[key] = module
    assert len(keys) == len(modules) * len(parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_spellings_of_the_unet_go_there_and_back(family: str) -> None:
    """Norms included; and a kohya file of either spelling is read for every family."""
    row = FAMILIES[family]
    paths = [name.removeprefix("unet.") for name in published(family) if name.startswith("unet.")]
    spelled = {path: to_sgm(path, row.blocks) for path in paths}
    assert len(set(spelled.values())) == len(paths)
    for path, sgm in spelled.items():
        assert sgm is not None and from_sgm(sgm, row.blocks) == path, path
        for name in (path, sgm):
            key = f"lora_unet_{name.replace('.', '_')}.lora_up.weight"
            assert read_kohya(key, row) == (f"unet.{path}", UP), key


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_of_lycoris_files_are_read(family: str) -> None:
    row = FAMILIES[family]
    norms = [name for name, shape in published(family).items() if len(shape) == 1]
    assert len(norms) > 90
    for module in norms:
        assert read_lycoris(write_key(module, "w_norm", row), row) == (module, "w_norm")


@pytest.mark.parametrize(
    ("family", "module", "stem"),
    [
        ("sd15", "unet.down_blocks.1.attentions.0.proj_in", "lora_unet_down_blocks_1_attentions_0_proj_in"),
        ("sd2", "unet.mid_block.resnets.1.conv1", "lora_unet_mid_block_resnets_1_conv1"),
        ("sdxl", "unet.down_blocks.1.attentions.0.proj_in", "lora_unet_input_blocks_4_1_proj_in"),
        ("sdxl", "unet.down_blocks.0.downsamplers.0.conv", "lora_unet_input_blocks_3_0_op"),
        ("sdxl", "unet.up_blocks.1.upsamplers.0.conv", "lora_unet_output_blocks_5_2_conv"),
        ("sdxl", "unet.up_blocks.2.resnets.0.conv_shortcut", "lora_unet_output_blocks_6_0_skip_connection"),
        ("sdxl", "unet.mid_block.resnets.1.time_emb_proj", "lora_unet_middle_block_2_emb_layers_1"),
        ("sdxl", "unet.add_embedding.linear_2", "lora_unet_label_emb_0_2"),
        ("sdxl", "unet.conv_out", "lora_unet_out_2"),
        ("sd15", "text_encoder.encoder.layers.3.mlp.fc1", "lora_te_text_model_encoder_layers_3_mlp_fc1"),
        ("sdxl", "text_encoder.encoder.layers.3.self_attn.q_proj",
         "lora_te1_text_model_encoder_layers_3_self_attn_q_proj"),
        ("sdxl", "text_encoder_2.encoder.layers.31.self_attn.out_proj",
         "lora_te2_text_model_encoder_layers_31_self_attn_out_proj"),
        ("sdxl", "text_encoder_2.text_projection", "lora_te2_text_projection"),
    ],
)  # fmt: skip
def test_keys_are_those_that_other_tools_know(family: str, module: str, stem: str) -> None:
    assert write_key(module, UP, FAMILIES[family]) == f"{stem}.lora_up.weight"


def test_diffusers_reads_sdxl_keys_as_the_same_modules() -> None:
    """The whole SDXL key list through diffusers' own conversion; samplers and norms included."""
    from diffusers.loaders import lora_conversion_utils as theirs

    row, modules = FAMILIES["sdxl"], layers("sdxl")
    config = type("Config", (), {"layers_per_block": 2})
    converted = 0
    for module in modules:
        tensors = {
            write_key(module, part, row): torch.tensor(float(index))
            for index, part in enumerate((DOWN, UP, ALPHA))
        }
        state = theirs._maybe_map_sgm_blocks_to_diffusers(tensors, config)
        state, _ = theirs._convert_non_diffusers_lora_to_diffusers(state)
        names = {_canonical(name) for name in state}
        assert names == {module}, (module, names)
        converted += 1
    assert converted == COUNTS["sdxl"]


def _canonical(name: str) -> str:
    """Pigment's name of a key that diffusers' conversion made, before PEFT's spelling."""
    component, _, path = name.partition(".")
    for ending in (".lora.down.weight", ".lora.up.weight", "_lora.down.weight", "_lora.up.weight",
                   ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"):  # fmt: skip
        path = path.removesuffix(ending)
    path = path.replace(".processor", "").replace("text_model.", "")
    if component == "unet":
        return f"unet.{path}.0" if path.endswith(".to_out") else f"unet.{path}"
    for ours, old in (("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out")):
        path = f"{path.removesuffix(old)}{ours}" if path.endswith(old) else path
    return f"{component}.{path}"


def test_every_part_has_one_meaning_per_spelling() -> None:
    """Two rows that spell a part alike must mean the same part: keys are read before the method is known."""
    for spelling in ("lycoris",):
        meanings: dict[str, str] = {}
        for row in METHODS.values():
            for part in row.parts:
                if ending := getattr(part, spelling):
                    assert meanings.setdefault(ending, part.name) == part.name
