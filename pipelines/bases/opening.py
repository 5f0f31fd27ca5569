"""Opening a base: a diffusers folder, one file in the original layout, and a VAE of one's own beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.bases.layout import pieces, vae_pieces
from pipelines.bases.reading import State, Stored, TensorFile, state_of
from pipelines.bases.record import read_record
from pipelines.bases.source import Source, predicting
from pipelines.bases.spelling import vae_from_diffusers
from pipelines.bases.structure import UNET_PREFIX
from pipelines.bases.variants import PICKLES, choose_weights
from pipelines.errors import BaseError
from pipelines.families import FAMILIES, Family, family_of_pipeline
from pipelines.plain_json import parse_json


def open_folder(path: Path, ref: str, half: bool) -> Source:
    """Open a folder in diffusers' layout. Raises: BaseError for other pipelines, and parts that lack."""
    index = read_json(path / "model_index.json", ref)
    found = " ".join(str(index.get("_class_name"))[:80].split())  # one line, whatever it says
    if found not in {name for row in FAMILIES.values() for name in (row.pipeline_class, row.inpaint_class)}:
        known = ", ".join(f"{row.pipeline_class} ({row.label})" for row in FAMILIES.values())
        raise BaseError(f"base {ref!r} is a {found}; supported: {known}")
    unet = read_json(path / "unet" / "config.json", ref) if (path / "unet").is_dir() else {}
    family = family_of_pipeline(found, unet)
    if family is None:
        raise BaseError(f"base {ref!r} is a {found} whose UNet has use_linear_projection = "
                        f"{unet.get('use_linear_projection')}; no supported family is built so")  # fmt: skip
    for part in family.parts:
        if not (path / part).is_dir():
            raise BaseError(f"base {ref!r} has no {part}/ folder; fetch it again, whole")
    networks = (*family.components, "vae")
    configs = {part: read_json(path / part / "config.json", ref) for part in networks}
    configs["scheduler"] = read_json(path / "scheduler" / "scheduler_config.json", ref)
    _check_channels(configs, ref)
    return Source(
        ref=ref, path=path, family=family, index=index, configs=configs,
        tokenizers={row.tokenizer: path / row.tokenizer for row in family.text_encoders},
        prediction_type=str(configs["scheduler"].get("prediction_type", "epsilon")),
        states={part: _folder_state(path / part, part, family, ref, half) for part in networks},
    )  # fmt: skip


def _folder_state(folder: Path, part: str, family: Family, ref: str, half: bool) -> dict[str, Stored]:
    files = choose_weights([file.name for file in folder.iterdir()], half=half)
    if not files:
        raise BaseError(
            f"base {ref!r} has no .safetensors file in {folder.name}/ (or not all of its shards); pickle "
            "weights are never opened: convert or fetch them as .safetensors"
        )
    prefixed = {row.component: row.prefixed for row in family.text_encoders}
    found = state_of([folder / name for name in files])
    return {_module_key(key, prefixed.get(part)): stored for key, stored in found.items()}


def _module_key(key: str, prefixed: bool | None) -> str:
    """The name that today's module has for a tensor. prefixed: of a text encoder, else None."""
    if prefixed is False:
        return key.removeprefix("text_model.")
    if prefixed is None:
        module, _, leaf = key.rpartition(".")
        return f"{vae_from_diffusers(module)}.{leaf}"
    return key


def open_file(path: Path, ref: str, config: Path | None, asked: str | None, own_vae: bool) -> Source:
    """Open one file in the original layout. config, asked, own_vae: see `open_source`."""
    from pipelines.bases.configs import shipped
    from pipelines.bases.recognise import recognise

    file = TensorFile(path)
    found = recognise(file.header, path)
    if asked is not None:
        found = replace(found, prediction_type=asked)
    family, record = found.family, read_record(file.header.metadata, found.family, path.name)
    tokenizers: dict[str, Path | Mapping[str, str]] = {}
    if config is not None:
        index = read_json(config / "model_index.json", str(config), what="configs folder")
        configs = _configs_in(config, str(config), family, index, shown=ref)
        if not found.stated and asked is None:
            told = str(configs["scheduler"].get("prediction_type", "epsilon"))
            found = replace(found, prediction_type=told)
        tokenizers = {row.tokenizer: config / row.tokenizer for row in family.text_encoders}
    else:
        own = shipped(found)
        index, tokenizers = dict(own.index), dict(own.tokenizers)
        configs = {part: dict(given) for part, given in own.configs.items()}
        if record is not None:
            index = dict(record.index)
            configs = {part: dict(given) for part, given in record.configs.items()}
            tokenizers.update(record.tokenizers)
    _check_channels(configs, ref)
    shapes = {key: entry.shape for key, entry in file.header.tensors.items()}
    states = {
        part: {key: Stored(file, piece) for key, piece in those.items()}
        for part, those in pieces(shapes, family).items()
    }
    for part in (*family.components, *(() if own_vae else ("vae",))):
        if part not in states:
            raise BaseError(f"base {ref!r} holds no {part}; give a whole checkpoint"
                            + (", or a VAE beside it" if part == "vae" else ""))  # fmt: skip
    source = Source(
        ref=ref, path=path, family=family, index=index, configs=configs, tokenizers=tokenizers,
        prediction_type=found.prediction_type, notes=tuple(found.notes), states=states,
    )  # fmt: skip
    return source if found.prediction_type is None else predicting(source, found.prediction_type)


def _configs_in(
    folder: Path, ref: str, family: Family, index: Mapping[str, Any], *, shown: str
) -> dict[str, dict[str, Any]]:
    """The configs of every part in a folder that a single file is read by. Raises: BaseError."""
    what = "configs folder"
    configs = {
        part: read_json(folder / part / "config.json", ref, what=what) for part in (*family.components, "vae")
    }
    configs["scheduler"] = read_json(folder / "scheduler" / "scheduler_config.json", ref, what=what)
    kind = str(index.get("_class_name"))
    if family_of_pipeline(kind, configs["unet"]) is not family:
        raise BaseError(f"configs folder {ref!r} is of a {kind[:60]}, base {shown!r} is {family.label}")
    return configs


def with_vae(source: Source, path: Path, half: bool) -> Source:
    """Put another VAE into a source: a diffusers folder or one file, of it alone or of a whole model."""
    if path.suffix.lower() in PICKLES:
        raise BaseError(
            f"VAE {str(path)!r} is a pickle file, which is never opened; convert it to .safetensors"
        )
    config: Mapping[str, Any] = source.configs["vae"]
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        config = read_json(folder / "config.json", str(path), what="VAE")
        kind = config.get("_class_name", "AutoencoderKL")
        if kind != "AutoencoderKL":
            raise BaseError(f"VAE {str(path)!r} is a {str(kind)[:60]}; expected an AutoencoderKL")
        state: State = _folder_state(folder, "vae", source.family, str(path), half)
    elif path.is_file():
        file = TensorFile(path)
        state = {
            key: Stored(file, piece)
            for key, piece in vae_pieces({key: row.shape for key, row in file.header.tensors.items()}).items()
        }
        config = _config_of_whole(path, file) or config
    else:
        raise BaseError(f"VAE {str(path)!r}: no such file or folder")
    for name, standard, unit in (
        ("latent_channels", 4, "latent channels"),
        ("scaling_factor", _SCALING, "as the scaling factor of its latents"),
    ):
        ours, theirs = (one.get(name) or standard for one in (source.configs["vae"], config))
        if ours != theirs:
            raise BaseError(
                f"VAE {path.name!r} has {str(theirs)[:40]} {unit}, base {source.ref!r} has {ours}; choose a "
                "VAE made for this kind of base"
            )
    configs = {**source.configs, "vae": config}
    return replace(source, configs=configs, vae_path=path, states={**source.states, "vae": state})


_SCALING = 0.18215
"""What diffusers takes where a VAE's config doesn't say it, as older ones don't: that of SD 1.x and 2.x."""


def _config_of_whole(path: Path, file: TensorFile) -> Mapping[str, Any] | None:
    """The VAE's config of a whole model in one file; None of a VAE alone and of what can't be recognised."""
    if not any(key.startswith(UNET_PREFIX) for key in file.header.tensors):
        return None
    try:
        return open_file(path, str(path), None, None, False).configs["vae"]
    except BaseError:
        return None


def _check_channels(configs: Mapping[str, Mapping[str, Any]], ref: str) -> None:
    channels, latent = configs["unet"].get("in_channels"), configs["vae"].get("latent_channels")
    if type(latent) is not int or channels not in (latent, 2 * latent + 1):
        raise BaseError(
            f"base {ref!r} has a UNet of {channels} input channels over {latent} latent channels; expected "
            f"{latent}, or {2 * latent + 1 if isinstance(latent, int) else 9} of an inpainting base"
        )


def read_json(path: Path, ref: str, *, what: str = "base") -> dict[str, Any]:
    """Read one of a base's JSON files. what: its name in messages.

    Raises: BaseError where it isn't there or no object.
    """
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise BaseError(
            f"{what} {ref!r} has no {path.name} in {path.parent.name}/; expected diffusers' layout"
        ) from None
    except (OSError, ValueError):
        raise BaseError(
            f"{what} {ref!r}: {path.parent.name}/{path.name} isn't readable JSON; fetch it again"
        ) from None
    if not isinstance(value, dict):
        raise BaseError(f"{what} {ref!r}: {path.parent.name}/{path.name} holds no settings; fetch it again")
    return value
