"""What a base in one file is: told by its tensors' names and shapes, its metadata and a file beside it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.bases.configs import configs_of
from pipelines.bases.foreign import SUPPORTED, foreign_kind
from pipelines.bases.record import RECORD
from pipelines.bases.spelling import SPELLINGS
from pipelines.bases.structure import UNET_PREFIX, VAE_PREFIXES, Shape, count_of, leftovers, some
from pipelines.errors import BaseError
from pipelines.families import FAMILIES, Family

if TYPE_CHECKING:
    import torch

    from pipelines.formats.container import Header

_CONV_IN = f"{UNET_PREFIX}input_blocks.0.0.weight"
_CONV_OUT = f"{UNET_PREFIX}out.2.weight"
_CHANNELS = {5: "a depth map", 7: "a small picture to enlarge", 8: "a picture to edit (InstructPix2Pix)"}
_STATED = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
_READABLE = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_SIDECAR_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """What a file is.

    in_channels: of its UNet: those of a latent, or twice as many and one where it takes a mask.
    prediction_type: "epsilon" or "v_prediction", None where the file can't tell it (see
    `probe_prediction`). stated: whether the file says so itself, and not its family's published models.
    zero_snr: whether it was trained to begin at pure noise. parts: the networks whose
    tensors it holds. other_sizes: how it differs from the published models of its family, None: not at
    all. recorded: whether it carries configs of its own. notes: what else people should know.
    """

    family: Family
    in_channels: int
    inpainting: bool
    prediction_type: str | None
    stated: bool = False
    zero_snr: bool = False
    parts: tuple[str, ...] = ()
    other_sizes: str | None = None
    recorded: bool = False
    notes: tuple[str, ...] = field(default=())


def recognise(header: Header, path: Path) -> Recognised:
    """Tell a single file's family, inpainting and prediction type.

    header: of the file. path: of the file; `<name>.yaml` beside it is looked at, as A1111's users have it.

    Raises: BaseError that says what the file is, what is supported and what to do.
    """
    shown = path.name
    shapes = {key: entry.shape for key, entry in header.tensors.items()}
    foreign = foreign_kind(shapes)
    if foreign is not None:
        raise BaseError(f"{shown!r} is {foreign.kind}, not a base; {foreign.advice}")
    family = _family(shapes)
    if family is None:
        raise BaseError(
            f"{shown!r} is no base that is known: it has {len(shapes)} tensors such as "
            f"{some(sorted(shapes))}; {SUPPORTED} as one .safetensors file in the original layout"
        )
    if len(shapes.get(_CONV_IN, ())) != 4 or len(shapes.get(_CONV_OUT, ())) != 4:
        raise BaseError(
            f"{shown!r} is {family.label} without its UNet's first or last layer; fetch the file again"
        )
    _refuse_numbers(header, family, shown)
    in_channels, latent = shapes[_CONV_IN][1], shapes[_CONV_OUT][0]
    if in_channels not in (latent, 2 * latent + 1):
        use = _CHANNELS.get(in_channels)
        takes = f"takes {use} as well" if use else "is of an unknown kind"
        raise BaseError(
            f"{shown!r} is {family.label} with {in_channels} input channels, so it {takes}; supported are "
            f"{latent}, and {2 * latent + 1} of inpainting models; choose such a file"
        )
    inpainting = in_channels != latent
    prediction_type = _stated_prediction(shapes, header.metadata, path)
    stated = prediction_type is not None
    if not stated and (inpainting or len(family.prediction_types) == 1):
        prediction_type = family.prediction_types[0]  # published inpainting models all predict epsilon
    others = leftovers(shapes, family)
    notes = [f"{len(others)} tensors outside the model aren't used: {some(others)}"] if others else []
    parts = _parts(shapes, family)
    if "vae" not in parts:
        notes.append("the file holds no VAE")
    if any(entry.dtype.startswith("F8") for entry in header.tensors.values()):
        notes.append("its weights are stored in 8-bit floats, which cost quality")
    return Recognised(
        family=family,
        in_channels=in_channels,
        inpainting=inpainting,
        prediction_type=prediction_type,
        stated=stated,
        zero_snr=_is_zero_snr(shapes, header.metadata),
        parts=parts,
        other_sizes=_other_sizes(shapes, family, shown),
        recorded=RECORD in header.metadata,
        notes=tuple(notes),
    )


def probe_prediction(
    unet_call: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    alphas_cumprod: torch.Tensor,
    shape: Shape,
    generator: torch.Generator,
) -> str:
    """Tell what a UNet predicts by one call on pure noise at the last timestep: "epsilon" or "v_prediction".

    There the input is nearly all noise: a model of ε gives its input back (correlation near 1), a model of
    v = √ᾱ ε − √(1−ᾱ) x₀ gives a picture's negative (near 0 or below). With an inpainting UNet the call
    has to add a full mask and an empty picture.

    unet_call: noisy latents (B, C, H, W) and a timestep (B,) to the prediction, under any prompt.
    alphas_cumprod: ᾱ of every training timestep. shape: of the latents, of the size that it was trained at
    or half of it. generator: of the noise, on its own device.

    Raises: BaseError where the answer isn't finite or doesn't vary.
    Source: the idea is A1111's (`modules/sd_models_config.py`, is_using_v_parameterization_for_sd2), which
    compares means; v: Salimans and Ho 2022, https://arxiv.org/abs/2202.00512, appendix D.
    """
    import torch

    noise = torch.randn(shape, generator=generator, device=generator.device)
    last = len(alphas_cumprod) - 1
    with torch.no_grad():
        timesteps = torch.full((shape[0],), last, device=noise.device, dtype=torch.long)
        predicted = unet_call(noise, timesteps).float().to(noise.device)
    both = torch.stack([noise.flatten(), predicted.flatten()])
    correlation = float(torch.corrcoef(both)[0, 1])
    if not math.isfinite(correlation):
        raise BaseError(
            "the UNet answers pure noise with nothing that can be judged (not numbers, or all the same); "
            "state the prediction type, epsilon or v_prediction, or choose another precision"
        )
    return "epsilon" if correlation > 0.5 else "v_prediction"


def _family(shapes: Mapping[str, Shape]) -> Family | None:
    """Return the family whose text encoders are there, each in one spelling or another.

    Where two families have them under the same names, the one that writes them so goes first.
    """
    if not any(key.startswith(UNET_PREFIX) for key in shapes):
        return None
    found: list[tuple[bool, int, Family]] = []
    width = _context_width(shapes)
    for family in FAMILIES.values():
        spelled = [
            {name for name, s in SPELLINGS.items() if _begins(shapes, row.file_prefix + s.prefix)}
            for row in family.text_encoders
        ]
        if all(spelled):
            own = sum(
                row.file_spelling in names for row, names in zip(family.text_encoders, spelled, strict=True)
            )
            found.append((width in family.context_widths, own, family))
    return max(found, key=lambda row: row[:2])[2] if found else None


def _begins(shapes: Mapping[str, Shape], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in shapes)


def _parts(shapes: Mapping[str, Shape], family: Family) -> tuple[str, ...]:
    """The networks that the file has tensors of; text encoders are all there (see `_family`)."""
    vae = any(_begins(shapes, prefix) for prefix in VAE_PREFIXES)
    return (*family.components, *(("vae",) if vae else ()))


def _context_width(shapes: Mapping[str, Shape]) -> int | None:
    """Width of the text that the UNet's cross-attention reads, or None where it has none."""
    for key, shape in shapes.items():
        if key.startswith(UNET_PREFIX) and key.endswith(".attn2.to_k.weight") and len(shape) == 2:
            return shape[1]
    return None


def _refuse_numbers(header: Header, family: Family, shown: str) -> None:
    """Raise BaseError where weights are whole numbers: quantised by another tool."""
    for key, entry in header.tensors.items():
        if key.startswith(UNET_PREFIX) and entry.dtype not in _READABLE:
            raise BaseError(
                f"{shown!r} is {family.label} quantised to {entry.dtype} ({key}); expected fp16, bf16 "
                "or fp32; choose such a file and let Pigment quantise it"
            )


def _other_sizes(shapes: Mapping[str, Shape], family: Family, shown: str) -> str | None:
    """Return how a UNet differs from the published one of its family, or None: its text, its depth."""
    config = configs_of(family.id).configs["unet"]
    width, published = _context_width(shapes), config["cross_attention_dim"]
    if width != published:
        return (
            f"{shown!r} is {family.label} whose UNet reads text of width {width}, published ones read "
            f"{published}"
        )
    blocks = {
        key.rsplit(".attn2.", 1)[0]
        for key in shapes
        if key.startswith(UNET_PREFIX) and key.endswith(".attn2.to_k.weight")
    }
    if len(blocks) != (expected := _transformer_blocks(config)):
        kind = "a pruned one, such as SSD-1B" if len(blocks) < expected else "one of another design"
        return (
            f"{shown!r} is {family.label} with {len(blocks)} transformer blocks in its UNet, published ones "
            f"have {expected}: {kind}"
        )
    channels = config["block_out_channels"]
    wanted = (len(channels) * (config["layers_per_block"] + 1), channels[0])
    count = count_of(shapes, re.escape(UNET_PREFIX) + r"input_blocks\.(\d+)\.")
    if (count, shapes[_CONV_IN][0]) != wanted:
        return (
            f"{shown!r} is {family.label} with {count} input blocks from {shapes[_CONV_IN][0]} channels in "
            f"its UNet, published ones have {wanted[0]} from {wanted[1]}"
        )
    return None


def _transformer_blocks(config: Mapping[str, Any]) -> int:
    """How many transformer blocks a UNet of a config has in all."""
    layers, depth = config["layers_per_block"], config.get("transformer_layers_per_block", 1)
    kinds = [kind.startswith("CrossAttn") for kind in config["down_block_types"]]
    depths = [depth] * len(kinds) if isinstance(depth, int) else list(depth)
    # Down blocks have `layers` residual layers each, up blocks one more, the middle one attention.
    around = sum(deep for deep, attends in zip(depths, kinds, strict=True) if attends)
    return (2 * layers + 1) * around + depths[-1]


def _stated_prediction(shapes: Mapping[str, Shape], metadata: Mapping[str, str], path: Path) -> str | None:
    """Return what the file says that the UNet predicts, or None.

    Asked in turn: the configs that Pigment wrote into it, the mark of A1111 and ComfyUI (`v_pred`), the
    metadata, the file beside it.
    """
    stated = (
        _recorded_scheduler(metadata).get("prediction_type"),
        "v" if "v_pred" in shapes else None,
        metadata.get("modelspec.prediction_type"),
        _beside(path),
    )
    known = (_STATED.get(word.lower()) for word in stated if isinstance(word, str))
    return next((word for word in known if word is not None), None)


def _is_zero_snr(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    """Whether a file says that it begins at pure noise: by its configs, the mark `ztsnr`, or kohya's word."""
    recorded = _recorded_scheduler(metadata).get("rescale_betas_zero_snr")
    return "ztsnr" in shapes or bool(recorded) or metadata.get("ss_zero_terminal_snr") == "True"


def _recorded_scheduler(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """The scheduler's config that Pigment wrote into the file; empty where there is none that can be read."""
    try:
        found = json.loads(metadata.get(RECORD, "{}"))["configs"]["scheduler"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _beside(path: Path) -> str | None:
    """What `<name>.yaml` beside a file says of the prediction ("v" or "eps"), or None.

    LDM's files say `parameterization`, SGM's name a scaling class; the text is searched, not parsed.
    """
    beside = path.with_suffix(".yaml")
    try:
        with open(beside, encoding="utf-8", errors="replace") as file:
            text = file.read(_SIDECAR_BYTES)
    except OSError:
        return None
    if hit := re.search(r"^\s*parameterization:\s*[\"']?(v|eps)[\"']?\s*(?:#.*)?$", text, re.MULTILINE):
        return hit[1]
    hit = re.search(r"^\s*(?:target:.*|_target_:.*)\.(V|Eps)Scaling\b", text, re.MULTILINE)
    return hit[1].lower() if hit else None
