"""The fault suites in their short form, and with safeguards taken away; `make test-faults` is whole."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

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
