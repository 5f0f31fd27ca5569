"""Where a base is: its configs, tokenizers and tensors, in a diffusers folder or in one file.

Nothing of the weights is read here but the files' headers; `load_base` fills modules from a source, and
`folding` writes a base from one without loading it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.bases.reading import State, TensorFile
from pipelines.bases.variants import PICKLES
from pipelines.errors import BaseError
from pipelines.families import Family
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
        """`sha256_by` of the files as they are."""
        return self.sha256_by(file_sha256)

    def sha256_by(self, hash_of: Callable[[Path], str]) -> str:
        """Of one file: its SHA-256, which other tools show. Of a folder: over its parts' names and bytes.

        hash_of: gives a file's SHA-256.
        Raises: BaseError where a file isn't any more what was opened.
        """
        own = [part for part in self.networks if part != "vae" or self.vae_path is None]
        files = {stored.file.path: stored.file for part in own for stored in self.state(part).values()}
        for opened in files.values():
            self._check_unchanged(opened)
        if self.is_file:
            return hash_of(self.path)
        digest = hashlib.sha256()
        for part in self.family.parts:
            for file in sorted((self.path / part).rglob("*")):
                if file.suffix in (".json", ".safetensors", ".txt"):
                    name = file.relative_to(self.path).as_posix()
                    digest.update(f"{name}\0{hash_of(file)}\n".encode())
        return digest.hexdigest()

    def _check_unchanged(self, file: TensorFile) -> None:
        if not file.unchanged:
            raise BaseError(
                f"base {self.ref!r}: {file.path.name!r} was changed or removed since it was opened; "
                "load it again"
            )

    @cached_property
    def vae_sha256(self) -> str | None:
        """Of the VAE's file of one's own; None where the VAE is the base's."""
        if self.vae_path is None:
            return None
        file = next(iter(self.states["vae"].values())).file
        self._check_unchanged(file)
        return file_sha256(file.path)


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
    from pipelines.bases.bounds import check_configs
    from pipelines.bases.opening import open_file, open_folder, with_vae

    if prediction_type not in (None, *PREDICTIONS):
        raise BaseError(f"unknown prediction type {prediction_type!r}; choose {' or '.join(PREDICTIONS)}")
    path = local_path(ref, half=half, on_progress=on_progress)
    if path.suffix.lower() in PICKLES:
        raise BaseError(f"base {str(ref)!r} is a pickle file, which is never opened; "
                        "convert it to .safetensors or a diffusers folder elsewhere")  # fmt: skip
    if config is not None and path.is_dir():
        raise BaseError(f"base {str(ref)!r} is a folder with configs of its own; leave the config folder out")
    if path.is_dir():
        found = open_folder(path, str(ref), half)
    elif path.is_file():
        own = None if config is None else Path(config).expanduser()
        found = open_file(path, str(ref), own, prediction_type, vae is not None)
    else:
        raise BaseError(f"base {str(ref)!r}: no such folder or file; give 'pocket', a folder in diffusers' "
                        "layout, a .safetensors file, or a hub id like org/name")  # fmt: skip
    if prediction_type is not None:
        found = predicting(found, prediction_type)
    if vae is not None:
        found = with_vae(found, Path(vae).expanduser(), half)
    check_configs(found)
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
