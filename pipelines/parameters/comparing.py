"""What two pictures' settings say of where they were drawn, held against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return why the same settings may give other bits: base, libraries and machine, a line each.

    before, after: settings of Pigment's pictures; what the first doesn't say is not compared.
    """
    found = []
    if list(_unlike(_part(before, "base", "sha256"), _part(after, "base", "sha256"))):
        found.append("the settings are of a picture of another base: this one differs")
    told = [
        *_unlike(_part(before, "base", "prediction_type"), _part(after, "base", "prediction_type")),
        *_unlike(_vae(before), _vae(after)),
        *_unlike(before.get("machine"), after.get("machine")),
        *_unlike(before.get("libraries"), after.get("libraries")),
    ]
    if told:
        found.append(f"the picture that the settings are of was drawn otherwise: {', '.join(told)}")
    return found


def _unlike(before: Any, after: Any) -> Iterator[str]:
    """Yield what two tables have different values for."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return
    for name in before:
        if before[name] != after.get(name):
            yield f"{name} {_shown(before[name])}, now {_shown(after.get(name))}"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)[:60]


def _part(settings: Mapping[str, Any], table: str, name: str) -> dict[str, Any]:
    """One value of a table, as a table; empty where it isn't said."""
    held = settings.get(table)
    return {name: held[name]} if isinstance(held, Mapping) and held.get(name) else {}


def _vae(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The VAE of one's own; none is a value, too."""
    base = settings.get("base")
    vae = base.get("vae") if isinstance(base, Mapping) else None
    return {"VAE": str(vae.get("sha256"))[:12] if isinstance(vae, Mapping) else None}
