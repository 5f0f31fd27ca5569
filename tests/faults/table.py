"""The README's table of the fault suites, from the figures file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEAD = ("suite", "faults", "survived", "measured", "safeguards taken away, and noticed", "date")


def as_markdown(kept: Mapping[str, Any]) -> str:
    """Rows by suite, in the order of the file. kept: what `make test-faults` wrote."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|---|---|---|---|---|"]
    for name, row in kept["suites"].items():
        noticed = f"{sum(row['planted'].values())} of {len(row['planted'])}"
        shown = f"**{name.replace('_', ' ')}**: {row['title']}"
        cells = (shown, f"{row['tried']:,}", f"{row['survived']:,}", row["figure"], noticed, row["date"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
