"""Config fields ↔ what stands on the page, both ways, from the config's own metadata.

Nothing about a field is written here twice: label, help, bounds, unit, choices and tier come from the
pydantic model, so a new field is on the page as soon as it is in the config.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipelines.errors import ConfigError

NUMBERS = ("whole", "number")


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """What a component needs to know about one field.

    Attributes:
        path: names from the outermost config inwards, joined by dots: "optimizer.learning_rate".
        kind: "flag", "choice", "whole", "number", "text", "lines" (a tuple of texts) or "path".
        optional: None is a value (an empty component).
        minimum, maximum: inclusive bounds; None where open. (Exclusive ones are left to validation.)
    """

    path: str
    kind: str
    title: str
    help: str
    unit: str
    tier: str
    optional: bool
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    @property
    def label(self) -> str:
        """Title, and the unit where the title doesn't say it already."""
        told = not self.unit or self.unit.rstrip("s") in self.title.lower()
        return self.title if told else f"{self.title} ({self.unit})"


def _type_of(annotation: Any) -> tuple[Any, bool]:
    """The type without None, and whether None was allowed."""
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [part for part in get_args(annotation) if part is not type(None)]
        optional = len(inner) < len(get_args(annotation))
        return (inner[0] if len(inner) == 1 else object), optional
    return annotation, False


def _kind_of(annotation: Any, choices: tuple[Any, ...]) -> str:
    if choices:
        return "choice"
    if get_origin(annotation) in (tuple, list):
        return "lines"
    simple = {bool: "flag", int: "whole", float: "number", str: "text", Path: "path"}
    if annotation not in simple:
        raise TypeError(f"no component for {annotation!r}")
    return simple[annotation]


def spec_of(path: str, info: FieldInfo) -> FieldSpec:
    """What is known of one field. Raises: TypeError for a field that no component holds."""
    annotation, optional = _type_of(info.annotation)
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    choices: tuple[Any, ...] = get_args(annotation) if get_origin(annotation) is Literal else ()
    listed = extra.get("choices")
    if not choices and isinstance(listed, list | tuple):
        choices = tuple(listed)
    bounds: dict[str, float] = {}
    for rule in info.metadata:
        for name in ("ge", "le"):
            if getattr(rule, name, None) is not None:
                bounds[name] = float(getattr(rule, name))
    return FieldSpec(
        path=path,
        kind=_kind_of(annotation, choices),
        title=info.title or path.rpartition(".")[2].replace("_", " ").capitalize(),
        help=info.description or "",
        unit=str(extra.get("unit") or ""),
        tier=str(extra.get("tier") or "advanced"),
        optional=optional,
        choices=choices,
        minimum=bounds.get("ge"),
        maximum=bounds.get("le"),
    )


def sections(model: type[BaseModel]) -> list[tuple[str, str, list[FieldSpec]]]:
    """(name, title, fields) of each config nested in `model`, in the order they are declared."""
    found = []
    for name, info in model.model_fields.items():
        inner, _ = _type_of(info.annotation)
        specs = [spec_of(f"{name}.{field}", field_info) for field, field_info in inner.model_fields.items()]
        found.append((name, info.title or name.capitalize(), specs))
    return found


def get_value(config: BaseModel, path: str) -> Any:
    """The value of the field at `path`."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def show(spec: FieldSpec, value: Any) -> Any:
    """A field's value as its component takes it."""
    if spec.kind == "lines":
        return "\n".join(str(line) for line in value)
    if value is None:
        return None if spec.kind == "choice" else ""
    return str(value) if spec.kind == "path" or (spec.optional and spec.kind in NUMBERS) else value


def parse(spec: FieldSpec, raw: Any) -> Any:
    """What a component holds as the field's value; the reverse of `show`.

    Raises:
        ConfigError: a number that isn't one, or nothing where something is needed.
    """
    if spec.kind == "lines":
        return tuple(line.strip() for line in str(raw or "").splitlines() if line.strip())
    if spec.kind == "flag":
        return bool(raw)
    if raw is None or (isinstance(raw, str) and not raw.strip()):
        if spec.optional:
            return None
        if spec.kind in ("text", "path"):
            return ""
        raise ConfigError(
            f"{spec.title} is empty; expected a {'number' if spec.kind != 'choice' else 'choice'}"
        )
    if spec.kind not in NUMBERS:
        return raw
    try:
        number = float(raw)
    except (TypeError, ValueError):
        raise ConfigError(f"{spec.title} is {raw!r}; expected a number") from None
    if spec.kind == "number":
        return number
    if not number.is_integer():  # nor is NaN or infinity
        raise ConfigError(f"{spec.title} is {raw}; expected a whole number")
    return int(number)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"run.steps": 3}` as `{"run": {"steps": 3}}`."""
    out: dict[str, Any] = {}
    for path, value in values.items():
        *outer, last = path.split(".")
        level = out
        for name in outer:
            level = level.setdefault(name, {})
        level[last] = value
    return out


def flat(config: BaseModel, specs: Iterable[FieldSpec]) -> dict[str, Any]:
    """The component values of a config's fields, by path."""
    return {spec.path: show(spec, get_value(config, spec.path)) for spec in specs}


def changed(config: BaseModel, specs: Iterable[FieldSpec], raw: Mapping[str, Any]) -> dict[str, Any]:
    """The config as nested values in which what the components hold has been put in."""
    values: dict[str, Any] = {
        name: {field: getattr(section, field) for field in type(section).model_fields}
        for name in type(config).model_fields
        for section in [getattr(config, name)]
    }
    for section_name, fields in nested(
        {spec.path: parse(spec, raw[spec.path]) for spec in specs if spec.path in raw}
    ).items():
        values[section_name].update(fields)
    return values


def field_id(path: str) -> str:
    """The id of a field's component in the page."""
    return "field-" + path.replace(".", "-").replace("_", "-")


def described(spec: FieldSpec, placeholder: str = "") -> dict[str, Any]:
    """A field as `js/fields.js` draws it: JSON values.

    placeholder: what an empty one shows.
    """
    return {
        "path": spec.path, "id": field_id(spec.path), "kind": spec.kind, "title": spec.title,
        "label": spec.label, "help": spec.help, "optional": spec.optional, "choices": list(spec.choices),
        "minimum": spec.minimum, "maximum": spec.maximum, "placeholder": placeholder,
    }  # fmt: skip
