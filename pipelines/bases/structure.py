"""What a base's tensors say by their names alone: which part they are of, and how its UNet is built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pipelines.bases.spelling import SPELLINGS, Spelling
from pipelines.families import Blocks, Family

Shape = tuple[int, ...]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIXES = ("first_stage_model.", "vae.")
"""What an autoencoder's tensors begin with inside a whole file; the first is written."""

_EXTRA_STARTS = ("model_ema.", "loss.", "first_stage_model.loss.", "first_stage_model.model_ema.")
_EXTRA_ENDS = ("position_ids", "logit_scale", "attn_mask")
_EXTRA_NAMES = frozenset(
    [
        *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod"),
        *("sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod"),
        *("sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped"),
        *("posterior_mean_coef1", "posterior_mean_coef2", "lvlb_weights", "logvar", "scale_factor"),
        *("global_step", "denoiser.sigmas", "denoiser.log_sigmas", "v_pred", "ztsnr"),
    ]
)


def leftovers(shapes: Mapping[str, Shape], family: Family) -> list[str]:
    """Return the tensors that belong to no part and aren't known to be needless (see `is_extra`)."""
    return [key for key in shapes if not is_extra(key) and part_of(key, family) is None]


def is_extra(key: str) -> bool:
    """Whether a tensor is known to be needless: schedules, averages kept for training, marks, buffers."""
    return key.startswith(_EXTRA_STARTS) or key in _EXTRA_NAMES or key.rpartition(".")[2] in _EXTRA_ENDS


def blocks_of_file(shapes: Iterable[str]) -> Blocks:
    """Read off a file's names how its UNet is built; published models' numbers differ from tiny ones'."""
    keys = [key.removeprefix(UNET_PREFIX) for key in shapes if key.startswith(UNET_PREFIX)]
    samplers = sorted(
        int(hit[1]) for key in keys if (hit := re.fullmatch(r"input_blocks\.(\d+)\.0\.op\.weight", key))
    )
    last = count_of(keys, r"input_blocks\.(\d+)\.") - 1
    step = samplers[0] if samplers else max(last, 0) + 1
    attention = {hit[1] for key in keys if (hit := re.match(r"((?:in|out)put_blocks\.\d+)\.1\.norm\.", key))}
    blocks = len(samplers) + 1
    return Blocks(
        down=tuple(f"input_blocks.{block * step + 1}" in attention for block in range(blocks)),
        up=tuple(f"output_blocks.{block * step}" in attention for block in range(blocks)),
        layers=max(step - 1, 1),
    )


def blocks_of_unet(names: Iterable[str]) -> Blocks:
    """Read off diffusers' names how a UNet is built."""
    names = list(names)
    attention = {
        hit[1] for name in names if (hit := re.match(r"((?:down|up)_blocks\.\d+)\.attentions\.", name))
    }
    blocks = count_of(names, r"down_blocks\.(\d+)\.")
    return Blocks(
        down=tuple(f"down_blocks.{block}" in attention for block in range(blocks)),
        up=tuple(f"up_blocks.{block}" in attention for block in range(blocks)),
        layers=count_of(names, r"down_blocks\.0\.resnets\.(\d+)\."),
    )


def part_of(key: str, family: Family) -> tuple[str, str, Spelling | None] | None:
    """Return the part that a file's tensor belongs to, the prefix before its own name, and its spelling."""
    if key.startswith(UNET_PREFIX):
        return "unet", UNET_PREFIX, None
    for prefix in VAE_PREFIXES:
        if key.startswith(prefix):
            return "vae", prefix, None
    for row in family.text_encoders:
        for spelling in SPELLINGS.values():
            if key.startswith(row.file_prefix + spelling.prefix):
                return row.component, row.file_prefix + spelling.prefix, spelling
    return None


def decoder_blocks(shapes: Iterable[str], prefix: str) -> int:
    """Return how many up blocks the decoder of a file's autoencoder has."""
    return count_of(shapes, re.escape(prefix) + r"decoder\.up\.(\d+)\.")


def count_of(names: Iterable[str], pattern: str) -> int:
    """Return one more than the greatest number that `pattern` finds at the names' beginnings, or 0."""
    compiled = re.compile(pattern)
    return max((int(hit[1]) + 1 for name in names if (hit := compiled.match(name))), default=0)


def some(names: list[str]) -> str:
    """Return the first three names and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
