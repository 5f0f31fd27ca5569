"""The report of security advisories says what was found, and what couldn't be asked."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

REPORT: Any = runpy.run_path(str(Path(__file__).parents[1] / ".ci" / "advisories.py"))["report"]


def test_an_advisory_is_named_with_the_version_that_mends_it() -> None:
    found = [
        {"name": "good", "version": "1", "vulns": []},
        {"name": "bad", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3", "4"]}]},
        {"name": "odd", "version": "2", "vulns": [{"id": "PYSEC-2", "fix_versions": []}]},
    ]
    assert REPORT(found) == [
        "bad 2: PYSEC-1; fixed in 3, 4",
        "odd 2: PYSEC-2; fixed in none yet",
        "advisories: 2 against 3 of 3 pinned libraries",
    ]


def test_libraries_that_the_index_tells_nothing_of_are_counted_apart() -> None:
    found = [{"name": "good", "version": "1", "vulns": []}, {"name": "own", "skip_reason": "not found"}]
    assert REPORT(found)[0] == "advisories: 0 against 1 of 2 pinned libraries"
    assert REPORT(found)[1].endswith(": 1")
