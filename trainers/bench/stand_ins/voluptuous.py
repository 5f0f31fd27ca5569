"""What training scripts use of voluptuous: values checked against a schema of types, lists and objects.

Only registered where the real package is missing.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any as Anything

ALLOW_EXTRA = 1


class Invalid(Exception):
    """A value that doesn't fit."""


class MultipleInvalid(Invalid):
    """What `Schema` raises."""


class Required(str):
    """A key that must be there."""


class Any:
    """One of several schemas."""

    def __init__(self, *schemas: Anything) -> None:
        self.schemas = schemas

    def __call__(self, value: Anything) -> Anything:
        for schema in self.schemas:
            try:
                return checked(schema, value)
            except Invalid:
                continue
        raise Invalid(f"{value!r} fits none of {self.schemas}")


class ExactSequence:
    """A list or tuple of so many values, each with a schema of its own."""

    def __init__(self, schemas: Sequence[Anything]) -> None:
        self.schemas = schemas

    def __call__(self, value: Anything) -> Anything:
        if not isinstance(value, (list, tuple)) or len(value) != len(self.schemas):
            raise Invalid(f"{value!r} isn't a sequence of {len(self.schemas)}")
        return type(value)(checked(schema, each) for schema, each in zip(self.schemas, value, strict=True))


class Object:
    """An object whose attributes have schemas; it is made anew of them, without those that are None."""

    def __init__(self, schema: dict[str, Anything]) -> None:
        self.schema = schema


class Schema:
    """Checks a value; `extra`: whether keys that the schema doesn't name may stand in it."""

    def __init__(self, schema: Anything, extra: int = 0) -> None:
        self.schema = schema
        self.extra = extra

    def __call__(self, value: Anything) -> Anything:
        """The value, converted where the schema does so. Raises: MultipleInvalid."""
        try:
            return checked(self.schema, value, bool(self.extra))
        except Invalid as error:
            raise MultipleInvalid(str(error)) from error


def checked(schema: Anything, value: Anything, extra: bool = False) -> Anything:
    """A value as the schema makes it. Raises: Invalid."""
    if isinstance(schema, Object):
        given = {key: each for key, each in vars(value).items() if each is not None}
        return type(value)(**_keyed(schema.schema, given, extra))
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            raise Invalid(f"{value!r} isn't an object")
        return _keyed(schema, value, extra)
    if isinstance(schema, list):
        if not isinstance(value, list):
            raise Invalid(f"{value!r} isn't a list")
        return [Any(*schema)(each) for each in value]
    if isinstance(schema, type):
        if not isinstance(value, schema):
            raise Invalid(f"{value!r} isn't {schema.__name__}")
        return value
    if callable(schema):
        return _called(schema, value)
    if schema != value:
        raise Invalid(f"{value!r} isn't {schema!r}")
    return value


def _called(schema: Callable[[Anything], Anything], value: Anything) -> Anything:
    try:
        return schema(value)
    except ValueError as error:
        raise Invalid(str(error)) from error


def _keyed(schema: dict[str, Anything], value: dict[str, Anything], extra: bool) -> dict[str, Anything]:
    missing = [key for key in schema if isinstance(key, Required) and key not in value]
    unknown = [key for key in value if key not in schema]
    if missing or (unknown and not extra):
        raise Invalid(f"keys missing: {missing}, keys too many: {[] if extra else unknown}")
    return {key: checked(schema[key], each) if key in schema else each for key, each in value.items()}


def register() -> None:
    """Put `voluptuous` into sys.modules."""
    module = types.ModuleType("voluptuous", "A stand-in; see Pigment's trainers/bench/stand_ins.")
    module.__spec__ = importlib.machinery.ModuleSpec("voluptuous", None)
    for each in (Invalid, MultipleInvalid, Required, Any, ExactSequence, Object, Schema):
        setattr(module, each.__name__, each)
    module.ALLOW_EXTRA = ALLOW_EXTRA  # type: ignore[attr-defined]
    sys.modules["voluptuous"] = module
