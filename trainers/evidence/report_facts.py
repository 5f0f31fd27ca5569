"""How a run was made: settings, those that differ from the defaults first, hashes, machine, time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from trainers.evidence.record import Record

Setting = tuple[str, str]
"""(section, name)."""

ASKED = ("data.trigger", "data.instance_prompt", "data.class_prompt", "run.base", "run.name")
"""Stated in any run, so that they stand first though they differ from nothing."""
LONG = 300  # characters of a value


def settings(record: Record) -> str:
    """What differs from the defaults, and folded all the rest."""
    changed: list[str] = []
    usual: list[str] = []
    usually = defaults()
    for section, values in record.config.items():
        for name, value in values.items() if isinstance(values, Mapping) else ():
            default = usually.get((section, name))
            differs = (section, name) in usually and value != default
            if differs and value in ("", None, [], {}):
                differs = False
            row = _row((section, name), value, default if differs else None)
            (changed if differs else usual).append(row)
    if not changed and not usual:
        return ""
    more = f"<details><summary>All settings</summary>{table(usual)}</details>" if usual else ""
    return f"{table(changed)}{more}"


def defaults() -> dict[Setting, Any]:
    """The default of every setting as JSON has it; None where there is none."""
    from trainers.config import TrainConfig

    found = {}
    for section, part in TrainConfig.model_fields.items():
        for name, field in part.annotation.model_fields.items():  # type: ignore[union-attr]
            default = None if field.is_required() else field.default
            found[section, name] = list(default) if isinstance(default, tuple) else default
    return found


def title(setting: Setting) -> str:
    """What the page calls a setting; its name where it isn't known (any more)."""
    from trainers.config import TrainConfig

    section, name = setting
    if section not in TrainConfig.model_fields:
        return name
    field = TrainConfig.model_fields[section].annotation.model_fields.get(name)  # type: ignore[union-attr]
    return str(field.title) if field is not None and field.title else name


def words(value: Any) -> str:
    """A setting's value as a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value in ("", None, [], {}):
        return "–"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(words(one) for one in value)[:LONG]
    return (json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value))[:LONG]


def _row(setting: Setting, value: Any, default: Any) -> str:
    usual = f"<small>usually {escape(words(default))}</small>" if default not in (None, "", []) else ""
    return (
        f'<tr><th scope=row title="{escape(".".join(setting))}">{escape(title(setting))}</th>'
        f"<td>{escape(words(value))} {usual}</td></tr>"
    )


def table(rows: list[str]) -> str:
    """Rows as a table; empty where there are none."""
    return f'<table class="facts"><tbody>{"".join(rows)}</tbody></table>' if rows else ""


def origin(record: Record, adapter_sha256: str = "") -> str:
    """Hashes of what went in and came out, the machine, and where the time went."""
    run = record.run
    hashes = {
        "Pictures and captions": run.get("data_sha256"), "Base": run.get("base_sha256"),
        "Adapter": adapter_sha256,
    }  # fmt: skip
    rows = [
        f"<tr><th scope=row>{name}</th><td><code>{escape(str(value))}</code></td></tr>"
        for name, value in hashes.items()
        if value
    ]
    parts = [("Hashes (SHA-256)", rows), ("Machine and versions", _facts(record.environment))]
    spent = {name.replace("_", " "): f"{value:.1f} s" for name, value in record.seconds.items()}
    parts.append(("Time", _facts(spent)))
    return "".join(
        f"<details><summary>{name}</summary>{table(found)}</details>" for name, found in parts if found
    )


def _facts(values: Mapping[str, Any], before: str = "") -> list[str]:
    """Nested plain values as rows."""
    rows = []
    for name, value in values.items():
        label = f"{before}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += _facts(value, f"{label}: " if before else "")
        else:
            rows.append(f"<tr><th scope=row>{escape(label)}</th><td>{escape(words(value))}</td></tr>")
    return rows
