"""Where a base is: its configs, tokenizers and tensors, in a diffusers folder or in one file.

Nothing of the weights is read here but the files' headers; `load_base` fills modules from a source, and
`folding` writes a base from one without loading it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.bases.layout import pieces, vae_pieces
from pipelines.bases.reading import State, Stored, TensorFile, state_of
from pipelines.bases.record import read_record
from pipelines.bases.spelling import vae_from_diffusers
from pipelines.bases.variants import PICKLES, choose_weights
from pipelines.errors import BaseError
from pipelines.families import FAMILIES, Family, family_of_pipeline
from pipelines.files import file_sha256

if TYPE_CHECKING:
    from pipelines.bases.hub import OnProgress

ASSETS = Path(__file__).resolve().parents[2] / "assets"
PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A base that isn't loaded.

    ref: what was asked for, as text. path: the folder or file. index: `model_index.json`. configs: of every
    network and the scheduler, by part. tokenizers: by name, a folder, or the texts of its files.
    prediction_type: "epsilon" or "v_prediction"; None where the file can't say. vae_path: a VAE of one's own
    in the place of the base's, or None. asked: the options that it was opened with. notes: what else people
    should know. states: by part, its tensors.
    """

    ref: str
    path: Path
    family: Family
    index: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    tokenizers: Mapping[str, Path | Mapping[str, str]]
    prediction_type: str | None
    vae_path: Path | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    states: Mapping[str, State] = field(repr=False)

    @property
    def is_file(self) -> bool:
        """Whether it is one file in the original layout."""
        return self.path.is_file()

    def state(self, part: str) -> State:
        """Return the tensors of the UNet, the VAE or a text encoder, by the names its module has for them."""
        return self.states[part]

    @property
    def networks(self) -> tuple[str, ...]:
        """The parts that have tensors."""
        return (*self.family.components, "vae")

    @property
    def parameters(self) -> dict[str, int]:
        """How many numbers each network holds."""
        return {
            part: sum(math.prod(stored.shape) for stored in self.states[part].values())
            for part in self.networks
        }

    @cached_property
    def sha256(self) -> str:
        """Of one file: its SHA-256, which other tools show. Of a folder: over its parts' names and bytes."""
        if self.is_file:
            return file_sha256(self.path)
        digest = hashlib.sha256()
        for part in self.family.parts:
            for file in sorted((self.path / part).rglob("*")):
                if file.suffix in (".json", ".safetensors", ".txt"):
                    name = file.relative_to(self.path).as_posix()
                    digest.update(f"{name}\0{file_sha256(file)}\n".encode())
        return digest.hexdigest()

    @cached_property
    def vae_sha256(self) -> str | None:
        """Of the VAE's file of one's own; None where the VAE is the base's."""
        if self.vae_path is None:
            return None
        file = next(iter(self.states["vae"].values())).file.path
        return file_sha256(file)


def open_source(
    ref: str | Path,
    *,
    vae: str | Path | None = None,
    config: str | Path | None = None,
    prediction_type: str | None = None,
    half: bool = False,
    on_progress: OnProgress | None = None,
) -> Source:
    """Find out what a base is, from its configs and its files' headers.

    ref: "pocket", a diffusers folder, one .safetensors file in the original layout, or a hub id (then
    what isn't there yet is downloaded). vae: a VAE of one's own, a file or a diffusers folder of it. config:
    a diffusers folder whose configs and tokenizers a single file is read by. prediction_type: against what
    the base says of itself. half: whether it will be used in half precision (see `choose_weights`).
    on_progress: told of what is downloaded.

    Raises: BaseError that says what was found, what is supported, what to do.
    """
    if prediction_type not in (None, *PREDICTIONS):
        raise BaseError(f"unknown prediction type {prediction_type!r}; choose {' or '.join(PREDICTIONS)}")
    path = local_path(ref, half=half, on_progress=on_progress)
    if path.suffix.lower() in PICKLES:
        raise BaseError(f"base {str(ref)!r} is a pickle file, which is never opened; "
                        "convert it to .safetensors or a diffusers folder elsewhere")  # fmt: skip
    if config is not None and path.is_dir():
        raise BaseError(f"base {str(ref)!r} is a folder with configs of its own; leave the config folder out")
    if path.is_dir():
        found = _open_folder(path, str(ref), half)
    elif path.is_file():
        own = None if config is None else Path(config).expanduser()
        found = _open_file(path, str(ref), own, prediction_type, vae is not None)
    else:
        raise BaseError(f"base {str(ref)!r}: no such folder or file; give 'pocket', a folder in diffusers' "
                        "layout, a .safetensors file, or a hub id like org/name")  # fmt: skip
    if prediction_type is not None:
        if prediction_type not in PREDICTIONS:
            raise BaseError(
                f"prediction type {prediction_type!r} is unknown; choose {' or '.join(PREDICTIONS)}"
            )
        found = predicting(found, prediction_type)
    if vae is not None:
        found = _with_vae(found, Path(vae).expanduser(), half)
    asked = {"vae": vae, "config": config, "prediction_type": prediction_type}
    return replace(found, asked=asked)


def local_path(ref: str | Path, *, half: bool, on_progress: OnProgress | None = None) -> Path:
    """Return the folder or file of a base; a hub id is looked for here first, then fetched."""
    if str(ref) == "pocket":
        return ASSETS / "pocket"
    path = Path(ref).expanduser()
    if path.exists() or isinstance(ref, Path):
        return path
    from pipelines.bases.hub import fetch_base, hub_ref

    named = hub_ref(str(ref))
    return path if named is None else fetch_base(named, half=half, on_progress=on_progress)


def predicting(source: Source, prediction_type: str) -> Source:
    """Return a source whose scheduler is told this prediction type."""
    scheduler = {**source.configs["scheduler"], "prediction_type": prediction_type}
    return replace(
        source, prediction_type=prediction_type, configs={**source.configs, "scheduler": scheduler}
    )


def _open_folder(path: Path, ref: str, half: bool) -> Source:
    index = read_json(path / "model_index.json", ref)
    found = str(index.get("_class_name"))
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


def _open_file(path: Path, ref: str, config: Path | None, asked: str | None, own_vae: bool) -> Source:
    from pipelines.bases.configs import shipped
    from pipelines.bases.recognise import recognise

    file = TensorFile(path)
    found = recognise(file.header, path)
    if asked is not None:
        found = replace(found, prediction_type=asked)
    family, record = found.family, read_record(file.header.metadata, found.family, path.name)
    tokenizers: dict[str, Path | Mapping[str, str]] = {}
    if config is not None:
        index = read_json(config / "model_index.json", ref)
        configs = {
            part: read_json(config / part / "config.json", ref) for part in (*family.components, "vae")
        }
        configs["scheduler"] = read_json(config / "scheduler" / "scheduler_config.json", ref)
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


def _with_vae(source: Source, path: Path, half: bool) -> Source:
    """Put another VAE into a source: a diffusers folder (of it alone or of a pipeline), or one file."""
    if path.suffix.lower() in PICKLES:
        raise BaseError(
            f"VAE {str(path)!r} is a pickle file, which is never opened; convert it to .safetensors"
        )
    configs = dict(source.configs)
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        configs["vae"] = read_json(folder / "config.json", str(path))
        state: State = _folder_state(folder, "vae", source.family, str(path), half)
    elif path.is_file():
        file = TensorFile(path)
        shapes = {key: entry.shape for key, entry in file.header.tensors.items()}
        found = vae_pieces(shapes)
        if not found:
            raise BaseError(
                f"{path.name!r} holds no VAE; give a .safetensors file or a diffusers folder of one"
            )
        state = {key: Stored(file, piece) for key, piece in found.items()}
    else:
        raise BaseError(f"VAE {str(path)!r}: no such file or folder")
    ours, theirs = (c["vae"].get("latent_channels", 4) for c in (source.configs, configs))
    if ours != theirs:
        raise BaseError(f"VAE {path.name!r} has {theirs} latent channels, base {source.ref!r} has {ours}")
    return replace(source, configs=configs, vae_path=path, states={**source.states, "vae": state})


def _check_channels(configs: Mapping[str, Mapping[str, Any]], ref: str) -> None:
    channels, latent = configs["unet"].get("in_channels"), configs["vae"].get("latent_channels")
    if not isinstance(latent, int) or channels not in (latent, 2 * latent + 1):
        raise BaseError(
            f"base {ref!r} has a UNet of {channels} input channels over {latent} latent channels; expected "
            f"{latent}, or {2 * latent + 1 if isinstance(latent, int) else 9} of an inpainting base"
        )


def read_json(path: Path, ref: str) -> dict[str, Any]:
    """Read one of a base's JSON files. Raises: BaseError where it isn't there or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BaseError(
            f"base {ref!r} has no {path.name} in {path.parent.name}/; expected diffusers' layout"
        ) from None
    except (OSError, ValueError, RecursionError):
        raise BaseError(
            f"base {ref!r}: {path.parent.name}/{path.name} isn't readable JSON; fetch it again"
        ) from None
    if not isinstance(value, dict):
        raise BaseError(f"base {ref!r}: {path.parent.name}/{path.name} holds no settings; fetch it again")
    return value
