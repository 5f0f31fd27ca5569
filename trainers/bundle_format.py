"""A run bundle as a file: everything that a run's result follows from, and what came out.

No folder of a machine stands in it: pictures, the base and other files are known by name and SHA-256.
Reading and writing it loads no torch.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import ConfigError

VERSION = 1
BUNDLE = "bundle"
"""Folder of the bundle, below a run's."""
BUNDLE_NAME = "bundle.toml"
RECIPE_NAME = "recipe.json"
MAX_BYTES = 32_000_000
"""Bytes of a bundle.toml; some 100,000 pictures."""

_HEAD = """\
# What an adapter was made of. `pigment train bundle.toml` makes the same file again on the machine that made
# it, or says what is missing or differs; `--pictures DIR` says where the pictures are.

"""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _inside(name: str) -> str:
    """Refuse a name that would lead out of a folder: bundles come from anywhere."""
    path = PurePosixPath(name)
    unsafe = set(name) & set("\0\\:" if os.name == "nt" else "\0") or ".." in path.parts
    odd = path.is_absolute() or not path.parts or path.as_posix() != name
    if unsafe or odd or len(path.parts) > 4 or len(name) > 1000:
        raise ValueError("expected a file's name in the folder of the pictures")
    return name


Name = Annotated[str, AfterValidator(_inside)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Made(_Part):
    """What came out. sha256: of adapter.safetensors; tensors_sha256: of its numbers alone. step: which one it
    is of. resumed: steps at which the run went on after an interruption."""

    sha256: Sha256
    tensors_sha256: Sha256
    bytes: int = Field(ge=0)
    step: int
    resumed: tuple[int, ...] = ()


class TaughtBase(_Part):
    """What was taught. name: "pocket", a hub id, or the name of a folder or file. vae_sha256: of a VAE in the
    place of the base's own."""

    name: str
    family: str
    sha256: Sha256
    vae_sha256: Sha256 | None = None


class Taught(_Part):
    """A picture. name: its path in the folder. caption: SHA-256 of what is said of it. mask: SHA-256 of the
    mask's file, "alpha" for its own opacity, or empty."""

    name: Name
    sha256: Sha256
    caption: Sha256
    repeats: int = 1
    mask: str = ""
    held_out: bool = False


class Kept(_Part):
    """A file by name and content."""

    name: Name
    sha256: Sha256


class Data(_Part):
    """What was learned from. sha256: over all of it, as a run states it. class_pictures: those that a person
    gave. drawn: those that the base drew, below the cache folder's class_pictures. beside: files of captions
    and masks beside the pictures; class_beside: beside the class pictures."""

    sha256: Sha256
    pictures: tuple[Taught, ...]
    class_pictures: tuple[Taught, ...] = ()
    drawn: tuple[Kept, ...] = ()
    beside: tuple[Kept, ...] = ()
    class_beside: tuple[Kept, ...] = ()


class Environment(_Part):
    """Where it was made. threads: of the CPU. processes: that shared the run. device: what computes and how;
    versions: of libraries; machine: processor and system."""

    threads: int
    processes: int = 1
    device: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict)


class Bundle(_Part):
    """A run, as it can be made again.

    choices: the run's choices.json, as it is; empty where nothing was tried. local: settings
    ("section.name") that name a file or folder here, by its name alone. files: SHA-256 of those that aren't
    the base or its VAE. config: the whole config without folders.
    """

    bundle: int = Field(default=VERSION, ge=1, le=VERSION)
    name: str
    choices: str = ""
    local: tuple[str, ...] = ()
    made: Made
    base: TaughtBase
    environment: Environment
    files: dict[str, Sha256] = Field(default_factory=dict)
    config: dict[str, dict[str, Any]]
    data: Data

    @property
    def chosen_threads(self) -> int | None:
        """CPU threads that a trial chose, out of as many as the run was started with; None: no trial."""
        try:
            threads = json.loads(self.choices)["choices"]["threads"]
        except (ValueError, KeyError, TypeError):
            return None
        return threads if isinstance(threads, int) else None

    def as_toml(self) -> str:
        """The file's text; `read_bundle` reads it back."""
        return _HEAD + as_toml(self.model_dump(mode="json"))


def is_bundle(values: Mapping[str, Any]) -> bool:
    """Whether the plain values of a TOML file are a bundle's, and no config's."""
    return "bundle" in values and "made" in values


def parse_bundle(values: Mapping[str, Any], name: str) -> Bundle:
    """Make a bundle of plain values. name: of the file, for the error. Raises: ConfigError, one line."""
    version = values.get("bundle")
    if isinstance(version, int) and version > VERSION:
        raise ConfigError(
            f"{name!r} is a bundle of version {version}, this Pigment reads {VERSION}; update it"
        )
    try:
        return Bundle.model_validate(values)
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        place = ".".join(map(str, mistake["loc"]))
        said = str(mistake["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{name!r} is no whole bundle: {place}: {said[:120]}; take it from the run again"
                          ) from None  # fmt: skip


def bundle_file(given: Path) -> Path:
    """Return the bundle.toml of what a person gave: itself, its folder, or a run's; else what was given."""
    places = [folder / BUNDLE_NAME for folder in (given / BUNDLE, given)]
    return next((path for path in places if path.is_file()), given)


def read_bundle(path: str | Path) -> Bundle:
    """Read a bundle.toml, or the one in a run's folder. Raises: ConfigError, one line."""
    path = bundle_file(Path(path))
    try:
        with path.open("rb") as file:
            return parse_toml(file.read(MAX_BYTES + 1), path.name)
    except OSError as error:
        raise ConfigError(
            f"bundle {str(path)!r} can't be read: {error.strerror}; give a bundle.toml, or a run's folder"
        ) from None


def parse_toml(content: bytes, name: str) -> Bundle:
    """Make a bundle of a file's bytes. name: of the file. Raises: ConfigError, one line."""
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{name!r} has more than {MAX_BYTES:,} bytes, which no bundle has")
    try:
        return parse_bundle(tomllib.loads(content.decode()), name)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"bundle {name!r} isn't TOML: {str(error).splitlines()[0]}") from None


def as_toml(values: Mapping[str, Any]) -> str:
    """Nested plain values as TOML; what is None is left out."""
    return "\n".join(_lines(values, ())) + "\n"


def _lines(table: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[str]:
    """A table's own values, then the tables in it."""
    plain = {key: value for key, value in table.items() if value is not None and not _is_table(value)}
    if place and plain:
        yield f"\n[{'.'.join(map(_key, place))}]"
    yield from (f"{_key(key)} = {_value(value)}" for key, value in plain.items())
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _lines(value, (*place, key))
        elif _is_table(value):
            for row in value:
                yield f"\n[[{'.'.join(map(_key, (*place, key)))}]]"
                yield from (f"{_key(k)} = {_value(v)}" for k, v in row.items() if v not in (None, ""))


def _is_table(value: Any) -> bool:
    rows = isinstance(value, Sequence) and bool(value) and all(isinstance(one, Mapping) for one in value)
    return isinstance(value, Mapping) or rows


def _key(text: str) -> str:
    plain = text and all(char.isascii() and (char.isalnum() or char in "-_") for char in text)
    return text if plain else _value(text)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    # JSON's texts and numbers are TOML's too, but for one control character.
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
