"""Many browsers, closed windows, second studios, stopped jobs: the queue and its owner stay whole."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from tests.faults.load_cancels import CANCELS_CHECK
from tests.faults.load_clients import CLIENTS_CHECK
from tests.faults.load_owners import OWNERS_CHECK
from tests.faults.load_windows import WINDOWS_CHECK
from tests.faults.suites import Suite

CHECKS = {
    "clients": CLIENTS_CHECK, "windows": WINDOWS_CHECK, "owners": OWNERS_CHECK, "cancels": CANCELS_CHECK,
}  # fmt: skip
WORDS = {
    "clients": "50 clients: status p95 {status_ms_p95:.0f} ms, training {training_slower:.1%} slower, memory "
    "+{memory_growth_mb:.1f} MB",
    "windows": "a fresh window shows the training in {seconds_back:.1f} s at most",
    "cancels": "a stopped job's processes are gone in {seconds_until_gone:.1f} s at most",
}
"""What is said of each check's figures."""


def _figure(figures: Mapping[str, Mapping[str, float]]) -> str:
    said = []
    for name, words in WORDS.items():
        with suppress(KeyError):  # of a check that didn't run, or broke
            said.append(words.format(**figures[name]))
    return "; ".join(said)


SUITE = Suite(title="clients, closed windows, second studios, stopped jobs", checks=CHECKS, figure=_figure)
