"""The kohya form, which A1111, Forge, ComfyUI, InvokeAI and diffusers read.

`lora_unet_down_blocks_1_…_to_k.lora_down.weight`, `.lora_up.weight` and a scalar `.alpha`: dots of
the module's name become underscores, so reading has to know which underscores were there before.
The text encoder's modules carry `text_model_`, which current transformers leave out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from pipelines.adapter import LowRank
from pipelines.families import Family, with_text_model
from pipelines.formats.keys import ALPHA, DOWN, UP, Role, plain_unet_path

_ROLES: dict[str, Role] = {"lora_down.weight": DOWN, "lora_up.weight": UP, "alpha": ALPHA}
_ENDINGS = {DOWN: "lora_down.weight", UP: "lora_up.weight", ALPHA: "alpha"}

# Names with an underscore of their own, in the UNet and the text encoders.
_WORDS = ("transformer_blocks", "down_blocks", "up_blocks", "mid_block", "time_emb_proj", "time_embedding",
          "add_embedding", "conv_shortcut", "conv_in", "conv_out", "proj_in", "proj_out", "linear_1",
          "linear_2", "to_out", "to_q", "to_k", "to_v", "text_model", "text_projection", "self_attn",
          "q_proj", "k_proj", "v_proj", "out_proj")  # fmt: skip
_WORD = re.compile("(?:^|_)(" + "|".join(_WORDS) + ")(?=_|$)")


def parse_key(key: str, family: Family) -> tuple[str, Role] | None:
    """Return the canonical module name and role of a kohya key, or None where it is none."""
    stem, _, ending = key.partition(".")
    role = _ROLES.get(ending)
    if role is None:
        return None
    if stem.startswith(family.unet_kohya_prefix):
        path = plain_unet_path(_dotted(stem.removeprefix(family.unet_kohya_prefix)))
        return None if path is None else (f"unet.{path}", role)
    for encoder in family.text_encoders:
        for prefix in encoder.kohya_read:
            if stem.startswith(prefix):
                path = _dotted(stem.removeprefix(prefix))
                return f"{encoder.component}.{path.removeprefix('text_model.')}", role
    return None


def format_key(module: str, role: Role, family: Family) -> str:
    """Return the kohya key of a canonical module name and a role."""
    component, path = module.split(".", 1)
    prefix = family.unet_kohya_prefix
    for encoder in family.text_encoders:
        if encoder.component == component:
            prefix, path = encoder.kohya_prefix, with_text_model(path)
    return f"{prefix}{path.replace('.', '_')}.{_ENDINGS[role]}"


def stated_alpha(module: str, rank: int, metadata: Mapping[str, str], shown: str) -> float:
    """Return the alpha of a module that has no `.alpha` tensor: every reader takes its scale as 1."""
    return float(rank)


def uniform(factors: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """State every component's factors with one alpha, its commonest one.

    diffusers builds its alpha patterns from kohya files in a spelling that can't match attention
    modules, so differing alphas would silently become the commonest.
    """
    chosen: dict[str, LowRank] = {}
    for component in {module.split(".", 1)[0] for module in factors}:
        inside = {name: factor for name, factor in factors.items() if name.startswith(f"{component}.")}
        alphas = Counter(factor.alpha for factor in inside.values() if factor.alpha != 0)
        alpha = alphas.most_common(1)[0][0] if alphas else 1.0
        chosen |= {name: factor.with_alpha(alpha) for name, factor in inside.items()}
    return chosen


def _dotted(stem: str) -> str:
    """Turn "mid_block_attentions_0_proj_in" into "mid_block.attentions.0.proj_in"."""
    marked = stem
    while (shorter := _WORD.sub(lambda hit: f"_{hit.group(1).replace('_', '~')}", marked)) != marked:
        marked = shorter
    return marked.lstrip("_").replace("_", ".").replace("~", "_")
