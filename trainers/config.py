"""A training's whole config, its presets, and how it is read from TOML.

Reading a config imports no torch.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field, ValidationError, model_validator

from pipelines.errors import ConfigError, nearest
from pipelines.methods import TUNINGS
from trainers.presets import PRESET_NAMES as PRESET_NAMES
from trainers.presets import PRESETS as PRESETS
from trainers.presets import Preset, fitting, preset_fields
from trainers.settings import (
    AdapterConfig,
    DataConfig,
    EvidenceConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
    Section,
)
from trainers.settings.optimizer import OPTIMIZERS


class TrainConfig(Section):
    """Everything a training needs; see `trainers.loop.train`."""

    data: DataConfig = Field(title="Pictures and words")
    adapter: AdapterConfig = Field(default=AdapterConfig(), title="Adapter")
    objective: ObjectiveConfig = Field(default=ObjectiveConfig(), title="Objective")
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), title="Optimizer")
    run: RunConfig = Field(title="Run")
    evidence: EvidenceConfig = Field(default=EvidenceConfig(), title="Evidence")

    @model_validator(mode="after")
    def _sections_agree(self) -> TrainConfig:
        """Refuse what would be set in one section and changes nothing beside another."""
        row, targets = TUNINGS[self.adapter.method], self.adapter.text_targets
        if self.optimizer.text_learning_rate is not None and (
            "text" not in row.components or targets == "none"
        ):
            raise ValueError(
                "optimizer.text_learning_rate: no text encoder learns; choose adapter.text_targets, or leave "
                "it out"
            )
        own = OPTIMIZERS[self.optimizer.optimizer].learning_rate  # filled in where nothing is said
        if not row.components and self.optimizer.learning_rate not in (None, own):
            raise ValueError(
                f"optimizer.learning_rate: {row.label} learns a word alone; set adapter.token_learning_rate, "
                "or leave it out"
            )
        if row.allocates_rank and OPTIMIZERS[self.optimizer.optimizer].averages:
            raise ValueError(
                f"optimizer.optimizer: {self.optimizer.optimizer!r} would average back what {row.label} "
                "prunes; choose 'adamw', with ema_decay where an average is wanted"
            )
        if not row.components and self.data.caption_dropout == 1:
            raise ValueError(
                f"data.caption_dropout: got 1, but {row.label} learns from captions alone; lower it"
            )
        if self.objective.given("prior_target") and not self.data.prior_weight:
            raise ValueError(
                "objective.prior_target: class pictures are left out; set data.prior_weight, or leave it out"
            )
        return self

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
    ("run", "base"), ("run", "vae"), ("run", "configs"), ("data", "captioner"),
    ("evidence", "judge"), ("evidence", "structure_judge"),
)  # fmt: skip
"""(section, name) of every field that is a name, or a folder or file where there is one."""

FIELDS: dict[str, str] = {
    name: section
    for section, field in TrainConfig.model_fields.items()
    for name in field.annotation.model_fields  # type: ignore[union-attr]
}
"""Name of the section by name of the field; names are unique over all sections."""


def kinds_of(section: str, name: str) -> set[Any]:
    """Return the types that a field may have: {int, NoneType}, {tuple}; of choices, their values' types."""

    def inside(annotation: Any) -> set[Any]:
        origin, parts = get_origin(annotation), get_args(annotation)
        if origin is Literal:
            return {type(part) for part in parts}
        if origin in (Union, UnionType, Annotated):
            return set().union(*map(inside, parts[:1] if origin is Annotated else parts))
        return {origin or annotation}

    return inside(TrainConfig.model_fields[section].annotation.model_fields[name].annotation)  # type: ignore[union-attr]


PATHS: tuple[tuple[str, str], ...] = tuple(
    (section, name) for name, section in FIELDS.items() if Path in kinds_of(section, name)
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


_PLAINER = {
    "a valid tuple": "a list",
    "a valid string": "a text",
    "Input is not a valid path.*": "a path",
    "a valid dictionary or instance of .*": "a table of settings",
    "a valid integer.*": "a whole number",
    "a valid number.*": "a number",
    "a valid boolean.*": "true or false",
}
"""What pydantic says, in words for people."""


def _one_line(error: ValidationError) -> str:
    """The first mistake of a validation in one line, and how many more there are."""
    mistakes = error.errors(include_url=False)
    # A misspelt field is both unknown and missing: the first says more.
    mistake = next((m for m in mistakes if m["type"] == "extra_forbidden"), mistakes[0])
    place = ".".join(str(part) for part in mistake["loc"])
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    message = str(mistake["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    message = re.sub(r"^\w+ should have ", "", message).replace(" after validation", "")
    for said, plainer in _PLAINER.items():
        message = re.sub(said, plainer, message)
    shown = repr(mistake["input"])
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    if mistake["type"] == "extra_forbidden":
        known = _known_beside(mistake["loc"])
        return f"unknown setting {place!r}{nearest(str(mistake['loc'][-1]), known)}{more}"
    if mistake["type"] == "missing":
        return f"setting {place!r} is missing; add it{more}"
    if mistake["type"] == "value_error":
        joint = ("", ".", ": ")[min(len(mistake["loc"]), 2)]
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
    preset_says = fitting(preset_fields(read_preset(preset), kind), fields.get("method"))
    for name, value in {**preset_says, "kind": kind, **fields}.items():
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
    """Read a config from a TOML file, or from the config.json of a run.

    The file has the sections of TrainConfig as tables, and may have `preset = "…"` above them, or a table
    `[preset]` (see `trainers.presets.Preset`); the other tables go before it. Relative folders are taken
    from the file's own folder; `run.base`, `run.vae`, `run.configs` and `data.captioner` too, where such a
    folder or file exists. All come out absolute, so that the file says the same from wherever it is read.

    Raises: ConfigError, one line, for a missing or malformed file and for what `validate` refuses.
    """
    path = Path(path)
    return config_from(read_toml(path), path.parent)


def read_toml(path: Path) -> dict[str, Any]:
    """Read the plain values of a TOML file, or of a JSON file by its name ending so.

    Raises: ConfigError, one line, where it can't be read.
    """
    kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"config {str(path)!r} can't be read: {error.strerror}; give a TOML file") from None
    except (ValueError, RecursionError) as error:  # of tomllib, json and decoding
        raise ConfigError(f"config {str(path)!r} isn't {kind}: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"config {str(path)!r} isn't an object; give a run's config.json, or a TOML file")
    return values


def config_from(values: dict[str, Any], folder: Path) -> TrainConfig:
    """Make a config from the plain values of a file in `folder`; see `load_config`."""
    values = {name: dict(part) if isinstance(part, dict) else part for name, part in values.items()}
    folder = folder.resolve()
    preset = values.pop("preset", None)
    data, adapter = values.get("data"), values.get("adapter")
    if preset is not None:
        kind = data.get("kind", "subject") if isinstance(data, dict) else "subject"
        method = adapter.get("method") if isinstance(adapter, dict) else None
        for name, value in fitting(preset_fields(read_preset(preset), kind), method).items():
            section = values.setdefault(FIELDS[name], {})
            if isinstance(section, dict):
                section.setdefault(name, value)
    for place, name in (*PATHS, *NAMED_OR_PATH):
        section = values.get(place)
        said = section.get(name) if isinstance(section, dict) else None
        if not isinstance(section, dict) or not isinstance(said, str):
            continue
        if (place, name) in PATHS and not said.strip():
            del section[name]  # nothing said, and not this folder
        elif (place, name) in PATHS:
            section[name] = located(said, folder, f"{place}.{name}")
        elif said.strip():
            section[name] = named_or_located(said, folder, f"{place}.{name}")
    return validate(values)


def located(said: str, folder: Path, place: str) -> Path:
    """Return the path that a text means in `folder`; "~" is a home folder.

    place: "section.field", for the error. Raises: ConfigError for what can't be a path.
    """
    try:
        if "\0" in said or not said.encode():
            raise ValueError
        return folder / Path(said.strip()).expanduser()
    except RuntimeError:
        raise ConfigError(f"{place}: got {said!r}, but there is no such user; write the folder out") from None
    except ValueError:
        raise ConfigError(f"{place}: got {said!r}, expected a path in UTF-8; rename it") from None


def named_or_located(said: str, folder: Path, place: str) -> str:
    """Return the path of what a text names in `folder` where it is there, else the text: it is a name."""
    found = located(said, folder, place)
    return str(found) if said != "pocket" and os.path.exists(found) else said
