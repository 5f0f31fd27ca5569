"""The power goes, and what wasn't synced goes with it: nothing that was told as done is lost."""

from __future__ import annotations

from collections.abc import Mapping

from tests.faults import power_cut_run, power_cut_studio
from tests.faults.suites import Check, Suite


def figure(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Between how many calls of what is used the power went."""
    moments = figures.get("studio", {}).get("moments")
    return (
        f"at each of {moments:.0f} calls of a studio in use" if moments else ""
    )


SUITE = Suite(
    title="states that a power cut may leave, replayed from what was synced",
    figure=figure,
    checks={
        "training": Check(
            title="Power cut during a training", run=power_cut_run.run, unit="power cuts", full=150,
            short=14, plants=power_cut_run.PLANTS, planted=40,
        ),
        "studio": Check(
            title="Power cut while the studio is used", run=power_cut_studio.run, unit="power cuts",
            full=600, short=24, plants=power_cut_studio.PLANTS, planted=60,
        ),
    },
)  # fmt: skip
