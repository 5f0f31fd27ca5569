"""A picture's settings in words, for people: names and values under the titles of GenerationConfig."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.generation import GenerationConfig
from pipelines.samplers import SAMPLERS

Told = Mapping[str, Any]
"""The fields of a GenerationConfig as JSON has them, any of which may be missing."""

APART = ("prompt", "negative_prompt", "adapters", "width", "height", "num_images", "batch_size")
ALWAYS = ("seed", "num_inference_steps", "guidance_scale", "sampler")


def facts(told: Told) -> dict[str, str]:
    """The settings by their titles: those that every picture has, and those that aren't as usual."""
    found = {}
    for name, field in GenerationConfig.model_fields.items():
        value = told.get(name)
        usual = name not in ALWAYS and value == field.default
        if name in APART or value is None or usual or value in ((), []):
            continue
        more = field.json_schema_extra
        unit = more.get("unit", "") if isinstance(more, dict) else ""
        found[str(field.title or name)] = f"{_said(name, value)} {unit}".strip()
    if told.get("width") and told.get("height"):
        found["Size"] = f"{told['width']} × {told['height']}"
    return found


def _said(name: str, value: Any) -> str:
    if name == "sampler" and value in SAMPLERS:
        return SAMPLERS[value].label
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_said("", one) for one in value)
    data = value if isinstance(value, Mapping) else getattr(value, "__dict__", None)
    if data is not None:
        return str(data.get("name") or Path(str(data.get("ref") or "")).name or "a picture")
    return str(value)


def adapters(told: Told) -> list[tuple[str, float]]:
    """(name, weight) of the adapters that settings record."""
    found = []
    for use in told.get("adapters") or ():
        use = use if isinstance(use, Mapping) else vars(use)
        found.append((str(use.get("name", "")), float(use.get("weight") or 0)))
    return found


def base(settings: Told) -> dict[str, str]:
    """The base that a picture's whole settings name, under its title; empty where they don't."""
    said = settings.get("base")
    name = Path(str(said.get("ref", ""))).name if isinstance(said, Mapping) else ""
    return {"Base": name} if name else {}


def varied(settings: Told) -> str:
    """What a grid varies: "weight zib (5) × seed (3)"."""
    told = [axis for axis in settings.get("grid") or () if isinstance(axis, Mapping)]
    return " × ".join(
        f"{axis.get('axis', '')} {axis.get('target') or ''}".strip() + f" ({len(axis.get('values') or ())})"
        for axis in told
    )
