"""The power goes, and what wasn't synced goes with it: nothing that was told as done is lost."""

from __future__ import annotations

from tests.faults import power_cut_run, power_cut_studio
from tests.faults.suites import Check, Suite

SUITE = Suite(
    title="Power cut",
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
