"""The UNet's two spellings: diffusers' paths and those of the original (LDM, SGM) code.

`down_blocks.1.attentions.0.proj_in` is `input_blocks.4.1.proj_in` there. The numbers follow from how
many residual layers a block has and which up blocks have attention (`Family.blocks`), and from
nothing else: that is why one function serves every family.
"""

from __future__ import annotations

import re

from pipelines.families import Blocks

_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_MIDDLE = {("resnets", 0): 0, ("attentions", 0): 1, ("resnets", 1): 2}

_OUTSIDE_BACK = {there: here for here, there in _OUTSIDE.items()}
_RESNET_BACK = {there: here for here, there in _RESNET.items()}
_MIDDLE_BACK = {there: here for here, there in _MIDDLE.items()}

_BLOCK = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)")
_SAMPLER = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(?:down|up)samplers\.0\.conv")
_MID = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_SGM = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d+)\.(.+)")
_SGM_MID = re.compile(r"middle_block\.(\d+)\.(.+)")
_SGM_START = re.compile(r"(input_blocks|output_blocks|middle_block|time_embed|label_emb|out)\.")


def to_sgm(path: str, blocks: Blocks) -> str | None:
    """Return the SGM path of a UNet module's diffusers path, or None where it has none."""
    step = blocks.layers + 1
    if path in _OUTSIDE:
        return _OUTSIDE[path]
    if hit := _SAMPLER.fullmatch(path):
        block = int(hit[2])
        if hit[1] == "down_blocks":
            return f"input_blocks.{(block + 1) * step}.0.op"
        if block >= len(blocks.up):
            return None
        return f"output_blocks.{block * step + blocks.layers}.{2 if blocks.up[block] else 1}.conv"
    if hit := _MID.fullmatch(path):
        place = _MIDDLE.get((hit[1], int(hit[2])))
        inner = _inner(hit[1], hit[3])
        return None if place is None or inner is None else f"middle_block.{place}.{inner}"
    if hit := _BLOCK.fullmatch(path):
        side, block, kind, layer = hit[1], int(hit[2]), hit[3], int(hit[4])
        inner, down = _inner(kind, hit[5]), side == "down_blocks"
        if inner is None or layer >= (blocks.layers if down else step):
            return None
        number = block * step + layer + (1 if down else 0)
        return f"{'input' if down else 'output'}_blocks.{number}.{0 if kind == 'resnets' else 1}.{inner}"
    return None


def from_sgm(path: str, blocks: Blocks) -> str | None:
    """Return the diffusers path of a UNet module's SGM path, or None where it is none."""
    step = blocks.layers + 1
    if path in _OUTSIDE_BACK:
        return _OUTSIDE_BACK[path]
    if hit := _SGM_MID.fullmatch(path):
        place = _MIDDLE_BACK.get(int(hit[1]))
        return None if place is None else _outer(f"mid_block.{place[0]}.{place[1]}", place[0], hit[2])
    hit = _SGM.fullmatch(path)
    if hit is None:
        return None
    side, number, inside, rest = hit[1], int(hit[2]), int(hit[3]), hit[4]
    if side == "input_blocks":
        block, layer = divmod(number - 1, step)
        if layer == blocks.layers:
            return f"down_blocks.{block}.downsamplers.0.conv" if (inside, rest) == (0, "op") else None
        name = f"down_blocks.{block}"
    else:
        block, layer = divmod(number, step)
        if rest == "conv" and inside in (1, 2) and layer == blocks.layers:
            return f"up_blocks.{block}.upsamplers.0.conv"
        name = f"up_blocks.{block}"
    if number < (side == "input_blocks") or inside > 1:
        return None
    kind = ("resnets", "attentions")[inside]
    return _outer(f"{name}.{kind}.{layer}", kind, rest)


def is_sgm(path: str) -> bool:
    """Whether a UNet path begins like one of SGM's."""
    return _SGM_START.match(path) is not None


def _inner(kind: str, rest: str) -> str | None:
    return _RESNET.get(rest) if kind == "resnets" else rest


def _outer(name: str, kind: str, rest: str) -> str | None:
    inner = _RESNET_BACK.get(rest) if kind == "resnets" else rest
    return None if inner is None else f"{name}.{inner}"
