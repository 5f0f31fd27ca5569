"""The families of bases, one row each.

A row says how a family's pipeline folder is recognised, which text encoders it has and how the
kohya file form spells them, and what an exported adapter says about its architecture. Nothing
else in the code asks which family it has before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """One text encoder of a family.

    component: its name in a pipeline folder, and the first part of canonical module names.
    kohya_prefix: what kohya files written here put before its modules.
    kohya_read: every prefix that is read as this encoder.
    text_model: whether files carry a `text_model.` level that canonical names leave out.
    """

    component: str
    kohya_prefix: str
    kohya_read: tuple[str, ...]
    text_model: bool = True


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of Stable Diffusion models.

    architecture: `modelspec.architecture` of a LoRA file. base_model_version:
    `ss_base_model_version` of a kohya file. ss_v2: kohya's "True" for SD 2.x.
    unet_targets, text_targets: names of the target sets (see TARGETS) that training uses unless told
    otherwise.
    """

    id: str
    label: str
    pipeline_class: str
    text_encoders: tuple[TextEncoder, ...]
    architecture: str
    base_model_version: str
    ss_v2: str = "False"
    unet_kohya_prefix: str = "lora_unet_"
    unet_targets: str = "attention"
    text_targets: str = "attention"

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components that adapters reach, the UNet first."""
        return ("unet", *(encoder.component for encoder in self.text_encoders))


FAMILIES: dict[str, Family] = {
    "sd15": Family(
        id="sd15",
        label="Stable Diffusion 1.x",
        pipeline_class="StableDiffusionPipeline",
        text_encoders=(
            TextEncoder(
                component="text_encoder", kohya_prefix="lora_te_", kohya_read=("lora_te_", "lora_te1_")
            ),
        ),
        architecture="stable-diffusion-v1/lora",
        base_model_version="sd_v1",
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

# How files of families that are no row yet give themselves away, so that they are refused by name.
_FOREIGN_METADATA = {"sdxl": "SDXL", "stable-diffusion-xl": "SDXL", "sd_v2": "SD 2.x",
                     "stable-diffusion-v2": "SD 2.x", "sd3": "SD 3", "stable-diffusion-3": "SD 3",
                     "flux": "FLUX"}  # fmt: skip
_FOREIGN_KEYS = {"lora_te2_": "SDXL", "text_encoder_2.": "SDXL", "lora_unet_input_blocks_": "SDXL",
                 "lora_unet_output_blocks_": "SDXL", "lora_unet_middle_block_": "SDXL",
                 "lora_unet_double_blocks_": "FLUX", "lora_unet_joint_blocks_": "SD 3",
                 "transformer.": "a transformer model (SD 3, FLUX)", "lora_te3_": "SD 3"}  # fmt: skip


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
