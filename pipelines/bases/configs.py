"""The configs of the published models, in `assets/configs`: single files are loaded without a network.

A folder there is named for its family and laid out as diffusers does, without weights; `VARIANTS` says
what the family's other published models have otherwise. All share one CLIP vocabulary.

Source: the `config.json` files of the repositories runwayml/stable-diffusion-v1-5, stabilityai/
stable-diffusion-2-1 and -2-1-base, stable-diffusion-2-inpainting, stable-diffusion-xl-base-1.0, and
diffusers/stable-diffusion-xl-1.0-inpainting-0.1. One deviation: the text encoders' token ids are the
vocabulary's (end 49407, not 2), because with 2 transformers takes the highest id of a prompt for its end,
which a learned word's is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import BaseError, nearest
from pipelines.families import FAMILIES, Family

if TYPE_CHECKING:
    from pipelines.bases.recognise import Recognised

CONFIGS = Path(__file__).resolve().parents[2] / "assets" / "configs"
"""Where the configs lie: a folder for each family, and `tokenizer`."""

OPEN_CLIP_PAD = "!"
"""What fills prompts up for encoders of open_clip: its token 0. OpenAI's fill with the end token."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A published model: its family and what it has otherwise than the family's folder.

    prediction_type: what its UNet predicts. inpainting: whether its UNet takes a mask and a masked picture.
    changes: by part, the fields of its config that differ.
    """

    family: str
    prediction_type: str = "epsilon"
    inpainting: bool = False
    changes: Mapping[str, Mapping[str, Any]]


_INPAINTING = {"unet": {"in_channels": 9}}
_SD2_SMALL = {"unet": {"sample_size": 64, "upcast_attention": False}, "vae": {"sample_size": 512}}
# The 512-pixel models of SD 2.x came with PNDM, as did all of SD 1.x.
_PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True}

VARIANTS: dict[str, Variant] = {
    "sd15": Variant(family="sd15", changes={}),
    "sd15-inpainting": Variant(family="sd15", inpainting=True, changes=_INPAINTING),
    "sd2": Variant(family="sd2", prediction_type="v_prediction", changes={}),
    "sd2-base": Variant(family="sd2", changes={**_SD2_SMALL, "scheduler": _PNDM}),
    "sd2-inpainting": Variant(
        family="sd2",
        inpainting=True,
        changes={
            "unet": {**_SD2_SMALL["unet"], "in_channels": 9},
            "vae": _SD2_SMALL["vae"],
            "scheduler": _PNDM,
        },
    ),
    "sdxl": Variant(family="sdxl", changes={}),
    "sdxl-inpainting": Variant(family="sdxl", inpainting=True, changes=_INPAINTING),
}
"""The published models by name; of those that fit a file, the first that predicts what it does is taken."""

# What takes the place of a scheduler that can't begin at pure noise.
_ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
_WITHOUT_ZERO_SNR = {"PNDMScheduler": "DDIMScheduler"}


@dataclass(frozen=True, kw_only=True)
class Configs:
    """A model without its weights.

    index: `model_index.json`. configs: of each network and the scheduler, by part. tokenizers: by name, a
    folder, or the texts of its files.
    """

    index: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    tokenizers: Mapping[str, Path | Mapping[str, str]]


def shipped(found: Recognised) -> Configs:
    """Return the configs of the published model that a recognised file is built as.

    Where the prediction type isn't known (None), that of the family's first published model stands in.

    Raises: BaseError for a file of other sizes than the published ones that brings no configs of its own.
    """
    if found.other_sizes is not None and not found.recorded:
        raise BaseError(
            f"{found.other_sizes}; give the folder of configs it was made with, or a diffusers folder of it"
        )
    fitting = [
        name
        for name, row in VARIANTS.items()
        if row.family == found.family.id and row.inpainting == found.inpainting
    ]
    exact = [name for name in fitting if VARIANTS[name].prediction_type == found.prediction_type]
    return configs_of((exact or fitting)[0], prediction_type=found.prediction_type, zero_snr=found.zero_snr)


def configs_of(name: str, *, prediction_type: str | None = None, zero_snr: bool = False) -> Configs:
    """Return the configs of a published model by its name in VARIANTS.

    prediction_type: other than the published model's; None: that one's. zero_snr: whether it was trained
    to begin at pure noise: the betas are rescaled, and timesteps are counted from the last one.

    Raises: BaseError for an unknown name.
    """
    if name not in VARIANTS:
        raise BaseError(f"no configs of {name!r} ship with Pigment{nearest(name, VARIANTS)}")
    variant = VARIANTS[name]
    family, folder = FAMILIES[variant.family], CONFIGS / variant.family
    configs: dict[str, dict[str, Any]] = {
        part: _read(folder / part / "config.json") for part in (*family.components, "vae")
    }
    configs["scheduler"] = _read(folder / "scheduler" / "scheduler_config.json")
    for part, changes in variant.changes.items():
        configs[part] |= changes
    scheduler = configs["scheduler"]
    scheduler["prediction_type"] = prediction_type or variant.prediction_type
    if zero_snr:
        kind = scheduler["_class_name"]
        scheduler.pop("skip_prk_steps", None)  # PNDM's alone
        scheduler |= {**_ZERO_SNR, "_class_name": _WITHOUT_ZERO_SNR.get(kind, kind)}
    index = _read(folder / "model_index.json")
    index["_class_name"] = family.inpaint_class if variant.inpainting else family.pipeline_class
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    return Configs(index=index, configs=configs, tokenizers=_tokenizers(family))


def write_configs(configs: Configs, folder: Path) -> None:
    """Write a folder in diffusers' layout without weights, tokenizers included."""
    for part, config in configs.configs.items():
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        _write(folder / part / name, json.dumps(config, indent=2) + "\n")
    for name, where in configs.tokenizers.items():
        if isinstance(where, Path):
            shutil.copytree(where, folder / name, dirs_exist_ok=True)
            continue
        for file, text in where.items():
            _write(folder / name / file, text)
    _write(folder / "model_index.json", json.dumps(dict(configs.index), indent=2) + "\n")


def _tokenizers(family: Family) -> dict[str, Path | Mapping[str, str]]:
    """Return the vocabulary for each tokenizer, filled up as the encoder's kind wants it."""
    shared = CONFIGS / "tokenizer"
    found: dict[str, Path | Mapping[str, str]] = {}
    for row in family.text_encoders:
        if row.file_spelling != "open_clip":
            found[row.tokenizer] = shared
            continue
        texts = {file: (shared / file).read_text(encoding="utf-8") for file in ("vocab.json", "merges.txt")}
        config = _read(shared / "tokenizer_config.json") | {"pad_token": OPEN_CLIP_PAD}
        found[row.tokenizer] = {**texts, "tokenizer_config.json": json.dumps(config, indent=2) + "\n"}
    return found


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
