"""Names of a base's tensors in its original file: the autoencoder's, and the text encoders' two kinds.

Each function takes a name of one side and gives that of the other, or None where it has none; what
has to be done to the numbers is said in `layout`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_VAE_OUTSIDE = {
    "conv_in": "conv_in",
    "conv_out": "conv_out",
    "conv_norm_out": "norm_out",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
# What diffusers called them before 0.15; files of an autoencoder alone may still.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
VAE_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
"""The attention's layers that are 1×1 convolutions in the original and linear in diffusers."""

_VAE_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)\.(\w+)|(?:down|up)samplers\.0\.conv)")
_VAE_MID = re.compile(r"mid_block\.(?:resnets\.([01])\.(\w+)|attentions\.0\.(.+))")
_FILE_BLOCK = re.compile(r"(down|up)\.(\d+)\.(?:block\.(\d+)\.(\w+)|(?:down|up)sample\.conv)")
_FILE_MID = re.compile(r"mid\.(?:block_([12])\.(\w+)|attn_1\.(\w+))")
_RESNET_PARTS = ("norm1", "conv1", "norm2", "conv2", "conv_shortcut")


def vae_to_file(path: str, blocks: int) -> str | None:
    """Return the original path of an autoencoder's module, or None.

    blocks: how many up blocks its decoder has; the original counts them from the picture's end.
    """
    if path in ("quant_conv", "post_quant_conv"):
        return path
    side, _, rest = path.partition(".")
    if side not in ("encoder", "decoder"):
        return None
    if rest in _VAE_OUTSIDE:
        return f"{side}.{_VAE_OUTSIDE[rest]}"
    if hit := _VAE_MID.fullmatch(rest):
        if hit[3] is not None:
            return f"{side}.mid.attn_1.{_VAE_ATTENTION[hit[3]]}" if hit[3] in _VAE_ATTENTION else None
        return f"{side}.mid.block_{int(hit[1]) + 1}.{hit[2]}" if hit[2] in _RESNET_PARTS else None
    hit = _VAE_BLOCK.fullmatch(rest)
    if hit is None or hit[1] != ("down" if side == "encoder" else "up"):
        return None
    number = int(hit[2]) if side == "encoder" else blocks - 1 - int(hit[2])
    if number < 0 or (hit[4] is not None and hit[4] not in _RESNET_PARTS):
        return None
    part = "nin_shortcut" if hit[4] == "conv_shortcut" else hit[4]
    return f"{side}.{hit[1]}.{number}." + (
        f"{hit[1]}sample.conv" if part is None else f"block.{hit[3]}.{part}"
    )


def vae_from_file(path: str, blocks: int) -> str | None:
    """Return the diffusers path of an autoencoder's module in the original spelling, or None."""
    if path in ("quant_conv", "post_quant_conv"):
        return path
    side, _, rest = path.partition(".")
    if side not in ("encoder", "decoder"):
        return None
    for here, there in _VAE_OUTSIDE.items():
        if rest == there:
            return f"{side}.{here}"
    if hit := _FILE_MID.fullmatch(rest):
        if hit[3] is not None:
            found = [here for here, there in _VAE_ATTENTION.items() if there == hit[3]]
            return f"{side}.mid_block.attentions.0.{found[0]}" if found else None
        return f"{side}.mid_block.resnets.{int(hit[1]) - 1}.{hit[2]}" if hit[2] in _RESNET_PARTS else None
    hit = _FILE_BLOCK.fullmatch(rest)
    if hit is None or hit[1] != ("down" if side == "encoder" else "up"):
        return None
    number = int(hit[2]) if side == "encoder" else blocks - 1 - int(hit[2])
    part = "conv_shortcut" if hit[4] == "nin_shortcut" else hit[4]
    if number < 0 or (part is not None and part not in _RESNET_PARTS):
        return None
    name = f"{side}.{hit[1]}_blocks.{number}."
    return name + (f"{hit[1]}samplers.0.conv" if part is None else f"resnets.{hit[3]}.{part}")


def vae_from_diffusers(path: str) -> str:
    """Return a diffusers path of an autoencoder's module as it is called today."""
    before, dot, last = path.rpartition(".")
    return before + dot + _OLD_ATTENTION.get(last, last) if ".attentions." in path else path


@dataclass(frozen=True)
class Spelling:
    """One way in which files name a text encoder's tensors, after the encoder's own prefix.

    prefix: what stands first. read: a file's name, after both prefixes, to the names in transformers
    (without `text_model.`) that it holds, in the order in which it is cut into them; none where it is
    unknown. write: the other way, a name in transformers to the file's name and the place in the cut.
    """

    prefix: str
    read: Callable[[str], tuple[str, ...]]
    write: Callable[[str], tuple[str, int] | None]


_OPEN_CLIP_OUTSIDE = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_FUSED = ("q_proj", "k_proj", "v_proj")
_RESBLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
_IN_PROJ = re.compile(r"attn\.in_proj_(weight|bias)")
_ATTENTION_PART = re.compile(r"self_attn\.([qkv]_proj)\.(weight|bias)")
_TRANSFORMERS = re.compile(
    r"embeddings\.(?:token|position)_embedding\.weight|final_layer_norm\.(?:weight|bias)"
    r"|encoder\.layers\.\d+\.(?:layer_norm[12]|mlp\.fc[12]|self_attn\.(?:[qkv]|out)_proj)\.(?:weight|bias)"
    r"|text_projection\.weight"
)


def _read_open_clip(name: str) -> tuple[str, ...]:
    if name in _OPEN_CLIP_OUTSIDE:
        return (_OPEN_CLIP_OUTSIDE[name],)
    hit = _RESBLOCK.fullmatch(name)
    if hit is None:
        return ("text_projection.weight",) if name == "text_projection.weight" else ()
    layer = f"encoder.layers.{hit[1]}"
    if fused := _IN_PROJ.fullmatch(hit[2]):
        return tuple(f"{layer}.self_attn.{part}.{fused[1]}" for part in _FUSED)
    module, _, kind = hit[2].rpartition(".")
    found = _OPEN_CLIP_LAYER.get(module)
    return (f"{layer}.{found}.{kind}",) if found and kind in ("weight", "bias") else ()


def _write_open_clip(name: str) -> tuple[str, int] | None:
    for there, here in _OPEN_CLIP_OUTSIDE.items():
        if here == name:
            return there, 0
    hit = _LAYER.fullmatch(name)
    if hit is None:
        return None
    block = f"transformer.resblocks.{hit[1]}"
    if part := _ATTENTION_PART.fullmatch(hit[2]):
        return f"{block}.attn.in_proj_{part[2]}", _FUSED.index(part[1])
    module, _, kind = hit[2].rpartition(".")
    for there, here in _OPEN_CLIP_LAYER.items():
        if here == module and kind in ("weight", "bias"):
            return f"{block}.{there}.{kind}", 0
    return None


def _read_transformers(name: str) -> tuple[str, ...]:
    # Files of before 2023 may leave `text_model.` out.
    bare = name.removeprefix("text_model.")
    return (bare,) if _TRANSFORMERS.fullmatch(bare) else ()


def _write_transformers(name: str) -> tuple[str, int] | None:
    if not _TRANSFORMERS.fullmatch(name):
        return None
    return (name if name.startswith("text_projection") else f"text_model.{name}"), 0


SPELLINGS: Mapping[str, Spelling] = {
    "transformers": Spelling("transformer.", _read_transformers, _write_transformers),
    "open_clip": Spelling("model.", _read_open_clip, _write_open_clip),
}
"""How files name the tensors of a text encoder: as transformers does, or as open_clip does."""


def layer_of(name: str) -> int | None:
    """Return the number of the layer that a text encoder's tensor (transformers' name) lies in, or None."""
    hit = _LAYER.match(name)
    return int(hit[1]) if hit else None
