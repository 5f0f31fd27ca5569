"""The disk fills up, or refuses: what is kept loads, the job pauses and says so, and goes on with room."""

from __future__ import annotations

from collections.abc import Mapping

from tests.faults import disk_full_run, disk_full_studio
from tests.faults.disk_full_space import needs
from tests.faults.suites import Check, Suite


def figure(figures: Mapping[str, Mapping[str, float]]) -> str:
    """How many calls of a run there are, each of which was refused."""
    calls = figures.get("calls", {}).get("calls")
    return f"each of a run's {calls:.0f} calls refused by ENOSPC and by EIO" if calls else ""


SUITE = Suite(
    title="full and failing disks: trainings, jobs and their index, the page",
    figure=figure,
    checks={
        "levels": Check(
            title="Levels of free space during a training", run=disk_full_run.levels, unit="levels",
            full=30, short=2, plants=disk_full_run.LEVEL_PLANTS, needs=needs,
        ),
        "calls": Check(
            title="Each call of a training refused", run=disk_full_run.calls, unit="refused calls",
            full=400, short=0, plants=disk_full_run.CALL_PLANTS, planted=30,
        ),
        "jobs": Check(
            title="Jobs and their index on a disk that fills up", run=disk_full_studio.jobs, unit="levels",
            full=12, short=0, plants=disk_full_studio.JOB_PLANTS, planted=3, needs=needs,
        ),
        "page": Check(
            title="The page on a full disk", run=disk_full_studio.page, unit="looks", full=10, short=0,
            plants=disk_full_studio.PAGE_PLANTS, planted=1, needs=needs,
        ),
    },
)  # fmt: skip
