"""What a form of the library's dialog is made of (js/dialog.js), and the rows that several have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pipelines.errors import ConfigError
from pipelines.formats import WRITE_DTYPES
from studio.context import Context
from studio.entries import NAME_LENGTH

Values = Mapping[str, Any]
Field = dict[str, Any]
DTYPES = {"fp16": "fp16 (half the size)", "bf16": "bf16", "fp32": "fp32 (exact)"}


@dataclass(frozen=True, kw_only=True)
class Form:
    """One thing the dialog asks. fields(context, ids): its `value` for js/dialog.js, without form and about.
    submit(context, ids, values): does it and returns what to say."""

    fields: Callable[[Context, Sequence[str]], dict[str, Any]]
    submit: Callable[[Context, Sequence[str], Values], str]


def validated(model: Any, **values: Any) -> Any:
    """A request of these values. Raises: ConfigError in one line for the first that is out of its bounds."""
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]).replace("_", " ") if first["loc"] else "this"
        said = str(first["msg"]).removeprefix("Input should be ")
        raise ConfigError(f"{name} is {first['input']!r}, expected {said}; change it") from None


def field(kind: str, name: str, label: str, **more: Any) -> Field:
    """A row: a kind of js/dialog.js, its name among the values, its label, and whatever else it has."""
    return {"kind": kind, "name": name, "label": label, **more}


def dtype_field() -> Field:
    """The choice of a precision."""
    choices = [[DTYPES.get(name, name), name] for name in WRITE_DTYPES]
    return field("select", "dtype", "Precision", value="fp16", choices=choices)


def name_field() -> Field:
    """The name of what is made."""
    return field("text", "name", "Name", max=NAME_LENGTH, placeholder="made by itself")


def rank_field(value: int | None, **more: Any) -> Field:
    """A rank."""
    return field("number", "rank", "Rank", min=1, max=1024, step=1, value=value, **more)


LEFT_OUT = field(
    "check", "allow_left_out", "Leave out what plain LoRA can't hold",
    hint="Changes of biases and norms; the report counts them.",
)  # fmt: skip
