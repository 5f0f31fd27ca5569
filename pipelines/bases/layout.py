"""A base in one file: which of the file's tensors hold which of diffusers', and back.

The file is in the layout of the original code (LDM for SD 1.x and 2.x, SGM for SDXL), which A1111,
ComfyUI and InvokeAI read. Everything here works on names and shapes; no numbers are loaded. `pieces`
says how each of diffusers' tensors is had from a file, `wholes` how each of a file's tensors is made
of diffusers', and one undoes the other exactly: numbers are moved, never changed.

Source: `ldm/modules` of github.com/CompVis/stable-diffusion, `sgm/modules` of
github.com/Stability-AI/generative-models, and diffusers' `loaders/single_file_utils.py`, with which
the tests compare.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.bases.piece import Piece, Whole
from pipelines.bases.spelling import (
    SPELLINGS,
    VAE_PROJECTIONS,
    Spelling,
    layer_of,
    vae_from_diffusers,
    vae_from_file,
    vae_to_file,
)
from pipelines.bases.structure import (
    UNET_PREFIX,
    VAE_PREFIXES,
    Shape,
    blocks_of_file,
    blocks_of_unet,
    count_of,
    decoder_blocks,
    is_extra,
    part_of,
    some,
)
from pipelines.errors import BaseError
from pipelines.families import Blocks, Family, TextEncoder, with_text_model
from pipelines.formats.sgm import from_sgm, to_sgm


def pieces(shapes: Mapping[str, Shape], family: Family) -> dict[str, dict[str, Piece]]:
    """Say how each tensor of diffusers is had from a file in the original layout.

    shapes: every tensor of the file. Returns: part ("unet", "vae", a text encoder's name) to diffusers'
    name to Piece, without parts that the file lacks. Names of text encoders are those of transformers'
    modules: with `text_model.` where the class has a projection. Tensors outside the parts are left to
    `leftovers`, and whether a part is whole is `fill`'s to say.

    Raises: BaseError for names inside a part that mean nothing, or mean the same twice.
    """
    found: dict[str, dict[str, Piece]] = {part: {} for part in (*family.components, "vae")}
    unknown: list[str] = []
    blocks = blocks_of_file(shapes)
    ups = max(decoder_blocks(shapes, prefix) for prefix in VAE_PREFIXES)
    for key, shape in shapes.items():
        where = part_of(key, family)
        if where is None or is_extra(key):
            continue
        part, prefix, spelling = where
        rest = key.removeprefix(prefix)
        if part == "unet":
            made = _unet_piece(key, rest, shape, blocks, family)
        elif part == "vae":
            made = _vae_piece(key, rest, shape, ups)
        else:
            assert spelling is not None
            made = _text_pieces(key, rest, shape, _encoder_row(family, part), spelling)
        if made is None or made.keys() & found[part].keys():
            unknown.append(key)
        else:
            found[part].update(made)
    if unknown:
        raise BaseError(
            f"{len(unknown)} of {len(shapes)} tensors have no place in {family.label}: {some(unknown)}; "
            "expected the original layout of a whole, unchanged model"
        )
    return {part: those for part, those in found.items() if those}


def vae_pieces(shapes: Mapping[str, Shape]) -> dict[str, Piece]:
    """Say how an autoencoder's tensors are had from a file of its own, or out of a whole model's file.

    The names may be the original's, with or without a prefix, or diffusers' own.

    Raises: BaseError when there is no autoencoder, or names that mean nothing beside it.
    """
    starts = [p for p in (*VAE_PREFIXES, "") if f"{p}decoder.conv_in.weight" in shapes]
    if not starts:
        raise BaseError(
            f"the file holds no VAE: none of its {len(shapes)} tensors is decoder.conv_in.weight; choose a "
            ".safetensors file of an AutoencoderKL, or a whole model"
        )
    prefix = starts[0]
    blocks = decoder_blocks(shapes, prefix)
    ours = any(
        f"{prefix}{side}.mid_block.resnets.0.conv1.weight" in shapes for side in ("encoder", "decoder")
    )
    found: dict[str, Piece] = {}
    unknown = []
    for key, shape in shapes.items():
        if is_extra(key) or not key.startswith(prefix):
            continue
        rest = key.removeprefix(prefix)
        made = _own_vae_piece(key, rest, shape) if ours else _vae_piece(key, rest, shape, blocks)
        if made is None:
            unknown.append(key)
        else:
            found.update(made)
    if unknown:
        raise BaseError(
            f"{len(unknown)} of {len(shapes)} tensors have no place in a VAE: {some(unknown)}; expected "
            "an AutoencoderKL"
        )
    return found


def wholes(shapes: Mapping[str, Mapping[str, Shape]], family: Family) -> dict[str, Whole]:
    """Say how a file in the original layout is made of diffusers' tensors.

    shapes: part to diffusers' name to shape; text encoders' names with or without `text_model.`.
    Returns: the file's names, in the parts' order.

    Raises: BaseError for tensors that the original layout has no name for.
    """
    made: dict[str, Whole] = {}
    unknown: list[str] = []
    for part, tensors in shapes.items():
        if part in ("unet", "vae"):
            _write_network(part, tensors, made, unknown)
        else:
            _write_encoder(_encoder_row(family, part), tensors, made, unknown)
    if unknown:
        raise BaseError(
            f"{len(unknown)} tensors have no name in the original layout of {family.label}: "
            f"{some(unknown)}; save a diffusers folder instead"
        )
    return made


def _encoder_row(family: Family, component: str) -> TextEncoder:
    return next(row for row in family.text_encoders if row.component == component)


def _unet_piece(key: str, rest: str, shape: Shape, blocks: Blocks, family: Family) -> dict[str, Piece] | None:
    module, _, kind = rest.rpartition(".")
    path = from_sgm(module, blocks)
    if path is None or kind not in ("weight", "bias"):
        return None
    fitted = None
    # Some converters write the linear projections of SD 2.x as 1×1 convolutions.
    if family.linear_projection and path.endswith((".proj_in", ".proj_out")) and shape[2:] == (1, 1):
        fitted = shape[:2]
    return {f"{path}.{kind}": Piece(key, shape=fitted)}


def _vae_piece(key: str, rest: str, shape: Shape, blocks: int) -> dict[str, Piece] | None:
    module, _, kind = rest.rpartition(".")
    path = vae_from_file(module, blocks)
    if path is None or kind not in ("weight", "bias"):
        return None
    return {f"{path}.{kind}": Piece(key, shape=_as_linear(path, kind, shape))}


def _own_vae_piece(key: str, rest: str, shape: Shape) -> dict[str, Piece] | None:
    module, _, kind = rest.rpartition(".")
    path = vae_from_diffusers(module)
    # Only what also has a name in the original is an autoencoder's; the count of blocks doesn't matter.
    if vae_to_file(path, 100) is None or kind not in ("weight", "bias"):
        return None
    return {f"{path}.{kind}": Piece(key, shape=_as_linear(path, kind, shape))}


def _is_projection(path: str, kind: str) -> bool:
    """Whether an autoencoder's weight is a 1×1 convolution there and a linear layer here."""
    return ".attentions." in path and path.endswith(VAE_PROJECTIONS) and kind == "weight"


def _as_linear(path: str, kind: str, shape: Shape) -> Shape | None:
    return shape[:2] if _is_projection(path, kind) and shape[2:] == (1, 1) else None


def _text_pieces(
    key: str, rest: str, shape: Shape, row: TextEncoder, spelling: Spelling
) -> dict[str, Piece] | None:
    """Return the pieces of one tensor of a text encoder: none of a layer or projection that isn't used."""
    names = spelling.read(rest)
    if not names:
        return None
    projected = row.prefixed
    if names == ("text_projection.weight",):
        return {names[0]: Piece(key, transposed=rest == "text_projection")} if projected else {}
    layer = layer_of(names[0])
    if layer is not None and row.file_layers is not None and layer >= row.file_layers:
        return {}
    named = [with_text_model(name) if projected else name for name in names]
    if len(named) == 1:
        return {named[0]: Piece(key)}
    size = shape[0] // len(named) if shape else 0
    return {name: Piece(key, rows=(i * size, (i + 1) * size)) for i, name in enumerate(named)}


def _write_network(
    part: str, tensors: Mapping[str, Shape], made: dict[str, Whole], unknown: list[str]
) -> None:
    """Name the tensors of the UNet or the autoencoder."""
    blocks = blocks_of_unet(tensors)
    ups = count_of(tensors, r"decoder\.up_blocks\.(\d+)\.")
    prefix = UNET_PREFIX if part == "unet" else VAE_PREFIXES[0]
    for name, shape in tensors.items():
        module, _, kind = name.rpartition(".")
        there = to_sgm(module, blocks) if part == "unet" else vae_to_file(module, ups)
        if there is None:
            unknown.append(f"{part}.{name}")
            continue
        projects = part == "vae" and _is_projection(module, kind) and len(shape) == 2
        whole = Whole(((part, name),), shape=(*shape, 1, 1) if projects else None)
        made[f"{prefix}{there}.{kind}"] = whole


def _write_encoder(
    row: TextEncoder, tensors: Mapping[str, Shape], made: dict[str, Whole], unknown: list[str]
) -> None:
    """Name the tensors of a text encoder; open_clip's queries, keys and values are one tensor."""
    spelling = SPELLINGS[row.file_spelling]
    joined: dict[str, dict[int, str]] = {}
    for name in tensors:
        written = spelling.write(name.removeprefix("text_model."))
        if written is None:
            unknown.append(f"{row.component}.{name}")
            continue
        key = row.file_prefix + spelling.prefix + written[0]
        joined.setdefault(key, {})[written[1]] = name
        made[key] = Whole(
            tuple((row.component, joined[key][place]) for place in sorted(joined[key])),
            transposed=written[0] == "text_projection",
        )
    unknown += [key for key, names in joined.items() if "in_proj" in key and len(names) != 3]
