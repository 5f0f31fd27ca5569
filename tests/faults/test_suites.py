"""The fault suites in their short form, and with safeguards taken away; `make test-faults` is whole."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.faults.__main__ import row_of, with_others
from tests.faults.performing import perform
from tests.faults.suites import SUITES, Task, suite

HERE = [name for name in SUITES if find_spec(f"tests.faults.{name}")]
CHECKS = [(name, check) for name in HERE for check in suite(name).checks]
PLANTS = [(name, check, next(iter(suite(name).checks[check].plants))) for name, check in CHECKS]


@pytest.mark.parametrize(("name", "check"), CHECKS)
def test_every_fault_is_survived(name: str, check: str, tmp_path: Path) -> None:
    found = suite(name).checks[check]
    if not found.short:
        pytest.skip("runs in `make test-faults` alone")
    done = perform(f"{name}/{check}", found, Task(tmp_path, found.short))
    if done.skipped:
        pytest.skip(done.skipped)
    assert not done.broke, done.broke
    assert done.failures == []
    assert done.passed, f"only {done.tried} of {found.short} happened"


@pytest.mark.parametrize(("name", "check", "plant"), PLANTS)
def test_a_missing_safeguard_is_noticed(name: str, check: str, plant: str, tmp_path: Path) -> None:
    found = suite(name).checks[check]
    if not found.short:
        pytest.skip("runs in `make test-faults` alone")
    count = found.planted or found.short
    done = perform(f"{name}/{check}", found, Task(tmp_path, count, plant=f"{name}/{check}/{plant}"))
    if done.skipped:
        pytest.skip(done.skipped)
    assert not done.broke, done.broke
    assert done.failures, "nothing was found amiss"


def test_a_suite_run_in_parts_has_passed_when_all_of_it_has() -> None:
    found = suite("not_finite")
    first, *others = found.checks

    def part(*names: str, passed: bool = True, date: str = "2026-01-02") -> dict[str, Any]:
        row = {"passed": passed, "tried": 3, "survived": 3, "seconds": 1.0, "date": date}
        plants = [f"{one}/{plant}" for one in names for plant in found.checks[one].plants]
        return row_of(found, dict.fromkeys(names, row), dict.fromkeys(plants, True))

    begun = with_others(found, part(first, date="2026-01-01"), {})
    assert not begun["passed"]
    whole = with_others(found, part(*others), begun)
    assert whole["passed"]
    assert (whole["tried"], whole["seconds"]) == (3 * len(found.checks), len(found.checks))
    assert list(whole["checks"]) == list(found.checks)
    assert whole["date"] == "2026-01-01", "as old as its oldest part"
    again = with_others(found, part(first, passed=False), whole)
    assert not again["passed"]
    assert list(again["planted"]) == list(whole["planted"])
    assert len(whole["planted"]) == sum(len(check.plants) for check in found.checks.values())
