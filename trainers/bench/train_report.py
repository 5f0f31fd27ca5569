"""What `pigment bench train` prints and keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WIDTH = 22
_MIB = 2**20


def merged(kept: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """Put what was measured of a model over what was kept: what isn't measured stays with its origin."""
    found = {**kept, **measured}
    if "batches" in kept and "batches" in measured:
        rows = {name: merged(kept["batches"].get(name, {}), row) for name, row in measured["batches"].items()}
        found["batches"] = {**kept["batches"], **rows}
    origin = {name: kept[name] for name in ("date", "command") if name in kept}
    for table in ("baselines", "mechanisms"):
        if table in kept:
            before = {name: {**origin, **row} for name, row in kept[table].items()}
            found[table] = {**before, **measured.get(table, {})}
    return found


def kept_in(place: Path) -> dict[str, Any]:
    """The figures of a file; none where it isn't there."""
    if not place.is_file():
        return {}
    found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    return found


def lines(name: str, batch: int, figures: Mapping[str, Any]) -> list[str]:
    """What people read of a model's figures at a batch size."""
    ours = figures["pigment"]
    said = [f"{name}, batch {batch}", "  " + _line("pigment", ours)]
    for baseline, theirs in figures.get("baselines", {}).items():
        said.append("  " + _line(baseline, theirs))
        if "ratio" in theirs:
            said += [f"  {'':{_WIDTH}} {text}" for text in (*_ratios(theirs), *_unlike(theirs))]
    for mechanism, row in figures.get("mechanisms", {}).items():
        said.append("  " + _mechanism(mechanism, row))
    return said


def _line(name: str, figures: Mapping[str, Any]) -> str:
    if "failed" in figures:
        return f"{name:{_WIDTH}} {figures['failed']}"
    again = figures.get("first_step_again_s")
    return (
        f"{name:{_WIDTH}} {figures['steps_per_s']:.3g} steps/s   first step {figures['first_step_s']:.3g} s"
        f"{'' if again is None else f', in a second run {again:.3g} s'}"
        f"   peak {figures['peak_bytes'] / _MIB:,.0f} MiB"
    )


def _ratios(figures: Mapping[str, Any]) -> list[str]:
    """A baseline's ratios with their spread."""
    names = {
        "ratio": "× its steps/s",
        "cpu_ratio": "× by processor time",
        "first_step_ratio": "× its time to the first step",
        "first_step_cpu_ratio": "× its processor time to the first step",
        "peak_ratio": "× its peak memory",
        "reserved_ratio": "× what it reserved of the card",
    }
    return [f"{_spread(figures, name)} {text}" for name, text in names.items() if name in figures]


def _unlike(figures: Mapping[str, Any]) -> list[str]:
    """What a baseline does otherwise than we, which its ratios are to be read with."""
    rows = figures.get("unlike", {}).items()
    return [
        f"not alike: its {name.replace('_', ' ')} is {theirs}, ours {own}" for name, (own, theirs) in rows
    ]


def _spread(figures: Mapping[str, Any], name: str) -> str:
    low, high = figures[f"{name}_spread"]
    return f"{figures[name]:.2f} ({low:.2f} to {high:.2f})"


def _mechanism(name: str, row: Mapping[str, Any]) -> str:
    if "failed" in row:
        return f"{name:{_WIDTH}} {row['failed']}"
    said = f"{name:{_WIDTH}} {_spread(row, 'gain')} × the steps/s without it"
    if "saved_ms" in row:
        return f"{said}; it saves {row['saved_ms']:.3g} ms a step"
    return f"{said}; by processor time {row['cpu_gain']:.2f}, peak of memory {row['peak_gain']:.2f}"


def count_lines(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What people read of counted steps: of each row what is counted, and the ratios."""
    said = []
    for model, rows in found.items():
        said.append(model)
        for name, row in rows.items():
            values = "  ".join(f"{key} {value:.4g}" for key, value in row.items())
            said.append(f"  {name:{_WIDTH}} {values}")
    return said


def size_lines(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What people read of trainings on few and on many pictures."""
    return [
        f"  {name:>8}  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items())
        for name, row in found.items()
    ]
