"""Pictures, zips, names and captions as people and attackers make them: every file is read as what it shows
or refused with one line that names it, and none of its neighbours is lost."""

from __future__ import annotations

from tests.faults.pictures_files import FILE_PLANTS, FILES, drop, folder
from tests.faults.suites import Check, Suite

SUITE = Suite(
    title="bad and odd pictures, zips, names and captions",
    checks={
        "drop": Check(
            title="odd and bad files among good ones in one drop",
            run=drop, unit="files", full=FILES, short=48, plants=FILE_PLANTS, planted=FILES,
        ),
        "folder": Check(
            title="the same in folders that trainings read",
            run=folder, unit="files", full=FILES, short=48, plants=FILE_PLANTS, planted=FILES,
        ),
    },
)  # fmt: skip
