"""What the sections of a config are made of: checks, and what a form needs to know of a field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from pipelines.errors import nearest


def one_of(*names: str) -> AfterValidator:
    """Accept only `names`; the error offers the nearest."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"got {value!r}, expected one of the known names{nearest(value, names)}")
        return value

    return AfterValidator(check)


def about(
    tier: Literal["simple", "advanced"], unit: str = "", choices: tuple[Any, ...] = ()
) -> dict[str, Any]:
    """What a form needs besides pydantic's own metadata."""
    extra: dict[str, Any] = {"tier": tier, "unit": unit}
    return {**extra, "choices": list(choices)} if choices else extra


class Section(BaseModel):
    """A part of the config: immutable, unknown fields are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, str_strip_whitespace=True, validate_default=True
    )

    def given(self, *names: str) -> tuple[str, ...]:
        """Return those of the named fields whose value isn't the default.

        A config that was saved and read again states every field, so only another value is a wish.
        """
        fields = type(self).model_fields
        return tuple(name for name in names if getattr(self, name) != fields[name].default)


def refuse_unread(section: Section, choice: str, table: Mapping[str, Sequence[str]]) -> None:
    """Refuse settings that only other rows of a table read than the chosen one.

    choice: field that names a row. table: by row, the fields that it reads.
    Raises: ValueError for the first of them that isn't its default.
    """
    chosen = getattr(section, choice)
    others = dict.fromkeys(name for names in table.values() for name in names if name not in table[chosen])
    for name in section.given(*others):
        readers = ", ".join(repr(row) for row, names in table.items() if name in names)
        raise ValueError(f"{name} has no effect with {choice} {chosen!r}; leave it out, or choose {readers}")
