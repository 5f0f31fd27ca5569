"""Many browsers, closed windows, second studios, stopped jobs: the queue and its owner stay whole."""

from __future__ import annotations

from collections.abc import Mapping

from tests.faults.load_cancels import CANCELS_CHECK
from tests.faults.load_clients import CLIENTS_CHECK
from tests.faults.load_owners import OWNERS_CHECK
from tests.faults.load_windows import WINDOWS_CHECK
from tests.faults.suites import Suite

CHECKS = {
    "clients": CLIENTS_CHECK, "windows": WINDOWS_CHECK, "owners": OWNERS_CHECK, "cancels": CANCELS_CHECK,
}  # fmt: skip


def _figure(figures: Mapping[str, Mapping[str, float]]) -> str:
    found = figures.get("clients", {})
    if not found:
        return ""
    return (
        f"50 clients: status p95 {found['status_ms_p95']:.0f} ms, training {found['training_slower']:+.1%} "
        f"slower, memory +{found['memory_growth_mb']:.1f} MB"
    )


SUITE = Suite(title="clients, closed windows, second studios, stopped jobs", checks=CHECKS, figure=_figure)
