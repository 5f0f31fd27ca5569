"""Files that are given as a base and aren't one: each kind is known by a mark in its tensors' names.

A row says what the file is and what to do with it; the first row that fits is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from pipelines.bases.structure import UNET_PREFIX, VAE_PREFIXES

SUPPORTED = "supported are Stable Diffusion 1.x, 2.x and XL"

_WHOLE = "choose a whole checkpoint, or give the diffusers folder that it belongs to"


@dataclass(frozen=True)
class Foreign:
    """A kind of file that is no base. mark: whether a file's names are of this kind."""

    kind: str
    advice: str
    mark: Callable[[Collection[str]], bool]


def _holds(pattern: str) -> Callable[[Collection[str]], bool]:
    """Whether any name holds the pattern."""
    compiled = re.compile(pattern)
    return lambda names: any(compiled.search(name) for name in names)


def _only(*starts: str) -> Callable[[Collection[str]], bool]:
    """Whether some name begins so, and there are no tensors of a text encoder in the original layout."""
    encoders = ("cond_stage_model.", "conditioner.")
    return lambda names: (
        any(name.startswith(starts) for name in names)
        and not any(name.startswith(encoders) for name in names)
    )


_UNET = rf"^(?:{re.escape(UNET_PREFIX)})?"
_LORA = (
    r"^lora_(?:unet|te)|\.lora_(?:A|B|up|down)\.|\.(?:hada_w1|lokr_w[12]|oft_blocks|oft_diag)|\.dora_scale$"
)
_ENCODER = r"(?:text_model|cond_stage_model|conditioner|transformer\.resblocks|encoder\.layers)\."


def _is_words(names: Collection[str]) -> bool:
    return len(names) <= 4 and bool({"emb_params", "clip_l", "clip_g"} & set(names))


def _is_refiner(names: Collection[str]) -> bool:
    starts = {name[: len("conditioner.embedders.0.model.")] for name in names}
    return "conditioner.embedders.0.model." in starts and not _holds(r"^conditioner\.embedders\.1\.")(names)


def _is_encoder(names: Collection[str]) -> bool:
    return _holds("^" + _ENCODER)(names) and not _holds("^" + re.escape(UNET_PREFIX))(names)


FOREIGN: tuple[Foreign, ...] = (
    Foreign(
        "an adapter (LoRA or a relative of it)",
        "import it into the library and mix it onto a base",
        _holds(_LORA),
    ),
    Foreign("a textual inversion (learned words)", "use it as an adapter", _is_words),
    Foreign(
        "a ControlNet",
        "give it as a control beside a base",
        _holds(r"^control_model\.|input_hint_block\.|controlnet_cond_embedding\.|^zero_convs\."),
    ),
    Foreign(
        "an IP-Adapter", "give it as an image prompt beside a base", _holds(r"^image_proj\.|^ip_adapter\.")
    ),
    Foreign("a motion module (AnimateDiff)", SUPPORTED, _holds(r"motion_modules\.|temporal_transformer\.")),
    Foreign("a video model (Stable Video Diffusion)", SUPPORTED, _holds(r"\.time_stack\.|\.time_mixer\.")),
    Foreign(
        "a FLUX model",
        SUPPORTED,
        _holds(_UNET + r"(?:double|single)_blocks\.|^single_transformer_blocks\."),
    ),
    Foreign("an SD 3 model", SUPPORTED, _holds(_UNET + r"joint_blocks\.")),
    Foreign(
        "another transformer model",
        SUPPORTED,
        _holds(_UNET + r"(?:transformer_blocks|double_layers|layers|blocks|double_stream_blocks)\.\d"),
    ),
    Foreign(
        "a Stable Cascade model",
        SUPPORTED,
        _holds(_UNET + r"(?:clip_txt_mapper|down_blocks\.\d+\.\d+\.channelwise)\."),
    ),
    Foreign(
        "a model of EDM's noise levels (CosXL, Playground 2.5)",
        SUPPORTED,
        _holds(r"^edm_(?:vpred\.|mean$|std$)"),
    ),
    Foreign(
        "an SD 2.x unCLIP model", f"{SUPPORTED} without picture embeddings", _holds(r"^noise_augmentor\.")
    ),
    Foreign("an upscaling model", SUPPORTED, _holds(r"^low_scale_model\.")),
    Foreign("a depth model", f"{SUPPORTED} without depth maps", _holds(r"^depth_model\.")),
    Foreign(
        "the refiner of SDXL",
        "choose an SDXL base; a picture is refined by image-to-image with any base",
        _is_refiner,
    ),
    Foreign(
        "a UNet alone in diffusers' layout",
        _WHOLE,
        _holds(r"^(?:unet\.)?(?:down_blocks\.0\.resnets|mid_block\.attentions)\."),
    ),
    Foreign(
        "a UNet alone, without text encoder",
        _WHOLE,
        _only(UNET_PREFIX, "input_blocks.", "diffusion_model.", "middle_block."),
    ),
    Foreign(
        "a VAE alone",
        "choose a base, and give this file as its VAE",
        _only(*VAE_PREFIXES, "encoder.conv_in.", "decoder.conv_in."),
    ),
    Foreign("a text encoder alone", _WHOLE, _is_encoder),
)
"""Kinds of files that are refused by name, the surest marks first."""


def foreign_kind(names: Collection[str]) -> Foreign | None:
    """Return the kind of a file that is no base, or None where it may be one."""
    return next((row for row in FOREIGN if row.mark(names)), None)
