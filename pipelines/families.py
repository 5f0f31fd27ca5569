"""The families of bases, one row each.

A row says how a family's pipeline folder is recognised, which text encoders it has and how adapter
files spell their modules, how the prompt reaches the UNet, and what an exported adapter says about
its architecture. Nothing else in the code asks which family it has before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """One text encoder of a family.

    component: its name in a pipeline folder, and the first part of canonical module names.
    model_class: its class in transformers. tokenizer: its tokenizer's folder.
    kohya_prefix: what kohya files written here put before its modules. kohya_read: every prefix that is
    read as this encoder. embedding_key: its tensor in a textual-inversion file of A1111's form.
    file_prefix: what its tensors' names begin with in a base of one file. file_spelling: how they go on
    in the files written here, a key of `bases.spelling.SPELLINGS` (all are read). file_layers: layers
    of the published encoder that the family uses; a file may hold more. None: all of them.
    """

    component: str
    kohya_prefix: str
    kohya_read: tuple[str, ...]
    embedding_key: str = "emb_params"
    model_class: str = "CLIPTextModel"
    tokenizer: str = "tokenizer"
    file_prefix: str = "cond_stage_model."
    file_spelling: str = "transformers"
    file_layers: int | None = None

    @property
    def prefixed(self) -> bool:
        """Whether its module's names begin with `text_model.`, which transformers 5 keeps there only."""
        return self.model_class == "CLIPTextModelWithProjection"


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """The published UNet's blocks, by which SGM names (`input_blocks_4_1_…`) are told apart.

    layers: residual layers per down block. down, up: per block, whether it has attention.
    """

    down: tuple[bool, ...]
    up: tuple[bool, ...]
    layers: int = 2


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of Stable Diffusion models.

    pipeline_class, inpaint_class: what diffusers calls its pipelines, the latter over UNets that take a mask.
    linear_projection: whether its UNets project attention in and out by linear layers (the others by
    1×1 convolutions). context_widths: width of the text that cross-attention sees, in the published
    models: tells an adapter file's family by the shape of an attn2 key or value factor.
    file_marks: how `ss_base_model_version` or `modelspec.architecture` begin in files for it.
    unet_spelling: which names kohya files written here use, "diffusers" or "sgm"; both are read.
    hidden_layer: which hidden state of the text encoders the UNet sees: -1 the last, after its norm.
    pooled: whether the last text encoder's projection and the picture's sizes go to the UNet as well.
    vae_overflows: whether the published VAE leaves fp16's range, so that it runs in fp32 there.
    prediction_types: what its published UNets predict; more than one means that a file of tensors alone
    doesn't tell. architecture: `modelspec.architecture` of a LoRA file. base_architectures: of a
    whole model, by "inpainting" or what it predicts; the first stands in for others. base_model_version:
    `ss_base_model_version` of a kohya file. ss_v2: kohya's "True" for SD 2.x. unet_targets,
    text_targets: names of the target sets (see TARGETS) that training uses unless told otherwise.
    """

    id: str
    label: str
    pipeline_class: str
    inpaint_class: str
    text_encoders: tuple[TextEncoder, ...]
    blocks: Blocks
    linear_projection: bool
    context_widths: tuple[int, ...]
    file_marks: tuple[str, ...]
    architecture: str
    base_architectures: Mapping[str, str]
    base_model_version: str
    ss_v2: str = "False"
    unet_spelling: str = "diffusers"
    unet_kohya_prefix: str = "lora_unet_"
    hidden_layer: int = -1
    pooled: bool = False
    vae_overflows: bool = False
    prediction_types: tuple[str, ...] = ("epsilon",)
    unet_targets: str = "attention"
    text_targets: str = "attention"

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components that adapters reach, the UNet first."""
        return ("unet", *(encoder.component for encoder in self.text_encoders))

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the folders of a pipeline of this family."""
        tokenizers = (encoder.tokenizer for encoder in self.text_encoders)
        return (*self.components, "vae", *tokenizers, "scheduler")


_SD_BLOCKS = Blocks(down=(True, True, True, False), up=(False, True, True, True))
_ONE_ENCODER = TextEncoder(
    component="text_encoder", kohya_prefix="lora_te_", kohya_read=("lora_te_", "lora_te1_")
)
# SD 2.x stops before the last of open_clip's 24 layers, and diffusers leaves that one out.
_OPEN_CLIP_ENCODER = replace(_ONE_ENCODER, file_spelling="open_clip", file_layers=23)

FAMILIES: dict[str, Family] = {
    "sd15": Family(
        id="sd15",
        label="Stable Diffusion 1.x",
        pipeline_class="StableDiffusionPipeline",
        inpaint_class="StableDiffusionInpaintPipeline",
        text_encoders=(_ONE_ENCODER,),
        blocks=_SD_BLOCKS,
        linear_projection=False,
        context_widths=(768,),
        file_marks=("sd_v1", "sd_1", "stable-diffusion-v1"),
        architecture="stable-diffusion-v1/lora",
        base_architectures={
            "epsilon": "stable-diffusion-v1",
            "inpainting": "stable-diffusion-v1-inpainting",
        },
        base_model_version="sd_v1",
    ),
    "sd2": Family(
        id="sd2",
        label="Stable Diffusion 2.x",
        pipeline_class="StableDiffusionPipeline",
        inpaint_class="StableDiffusionInpaintPipeline",
        text_encoders=(_OPEN_CLIP_ENCODER,),
        blocks=_SD_BLOCKS,
        linear_projection=True,
        context_widths=(1024,),
        file_marks=("sd_v2", "sd_2", "stable-diffusion-v2"),
        architecture="stable-diffusion-v2-512/lora",
        base_architectures={
            "epsilon": "stable-diffusion-v2-512",
            "v_prediction": "stable-diffusion-v2-768-v",
            "inpainting": "stable-diffusion-v2-inpainting",
        },
        base_model_version="sd_v2",
        ss_v2="True",
        prediction_types=("epsilon", "v_prediction"),
    ),
    "sdxl": Family(
        id="sdxl",
        label="Stable Diffusion XL",
        pipeline_class="StableDiffusionXLPipeline",
        inpaint_class="StableDiffusionXLInpaintPipeline",
        text_encoders=(
            TextEncoder(
                component="text_encoder",
                kohya_prefix="lora_te1_",
                kohya_read=("lora_te1_", "lora_te_"),
                embedding_key="clip_l",
                file_prefix="conditioner.embedders.0.",
            ),
            TextEncoder(
                component="text_encoder_2",
                kohya_prefix="lora_te2_",
                kohya_read=("lora_te2_",),
                embedding_key="clip_g",
                model_class="CLIPTextModelWithProjection",
                tokenizer="tokenizer_2",
                file_prefix="conditioner.embedders.1.",
                file_spelling="open_clip",
            ),
        ),
        blocks=Blocks(down=(False, True, True), up=(True, True, False)),
        linear_projection=True,
        context_widths=(2048,),
        file_marks=("sdxl", "stable-diffusion-xl"),
        architecture="stable-diffusion-xl-v1-base/lora",
        base_architectures={
            "epsilon": "stable-diffusion-xl-v1-base",
            "inpainting": "stable-diffusion-xl-v1-inpainting",
        },
        base_model_version="sdxl_base_v1-0",
        unet_spelling="sgm",
        hidden_layer=-2,
        pooled=True,
        vae_overflows=True,
    ),
}

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
_CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "conv", "conv_in", "conv_out")
_TIME = ("time_emb_proj", "linear_1", "linear_2")

UNET_TARGETS: dict[str, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "attention+ff": _ATTENTION + _FEED_FORWARD,
    "all": _ATTENTION + _FEED_FORWARD + _CONVOLUTIONS + _TIME,
}

TEXT_TARGETS: dict[str, tuple[str, ...]] = {
    "attention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "attention+mlp": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}

TARGETS: dict[str, dict[str, tuple[str, ...]]] = {"unet": UNET_TARGETS, "text_encoder": TEXT_TARGETS}
"""Per component kind, the named sets of module name endings that an adapter may be put on."""


def block_of(module: str) -> str:
    """Return the block that a canonical module name belongs to, as weights per block name it.

    "down_blocks.0", "mid_block", "up_blocks.2", "conv_in", "conv_out", "time_embedding",
    "add_embedding", or a text encoder's own name.
    """
    component, path = module.split(".", 1)
    if component != "unet":
        return component
    first, _, rest = path.partition(".")
    return f"{first}.{rest.split('.', 1)[0]}" if first in ("down_blocks", "up_blocks") else first


def with_text_model(path: str) -> str:
    """Put the `text_model.` level, which canonical names leave out, back into a text encoder's path."""
    return path if path.startswith("text_projection") else f"text_model.{path}"


def family_of_pipeline(class_name: str, unet_config: Mapping[str, Any]) -> Family | None:
    """Return the row of a pipeline folder by its class and its UNet's config, or None."""
    linear = bool(unet_config.get("use_linear_projection", False))
    for family in FAMILIES.values():
        if class_name in (family.pipeline_class, family.inpaint_class) and family.linear_projection == linear:
            return family
    return None


# How files of families that are no row give themselves away, so that they are refused by name.
_FOREIGN_METADATA = {"sd3": "SD 3", "stable-diffusion-3": "SD 3", "flux": "FLUX"}
_FOREIGN_KEYS = {"lora_unet_double_blocks_": "FLUX", "lora_unet_single_blocks_": "FLUX",
                 "lora_unet_joint_blocks_": "SD 3", "transformer.": "a transformer model (SD 3, FLUX)",
                 "lora_transformer_": "a transformer model (SD 3, FLUX)", "lora_te3_": "SD 3"}  # fmt: skip


def foreign_family(keys: list[str], metadata: Mapping[str, str]) -> str | None:
    """Return the name of the unsupported family that an adapter file is for, or None.

    Looks at `ss_base_model_version` and `modelspec.architecture`, then at the keys' beginnings.
    """
    for field in ("ss_base_model_version", "modelspec.architecture"):
        stated = metadata.get(field, "").lower()
        for beginning, label in _FOREIGN_METADATA.items():
            if stated.startswith(beginning):
                return label
    for key in keys:
        for beginning, label in _FOREIGN_KEYS.items():
            if key.startswith(beginning):
                return label
    return None
