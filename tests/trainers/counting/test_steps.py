"""The gate: what a training step costs in the published shapes, against diffusers' script."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.placement import GIB
from trainers.counting.steps import diffusers_step, meta_base, pigment_step, ratios

# FLOPs at most, of diffusers' script; of memory with the optimizer, GiB: SPEED's goals.
GATES = {"sd15": (0.61, 0.8, 2.75), "sdxl": (0.75, 0.8, 12.0)}


@pytest.fixture(scope="module")
def steps() -> dict[str, dict[str, Any]]:
    """Pigment's step of each family."""
    return {family: pigment_step(meta_base(family), 1) for family in GATES}


@pytest.mark.parametrize("family", GATES)
def test_a_step_stays_within_the_gates(family: str, steps: dict[str, dict[str, Any]]) -> None:
    ours, theirs = steps[family], diffusers_step(family, 1)
    flops, peak, most = GATES[family]
    found = ratios(ours, theirs)
    assert found["flops"] <= flops
    assert found["peak_gib"] <= peak and ours["peak_gib"] <= most
    assert found["kernels"] < 1 and found["update_kernels"] < 1
    # What is counted is what the shapes say: an UNet's forward pass, and twice that at most with gradients.
    forward = {"sd15": 0.803e12, "sdxl": 6.76e12}[family]
    assert 2.05 * forward < ours["flops"] < 2.2 * forward
    assert theirs["flops"] - ours["flops"] > {"sd15": 1.1e12, "sdxl": 4.8e12}[family]


def test_sdxl_fits_a_small_card_where_it_recomputes(steps: dict[str, dict[str, Any]]) -> None:
    """Within 8 GB (7.2 GiB usable), with room for what can't be counted."""
    ours, again = steps["sdxl"], pigment_step(meta_base("sdxl"), 1, mode="all")
    assert 1.3 < again["flops"] / ours["flops"] < 1.4
    assert again["kept_bytes"] < 0.2 * ours["kept_bytes"]
    assert again["peak_gib"] <= 6.2 < 7.2 - 0.35
    assert again["weight_bytes"] / GIB < again["peak_gib"]
