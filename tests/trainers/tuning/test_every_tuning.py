"""Every row of TUNINGS: identity at first, alone in training, collected exactly, gone without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.base import Base
from pipelines.formats import read_adapter, write_adapter
from pipelines.methods import METHODS, TUNED_AS, TUNINGS
from pipelines.mixer import Mixer
from tests.tiny import weights_of
from tests.trainers.tuning.trying import WORD, config_of, predict, seen, take_step
from trainers.averages import Averages
from trainers.settings import TRAINABLE, OptimizerConfig
from trainers.tuning import injected

ROWS = tuple(TUNINGS)


@pytest.mark.parametrize("method", ROWS)
def test_a_tuning_trains_and_is_collected_and_gone(tiny_base: Base, method: str, tmp_path: Path) -> None:
    row, plain = TUNINGS[method], ["a fox", "foxes"]
    names, weights, before = list(tiny_base.weighted()), weights_of(tiny_base), seen(tiny_base)
    before_plain = seen(tiny_base, plain)
    with injected(tiny_base, config_of(method), 1, word=WORD) as injection:
        # A word means something from the start, for prompts that have it; HRA's mirrors cancel in fp32.
        torch.testing.assert_close(seen(tiny_base, plain), before_plain, atol=2e-6, rtol=0)
        optimizer = torch.optim.Adam(injection.parameters.values(), lr=3e-2)
        reached = set()
        for step in (1, 2, 3):
            loss = predict(tiny_base).square().mean() + (injection.penalty() or 0.0)
            loss.backward()
            found = {n for n, p in injection.parameters.items() if p.grad is not None and p.grad.any()}
            reached |= found
            optimizer.zero_grad()
            take_step(injection, optimizer, step, 3)
        assert reached == set(injection.parameters)
        assert all(p.dtype == torch.float32 for p in injection.parameters.values())
        ours = {id(p) for p in injection.parameters.values()}
        parts = [tiny_base.component(part) for part in tiny_base.family.components]
        assert all(id(p) in ours for part in parts for p in part.parameters() if p.requires_grad)
        trained = seen(tiny_base)
        assert (trained - before).abs().max() > 1e-3
        with injection.disabled():
            assert torch.equal(seen(tiny_base), before)
        assert torch.equal(seen(tiny_base), trained)
        assert all(p.requires_grad for p in injection.parameters.values())
        adapter = injection.collect("zuv", ("zuv",), {"steps": "3"})
        assert row.label in injection.describe()
    assert list(tiny_base.weighted()) == names
    assert all(torch.equal(value, weights[name]) for name, value in weights_of(tiny_base).items())
    assert torch.equal(seen(tiny_base), before)

    write_adapter(adapter, tmp_path / "a.safetensors", format="pigment", dtype="fp32")
    again = read_adapter(tmp_path / "a.safetensors")
    assert again.method == adapter.method == TUNED_AS[method].id and adapter.triggers == ("zuv",)
    again.check(tiny_base)
    with Mixer(tiny_base) as mixer:
        mixer.add("a", again)
        mixer.set({"a": 1.0})
        torch.testing.assert_close(seen(tiny_base), trained, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "fields"),
    [("delta_lora", {}), ("adalora", {}), ("lora", {"initialisation": "olora", "unet_targets": "attention"})],
)
def test_an_average_is_kept_as_it_is_shown(tiny_base: Base, method: str, fields: dict[str, str]) -> None:
    """Delta-LoRA's moved weight, AdaLoRA's ranks and a rewritten base follow the averaged factors."""
    with injected(tiny_base, config_of(method, **fields), 1, word=WORD) as injection:
        optimizer = torch.optim.Adam(injection.parameters.values(), lr=1e-2)
        averages = Averages(injection.parameters, optimizer, OptimizerConfig(ema_decay=0.8))
        for step in range(1, 5):
            take_step(injection, optimizer, step, 4)
            averages.after_step(injection.pruned())
        last = seen(tiny_base)
        with averages.applied():
            averaged, adapter = seen(tiny_base), injection.collect("a")
        assert torch.equal(seen(tiny_base), last) and (averaged - last).abs().max() > 1e-3
    with Mixer(tiny_base) as mixer:
        mixer.add("a", adapter)
        mixer.set({"a": 1.0})
        torch.testing.assert_close(seen(tiny_base), averaged, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["dora", "ia3", "adalora", "ln_tuning"])
def test_convolutions_and_sdxl_are_tuned_alike(tiny_sdxl: Base, method: str) -> None:
    before = seen(tiny_sdxl)
    with injected(tiny_sdxl, config_of(method, unet_targets="all")) as injection:
        optimizer = torch.optim.Adam(injection.parameters.values(), lr=1e-2)
        take_step(injection, optimizer, 1, 2)
        take_step(injection, optimizer, 2, 2)
        trained = seen(tiny_sdxl)
        adapter = injection.collect("zuv")
    assert set(adapter.components) == {"unet", "text_encoder", "text_encoder_2"}
    with Mixer(tiny_sdxl) as mixer:
        mixer.add("a", adapter)
        mixer.set({"a": 1.0})
        torch.testing.assert_close(seen(tiny_sdxl), trained, atol=5e-5, rtol=1e-4)
    assert torch.equal(seen(tiny_sdxl), before) and not torch.equal(trained, before)


@pytest.mark.parametrize(
    "method", ["lora", "loha", "boft", "adalora", "vera", "delora", "qalora", "delta_lora", "full", "pivotal"]
)
def test_a_state_goes_back_to_where_it_was_and_on_alike(tiny_base: Base, method: str) -> None:
    fields = {"dropout": 0.3} if "dropout" in TUNINGS[method].uses else {}
    config = config_of(method, **fields)

    def go_on(
        steps: range, state: dict[str, torch.Tensor] | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        with injected(tiny_base, config, 1, word=WORD) as injection:
            if state is not None:
                for parameter in injection.parameters.values():
                    parameter.data.zero_()
                injection.load(state)
            optimizer = torch.optim.SGD(injection.parameters.values(), lr=1e-2)
            for step in steps:
                take_step(injection, optimizer, step, 3)
            return injection.state(), seen(tiny_base)

    whole, predicted = go_on(range(1, 4), None)
    state, _ = go_on(range(1, 3), None)
    resumed, again = go_on(range(3, 4), state)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert torch.equal(again, predicted)


def test_settings_offer_every_row_and_every_row_has_its_keeper() -> None:
    assert TRAINABLE == ROWS
    assert {id(row) for method in METHODS.values() for row in method.tunings} == {
        id(row) for row in TUNINGS.values()
    }
    for row in TUNINGS.values():
        assert row.peft_config is not None or row.layer is not None or row.tokens
        assert row.label and row.summary and row.paper.startswith("https://")
        assert len(row.summary) < 100


def test_rslora_counts_alpha_over_the_root_of_the_rank(tiny_base: Base) -> None:
    with injected(tiny_base, config_of("rslora", rank=4, alpha=6.0)) as injection:
        adapter = injection.collect("a")
    factor = next(iter(adapter.factors.values()))
    assert factor.alpha == pytest.approx(6.0 * 4**0.5) and factor.rank == 4
