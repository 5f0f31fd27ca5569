"""A training's whole config, its presets, and how it is read from TOML.

Reading a config imports no torch.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import Field, ValidationError

from pipelines.errors import ConfigError, nearest
from trainers.presets import PRESET_NAMES as PRESET_NAMES
from trainers.presets import PRESETS as PRESETS
from trainers.presets import Preset, preset_fields
from trainers.settings import (
    AdapterConfig,
    DataConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
    Section,
)


class TrainConfig(Section):
    """Everything a training needs; see `trainers.loop.train`."""

    data: DataConfig = Field(title="Pictures and words")
    adapter: AdapterConfig = Field(default=AdapterConfig(), title="Adapter")
    objective: ObjectiveConfig = Field(default=ObjectiveConfig(), title="Objective")
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), title="Optimizer")
    run: RunConfig = Field(title="Run")

    @property
    def adapter_name(self) -> str:
        """The adapter's name: `run.name`, or the trigger where that is empty."""
        return self.run.name or self.data.trigger

    def as_json(self) -> str:
        """The whole config as JSON text, indented; `validate` reads it back."""
        return self.model_dump_json(indent=2) + "\n"

    def public(self) -> dict[str, Any]:
        """The config without what belongs to one machine (folders, device, threads)."""
        values: dict[str, Any] = json.loads(self.model_dump_json())
        for field in ("output", "cache", "device", "threads"):
            del values["run"][field]
        for section, field in NAMED_OR_PATH:
            values[section][field] = Path(values[section][field]).name
        for field in ("instance_images", "class_images"):
            del values["data"][field]
        return values


NAMED_OR_PATH: tuple[tuple[str, str], ...] = (
    ("run", "base"), ("run", "vae"), ("run", "configs"), ("data", "captioner")
)  # fmt: skip
"""(section, name) of every field that is a name, or a folder or file where there is one."""

FIELDS: dict[str, str] = {
    name: section
    for section, field in TrainConfig.model_fields.items()
    for name in field.annotation.model_fields  # type: ignore[union-attr]
}
"""Name of the section by name of the field; names are unique over all sections."""

PATHS: tuple[tuple[str, str], ...] = tuple(
    (section, name)
    for name, section in FIELDS.items()
    for annotation in [TrainConfig.model_fields[section].annotation.model_fields[name].annotation]  # type: ignore[union-attr]
    if Path in (annotation, *get_args(annotation))
)
"""(section, name) of every field that is a folder or a file."""


def validate(values: dict[str, Any]) -> TrainConfig:
    """Make a config from nested plain values.

    Raises: ConfigError, one line for the first mistake: field, what was got, what was expected.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


def _one_line(error: ValidationError) -> str:
    """The first mistake of a validation in one line, and how many more there are."""
    mistakes = error.errors(include_url=False)
    # A misspelt field is both unknown and missing: the first says more.
    mistake = next((m for m in mistakes if m["type"] == "extra_forbidden"), mistakes[0])
    place = ".".join(str(part) for part in mistake["loc"])
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    message = str(mistake["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    shown = repr(mistake["input"])
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    if mistake["type"] == "extra_forbidden":
        known = _known_beside(mistake["loc"])
        return f"unknown setting {place!r}{nearest(str(mistake['loc'][-1]), known)}{more}"
    if mistake["type"] == "missing":
        return f"setting {place!r} is missing; add it{more}"
    if mistake["type"] == "value_error":
        joint = "." if len(mistake["loc"]) == 1 else ": "
        return f"{place}{joint}{message}{more}"
    return f"{place}: got {shown}, expected {message[:1].lower()}{message[1:]}{more}"


def _known_beside(location: tuple[int | str, ...]) -> list[str]:
    """Names of the settings that could stand where `location` ends."""
    if len(location) == 1:
        return list(TrainConfig.model_fields)
    if location[0] == "preset":
        return list(Preset.model_fields)
    return [name for name, section in FIELDS.items() if section == location[0]]


def preset_config(preset: str | Preset, kind: str, **fields: Any) -> TrainConfig:
    """Make a config from a preset.

    preset: one of PRESET_NAMES, or with size and memory. kind: "subject" or "style". fields: values by
    field name, whatever its section; they go before the preset's. Needed are instance_images, trigger,
    instance_prompt and output.

    Raises: ConfigError for an unknown preset, kind or field, and for what `validate` refuses.
    """
    values: dict[str, Any] = {section: {} for section in TrainConfig.model_fields}
    for name, value in {**preset_fields(read_preset(preset), kind), "kind": kind, **fields}.items():
        if name not in FIELDS:
            raise ConfigError(f"unknown setting {name!r}{nearest(name, FIELDS)}")
        values[FIELDS[name]][name] = value
    return validate(values)


def read_preset(said: Any) -> Preset:
    """Read what a config's `preset` says: a name, or a table. Raises: ConfigError, one line."""
    if isinstance(said, Preset):
        return said
    if not isinstance(said, str | dict):
        raise ConfigError(f"unknown preset {said!r}{nearest(str(said), PRESET_NAMES)}")
    try:
        return _Said.model_validate({"preset": said if isinstance(said, dict) else {"name": said}}).preset
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


class _Said(Section):
    preset: Preset


def load_config(path: str | Path) -> TrainConfig:
    """Read a config from a TOML file.

    The file has the sections of TrainConfig as tables, and may have `preset = "…"` above them, or a table
    `[preset]` (see `trainers.presets.Preset`); the other tables go before it. Relative folders are taken
    from the file's own folder; `run.base`, `run.vae`, `run.configs` and `data.captioner` too, where such a
    folder or file exists.

    Raises: ConfigError, one line, for a missing or malformed file and for what `validate` refuses.
    """
    path = Path(path)
    return config_from(read_toml(path), path.parent)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file's plain values. Raises: ConfigError, one line, where it can't be."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config {str(path)!r} can't be read: {error.strerror}; give a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {str(path)!r} isn't TOML: {str(error).splitlines()[0]}") from None


def config_from(values: dict[str, Any], folder: Path) -> TrainConfig:
    """Make a config from the plain values of a file in `folder`; see `load_config`."""
    values = {name: dict(part) if isinstance(part, dict) else part for name, part in values.items()}
    preset = values.pop("preset", None)
    data = values.get("data")
    if preset is not None:
        kind = data.get("kind", "subject") if isinstance(data, dict) else "subject"
        for name, value in preset_fields(read_preset(preset), kind).items():
            section = values.setdefault(FIELDS[name], {})
            if isinstance(section, dict):
                section.setdefault(name, value)
    for place, name in PATHS:
        section = values.get(place)
        if isinstance(section, dict) and isinstance(section.get(name), str) and section[name]:
            section[name] = folder / Path(section[name]).expanduser()
    for place, name in NAMED_OR_PATH:
        section = values.get(place)
        if isinstance(section, dict) and isinstance(section.get(name), str) and section[name]:
            here = folder / Path(section[name]).expanduser()
            if here.exists() and section[name] != "pocket":
                section[name] = str(here)
    return validate(values)
