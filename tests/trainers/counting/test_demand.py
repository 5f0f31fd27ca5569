"""What is foretold of a training step against what it takes, followed on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.base import Base, load_base
from pipelines.placement import Placement
from tests.tiny import weights_of
from tests.trainers.counting.following import PLAIN, levels_of, measured
from trainers.config import TrainConfig
from trainers.counting.demand import Demand, Needs, Trial, bytes_beside, demand_of, trial
from trainers.learning import encoders_learning
from trainers.recomputing import modules_of, recomputed
from trainers.settings import AdapterConfig, OptimizerConfig
from trainers.tuning import injected

WAYS: dict[str, dict[str, Any]] = {
    "recomputed": {"family": "sd15", "mode": "all", "text_targets": "attention"},
    "half": {"family": "sd2", "dtype": "bf16", "unet_targets": "attention+ff"},
    "autocast": {"family": "sd15", "half": torch.bfloat16, "method": "dora", "dropout": 0.2},
    "sdxl": {"family": "sdxl", "mode": "selective", "text_targets": "attention", "tokens": 32},
    "words": {"family": "sd15", "method": "pivotal", "samples": 1, "shape": (24, 16)},
    "quantised": {"family": "sd15", "quantise": "int8-w8a8"},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_peak_is_foretold_within_a_tenth(way: str, tiny_folders: dict[str, Path]) -> None:
    said = dict(WAYS[way])
    family, mode, half = said.pop("family"), said.pop("mode", "none"), said.pop("half", None)
    placement = Placement(quantise=said.pop("quantise", None))
    base = load_base(tiny_folders[family], device="cpu", dtype=said.pop("dtype", "fp32"), placement=placement)
    demand = Demand(
        samples=said.pop("samples", 3), shape=said.pop("shape", (16, 16)), tokens=said.pop("tokens", 16),
        half=half,
    )  # fmt: skip
    adapter = AdapterConfig(**{"unet_targets": "attention", "text_targets": "none", "rank": 4, **said})
    before = weights_of(base)
    with injected(base, adapter, word="zuv") as injection:
        demand = replace(demand, trained=encoders_learning(injection))
        if adapter.dropout:
            demand = replace(demand, dropping=tuple(one.layer for one in injection.tuned.values()))
        with recomputed(modules_of(base, mode, demand.trained)):
            with trial(base, demand, levels_of(base), PLAIN) as tried:
                needs = tried.step()
                again = tried.step()
            taken = measured(base, demand, injection)
    assert needs.peak == pytest.approx(taken, rel=0.1)
    assert again.work == needs.work and again.peak == pytest.approx(needs.peak, rel=0.03)
    after = weights_of(base)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_stand_ins_change_no_count(tiny_sd2: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated blocks counted once and multiplied, against every block run."""
    demand = Demand(samples=2, shape=(16, 16), tokens=16)
    adapter = AdapterConfig(unet_targets="attention+ff", text_targets="none", rank=4)

    def needed(tried: Trial) -> Needs:
        return tried.step()

    with injected(tiny_sd2, adapter), recomputed(modules_of(tiny_sd2, "selective")):
        with trial(tiny_sd2, demand, levels_of(tiny_sd2), PLAIN) as tried:
            short = needed(tried)
            assert len({id(one) for one in tried.found().values()}) < len(tried.repeats.blocks)
        monkeypatch.setattr("trainers.counting.demand.repeating", lambda networks: [])
        with trial(tiny_sd2, demand, levels_of(tiny_sd2), PLAIN) as tried:
            whole = needed(tried)
    assert short.work.flops == whole.work.flops
    assert short.work.kernels == pytest.approx(whole.work.kernels, rel=0.01)
    assert short.peak == pytest.approx(whole.peak, rel=0.03)
    assert short.kept == pytest.approx(whole.kept, rel=0.03)


def test_nothing_is_left_behind_where_a_step_fails(tiny_base: Base) -> None:
    before = dict(tiny_base.unet.named_parameters())
    forwards = {name for name, one in tiny_base.unet.named_modules() if "forward" in vars(one)}
    wrong = Demand(samples=1, shape=(16, 16), tokens=16)
    with pytest.raises(ZeroDivisionError), trial(tiny_base, wrong, levels_of(tiny_base), PLAIN) as tried:
        tried.repeats.ledger.add = lambda work: 1 / 0  # type: ignore[assignment, method-assign]
        tried.step()
    assert all(before[name] is one for name, one in tiny_base.unet.named_parameters())
    assert forwards == {name for name, one in tiny_base.unet.named_modules() if "forward" in vars(one)}
    assert torch.is_autocast_enabled("cpu") is False


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, 12), ({"ema_decay": 0.9}, 16), ({"optimizer": "lion"}, 8), ({"optimizer": "adafactor"}, 4)],
)
def test_an_optimizer_s_bytes_are_found_by_a_step(fields: dict[str, Any], expected: float) -> None:
    assert bytes_beside(OptimizerConfig(**fields)) == pytest.approx(expected, abs=0.2)


def test_a_run_asks_for_its_largest_batch(
    tiny_base: Base, make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cache:
        def __init__(self, *shapes: tuple[int, int]) -> None:
            self.shapes = shapes

    class Stream:
        def __init__(self, size: int, *shapes: tuple[int, int]) -> None:
            self.size, self.cache = size, Cache(*shapes)

    config = make_config(batch_size=2, mixed_precision="bf16", text_targets="none")
    streams: Any = [Stream(2, (8, 8), (6, 12), (8, 8)), Stream(3, (8, 8)), Stream(4, (6, 12))]
    with injected(tiny_base, config.adapter) as injection:
        asked = demand_of(tiny_base, config, injection, streams, ["a", "disc " * 20], processes=2)
        learned = sum(one.numel() for one in injection.parameters.values())
    assert (asked.shape, asked.samples) == ((6, 12), 3)  # six of 72 positions, against five of 64
    assert asked.tokens > 16 and asked.tokens % 16 == 0 and asked.masked
    assert (asked.half, asked.trained, asked.numbers) == (torch.bfloat16, frozenset(), learned)
    assert asked.held == pytest.approx(12 * learned, rel=0.01)
