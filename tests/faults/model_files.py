"""Adapter and base files that are hostile, broken or worn: refused in one line, or read as what they are."""

from __future__ import annotations

from collections.abc import Mapping

from tests.faults import model_files_bases as bases
from tests.faults import model_files_mutated as mutated
from tests.faults import model_files_pickles as pickles
from tests.faults import model_files_refused as refused
from tests.faults import model_files_worn as worn
from tests.faults.suites import Check, Suite


def figure(figures: Mapping[str, Mapping[str, float]]) -> str:
    """The most that one file took."""
    found = figures.get("mutated", {})
    if "longest (s)" not in found:  # it broke before
        return ""
    return f"a file took {found['longest (s)']:.2f} s and {found['most memory (MB)']:.0f} MB at most"


SUITE = Suite(
    title="hostile, broken and worn model files",
    figure=figure,
    checks={
        "mutated": Check(
            title="adapter files spoilt by their structure",
            run=mutated.run, unit="files", full=100_000, short=150, planted=4000, plants=mutated.PLANTS,
            needs=mutated.needs,
        ),
        "refused": Check(
            title="bad adapters of many kinds, base unchanged",
            run=refused.run, unit="refusals", full=279, short=93, plants=refused.PLANTS,
        ),
        "pickles": Check(
            title="pickles that would do harm, at every door",
            run=pickles.run, unit="pickles", full=11 * pickles.COUNT, short=28,
            plants=pickles.PLANTS,
        ),
        "worn": Check(
            title="bits turned in the library's files, and every way of use",
            run=worn.run, unit="bits", full=420, short=14, planted=42, plants=worn.PLANTS,
        ),
        "bases": Check(
            title="bases spoilt in one file and in folders",
            run=bases.run, unit="bases", full=3000, short=25, planted=150, plants=bases.PLANTS,
            needs=mutated.needs,
        ),
    },
)  # fmt: skip
