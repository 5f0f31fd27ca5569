"""The kohya form, which A1111, Forge, ComfyUI, InvokeAI and diffusers read, and LyCORIS' superset.

`lora_unet_down_blocks_1_…_to_k.lora_down.weight`, `.lora_up.weight` and a scalar `.alpha`: dots of
the module's name become underscores, so reading has to know which underscores were there before.
The UNet's names are diffusers' or SGM's (see sgm.py); the text encoder's modules carry `text_model_`,
which current transformers leave out. LyCORIS keeps the stems and has other endings (`.hada_w1_a`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from pipelines.adapter import AnyFactors, LowRank
from pipelines.errors import AdapterError
from pipelines.families import FAMILIES, Family, with_text_model
from pipelines.formats.keys import TOKEN, UP, ending_of, lycoris_endings, plain_unet_path
from pipelines.formats.sgm import from_sgm, is_sgm, to_sgm
from pipelines.methods.lokr import lokr_scale

# Names with an underscore of their own, in the UNet (both spellings) and the text encoders.
_WORDS = ("transformer_blocks", "down_blocks", "up_blocks", "mid_block", "time_emb_proj", "time_embedding",
          "add_embedding", "conv_shortcut", "conv_norm_out", "conv_in", "conv_out", "proj_in", "proj_out",
          "linear_1", "linear_2", "to_out", "to_q", "to_k", "to_v", "text_model", "text_projection",
          "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "layer_norm1", "layer_norm2",
          "final_layer_norm", "token_embedding", "position_embedding", "input_blocks", "middle_block",
          "output_blocks", "in_layers", "emb_layers", "out_layers", "skip_connection", "time_embed",
          "label_emb")  # fmt: skip
_WORD = re.compile("(?:^|_)(" + "|".join(_WORDS) + ")(?=_|$)")
_BUNDLE = "bundle_emb."


def read_kohya(key: str, family: Family) -> tuple[str, str] | None:
    """Return the canonical module name and part of a kohya key, or None where it is none."""
    return _parse(key, family, lycoris_endings(("kohya",)))


def read_lycoris(key: str, family: Family) -> tuple[str, str] | None:
    """Return the canonical module name and part of a LyCORIS key, or None where it is none."""
    return _parse(key, family, lycoris_endings(("kohya", "lycoris")))


def write_key(module: str, part: str, family: Family) -> str:
    """Return the kohya or LyCORIS key of a canonical module name and a part.

    Raises: AdapterError for a module that the family's spelling has no name for.
    """
    component, path = module.split(".", 1)
    prefix = family.unet_kohya_prefix
    for encoder in family.text_encoders:
        if encoder.component == component:
            prefix, path = encoder.kohya_prefix, with_text_model(path)
    if component == "unet" and family.unet_spelling == "sgm":
        spelled = to_sgm(path, family.blocks)
        if spelled is None:
            raise AdapterError(
                f"{module} has no name in {family.label} files of the kohya form; write diffusers or pigment"
            )
        path = spelled
    return f"{prefix}{path.replace('.', '_')}.{ending_of(part, 'lycoris')}"


def stated_alpha(module: str, rank: int, metadata: Mapping[str, str], shown: str) -> float:
    """Return the alpha of a module that has no `.alpha` tensor: every reader takes its scale as 1."""
    return float(rank)


def uniform(factors: Mapping[str, AnyFactors]) -> dict[str, AnyFactors]:
    """State every component's LoRA factors with one alpha, its commonest one; others stay as they are.

    diffusers builds its alpha patterns from kohya files in a spelling that can't match attention
    modules, so differing alphas would silently become the commonest.
    """
    chosen: dict[str, AnyFactors] = dict(factors)
    for component in {module.split(".", 1)[0] for module in factors}:
        inside = {
            name: factor
            for name, factor in factors.items()
            if name.startswith(f"{component}.") and (isinstance(factor, LowRank) or UP in factor.parts)
        }
        alphas = Counter(factor.alpha for factor in inside.values() if factor.alpha != 0)
        alpha = alphas.most_common(1)[0][0] if alphas else 1.0
        chosen |= {name: restated(factor, alpha) for name, factor in inside.items()}
    return chosen


def anchored(factors: Mapping[str, AnyFactors]) -> dict[str, AnyFactors]:
    """Return `uniform` factors, and an out_proj of ΔW = 0 where a text encoder's attention has none.

    diffusers tells by an out_proj how a kohya file's text encoder is spelled: without one it leaves the
    q, k and v of that encoder out, or refuses the file.
    """
    import torch

    added: dict[str, AnyFactors] = {}
    for component in {module.split(".", 1)[0] for module in factors} - {"unet"}:
        inside = sorted(m for m in factors if m.startswith(f"{component}.") and ".self_attn." in m)
        if not inside or any(module.endswith(".out_proj") for module in inside):
            continue
        model = factors[inside[0]]
        if isinstance(model, LowRank):  # attention projections of a text encoder are square
            name = f"{inside[0].rsplit('.', 1)[0]}.out_proj"
            zeros = (torch.zeros_like(model.down), torch.zeros_like(model.up))
            added[name] = LowRank(down=zeros[0], up=zeros[1], alpha=model.alpha)
    return uniform({**factors, **added})


# The part of LoKr and LoHa that takes the scale in.
_SCALED = ("lokr_w1", "lokr_w1_a", "hada_w1_a")


def settled(factors: Mapping[str, AnyFactors]) -> dict[str, AnyFactors]:
    """State factors as LyCORIS' readers take them: LoRA as `uniform` does, LoKr and LoHa without a scale.

    ComfyUI and LyCORIS take LoKr's scale as 1 where both of its factors are whole, and LyCORIS 4.1's
    merge applies LoHa's twice. A scale of 1 means the same to all of them.
    """
    return {name: _without_scale(factor) for name, factor in uniform(factors).items()}


def _without_scale(factor: AnyFactors) -> AnyFactors:
    """Fold the scale of a LoKr or LoHa module into its first factor."""
    first = next((part for part in _SCALED if part in factor.parts), None)
    if first is None or isinstance(factor, LowRank):
        return factor
    scale = lokr_scale(factor) if first.startswith("lokr") else factor.alpha / factor.rank
    if scale == 1:
        return factor
    options = {name: value for name, value in factor.options.items() if name != "rank"}
    scaled = {**factor.parts, first: factor.parts[first].float() * scale}
    return replace(factor, parts=scaled, alpha=float(factor.rank or 1), options=options)


def restated(factor: AnyFactors, alpha: float) -> AnyFactors:
    """Return a factor with "up" for the same ΔW stated with another alpha (not 0), folded into "up"."""
    if isinstance(factor, LowRank):
        return factor.with_alpha(alpha)
    if alpha == factor.alpha:
        return factor
    up = factor.parts[UP].float() * (factor.alpha / alpha)
    return replace(factor, parts={**factor.parts, UP: up}, alpha=alpha)


def _parse(key: str, family: Family, endings: Mapping[str, str]) -> tuple[str, str] | None:
    if key.startswith(_BUNDLE):
        return _bundled(key.removeprefix(_BUNDLE), family)
    stem, _, ending = key.partition(".")
    part = endings.get(ending)
    if part is None:
        return None
    module = _module(stem, family.id)
    return None if module is None else (module, part)


@lru_cache(maxsize=1 << 14)
def _module(stem: str, family_id: str) -> str | None:
    """Return the canonical module name of a key's stem, or None where it is none."""
    family = FAMILIES[family_id]
    if stem.startswith(family.unet_kohya_prefix):
        path = _dotted(stem.removeprefix(family.unet_kohya_prefix))
        plain = from_sgm(path, family.blocks) if is_sgm(path) else plain_unet_path(path)
        return None if plain is None else f"unet.{plain}"
    for encoder in family.text_encoders:
        for prefix in encoder.kohya_read:
            if stem.startswith(prefix):
                path = _dotted(stem.removeprefix(prefix))
                return f"{encoder.component}.{path.removeprefix('text_model.')}"
    return None


def _bundled(rest: str, family: Family) -> tuple[str, str] | None:
    """Read the rest of `bundle_emb.<token>.string_to_param.*` and the like: learned tokens in a LoRA file."""
    for encoder in family.text_encoders:
        endings = (f".{encoder.embedding_key}", *((".string_to_param.*",) if not family.pooled else ()))
        for ending in endings:
            if rest.endswith(ending) and len(rest) > len(ending):
                return f"{TOKEN}.{rest.removesuffix(ending)}", encoder.component
    return None


def _dotted(stem: str) -> str:
    """Turn "mid_block_attentions_0_proj_in" into "mid_block.attentions.0.proj_in"."""
    marked = _WORD.sub(lambda hit: f"_{hit.group(1).replace('_', '~')}", stem)
    return marked.lstrip("_").replace("_", ".").replace("~", "_")
