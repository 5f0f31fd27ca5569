"""Pictures, zips, names and captions as people and attackers make them: every file is read as what it shows
or refused with one line that names it, and none of its neighbours is lost."""

from __future__ import annotations

from collections.abc import Mapping

from tests.faults.pictures_dropped import MANY_PLANTS, PARCEL_PLANTS, PARCELS, drop_parcels, many
from tests.faults.pictures_files import FILE_PLANTS, FILES, drop, folder
from tests.faults.pictures_memory import (
    HEAVY,
    here,
    in_the_server,
    memory,
    metadata_without_end,
    unbounded,
    unlimited_tables,
)
from tests.faults.suites import Check, Suite

Figures = Mapping[str, Mapping[str, float]]


def figure(figures: Figures) -> str:
    """Memory at most, and the time of the largest drop."""
    taken = [value for name, value in figures.get("memory", {}).items() if name.startswith("MB of the ")]
    many = figures.get("many", {})
    said = [f"+{max(taken):.0f} MB at most"] if taken else []
    said += [f"{many['pictures']:,.0f} pictures in {many['seconds']:.0f} s"] if "pictures" in many else []
    return ", ".join(said)


SUITE = Suite(
    title="bad and odd pictures, zips, names and captions",
    figure=figure,
    checks={
        "drop": Check(
            title="odd and bad files among good ones in one drop",
            run=drop, unit="files", full=FILES, short=30, plants=FILE_PLANTS, planted=12,
        ),
        "folder": Check(
            title="the same in folders that trainings read",
            run=folder, unit="files", full=FILES, short=30, plants=FILE_PLANTS, planted=12,
        ),
        "parcels": Check(
            title="zips, names, captions and tables", run=drop_parcels, unit="parcels", full=PARCELS,
            short=30, plants=PARCEL_PLANTS, planted=6,
        ),
        "many": Check(
            title="pictures in one drop, and again", run=many, unit="files", full=10_000, short=60,
            plants=MANY_PLANTS,
        ),
        "memory": Check(
            title="heavy files, each alone", run=memory, unit="files", full=HEAVY, short=0, planted=4,
            needs=here,
            plants={
                "no limit of memory": unbounded, "decoded in the server": in_the_server,
                "tables without end": unlimited_tables, "metadata without end": metadata_without_end,
            },
        ),
    },
)  # fmt: skip
