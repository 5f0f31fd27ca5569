"""Settings of two pictures, held against each other."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.parameters.comparing import differences

RECORD: dict[str, Any] = {
    "base": {"sha256": "ab", "prediction_type": "epsilon", "vae": {"ref": "v", "sha256": "cd" * 32}},
    "machine": {"device": "CPU, 2 threads", "precision": "fp32", "quantise": None},
    "libraries": {"torch": "2.13"},
}


def test_equal_ones_differ_in_nothing() -> None:
    assert differences(RECORD, RECORD) == []


@pytest.mark.parametrize(
    ("table", "name", "value", "says"),
    [
        ("base", "sha256", "ef", "another base"),
        ("base", "prediction_type", "v_prediction", "prediction_type epsilon, now v_prediction"),
        ("base", "vae", None, "VAE cdcdcdcdcdcd, now none"),
        ("machine", "device", "NVIDIA", "device CPU, 2 threads, now NVIDIA"),
        ("machine", "quantise", "int8", "quantise none, now int8"),
        ("libraries", "torch", "2.14", "torch 2.13, now 2.14"),
    ],
)
def test_each_difference_is_named(table: str, name: str, value: Any, says: str) -> None:
    (note,) = differences(RECORD, {**RECORD, table: {**RECORD[table], name: value}})
    assert says in note


@pytest.mark.parametrize(
    "old", [{}, {"machine": 3, "base": "x"}, {"base": {"ref": "pocket"}, "libraries": None}]
)
def test_what_old_or_odd_settings_dont_say_is_not_compared(old: dict[str, Any]) -> None:
    without = {**RECORD, "base": {"sha256": "ab", "prediction_type": "epsilon"}}
    assert differences(old, without) == []
