"""SVD tools: errors are true, known answers come back, what can't be held is said."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.adapter import Adapter, Factors, LowRank
from pipelines.anatomy import anatomy, effective_rank, stable_rank, top_energy
from pipelines.base import Base, load_base
from pipelines.errors import AdapterError, ConfigError
from pipelines.families import block_of
from pipelines.lora_report import LoraReport
from pipelines.lowrank import RankRule
from pipelines.mixer import Mixer
from pipelines.tools import as_lora, extract, resize
from tests.pipelines.making import WITH_DELTA, modules_for, random_adapter_of
from tests.tiny import assert_unchanged, random_adapter, target_modules, weights_of


@pytest.fixture(scope="module")
def tiny_base(tiny_folder: Path) -> Base:
    """The random pipeline, loaded once: nothing here may leave it changed."""
    return load_base(tiny_folder, device="cpu")


@pytest.fixture(autouse=True)
def _base_unchanged(tiny_base: Base, _weights: dict[str, torch.Tensor]) -> Iterator[None]:
    yield
    assert_unchanged(tiny_base, _weights)


@pytest.fixture(scope="module")
def _weights(tiny_base: Base) -> dict[str, torch.Tensor]:
    return weights_of(tiny_base)


def _of(base: Base, method: str, **kw: Any) -> Adapter:
    return random_adapter_of(base, method, modules_for(base, method)[::11], **kw)


def _delta(adapter: Adapter, module: str, base: Base) -> torch.Tensor:
    layers: Any = base.weighted()
    return adapter.factors[module].delta(layers[module].weight).double()


def _assert_error_is_true(report: LoraReport, made: Adapter, source: Adapter, base: Base) -> None:
    distances, sizes = [], []
    for module, factor in made.factors.items():
        expected = _delta(source, module, base)
        distances.append(float((factor.delta() - expected).norm()))
        sizes.append(float(expected.norm()))
        assert report.modules[module].error == pytest.approx(distances[-1] / sizes[-1], abs=2e-6)
        assert report.modules[module].rank == factor.rank
    assert report.error == pytest.approx(math.hypot(*distances) / math.hypot(*sizes), abs=2e-6)
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["error"] == report.error


@pytest.mark.parametrize("method", WITH_DELTA)
@pytest.mark.parametrize("variant", [0, 1])
def test_every_method_becomes_plain_lora(tiny_base: Base, method: str, variant: int) -> None:
    source = _of(tiny_base, method, variant=variant)
    if source.factors.keys().isdisjoint(tiny_base.modules()):
        with pytest.raises(AdapterError, match="norms only"):
            as_lora(source, 4, tiny_base, allow_left_out=True)
        return
    exact, report = as_lora(source, None, tiny_base, allow_left_out=True)
    assert exact.methods == ("lora",)
    assert exact.factors.keys() == source.factors.keys()
    assert report.error < 2e-6
    _assert_error_is_true(report, exact, source, tiny_base)
    exact.check(tiny_base)
    cut, report = as_lora(source, 2, tiny_base, allow_left_out=True)
    assert cut.rank <= 2
    _assert_error_is_true(report, cut, source, tiny_base)
    assert cut.triggers == source.triggers
    assert cut.metadata["steps"] == "300"
    assert json.loads(cut.metadata["as_lora"])["methods"] == [method]


@pytest.mark.parametrize("folder", ["sd2", "sdxl"])
def test_other_families_have_the_same_tools(tiny_folders: dict[str, Path], folder: str) -> None:
    base, own = (load_base(tiny_folders[folder], device="cpu") for _ in range(2))
    encoders = [encoder.component for encoder in base.family.text_encoders]
    modules = [m for m in base.modules() if m.endswith(("attn2.to_k", "q_proj", "conv1"))]
    source = random_adapter(base, modules, rank=2, alpha=2.0)
    known = Adapter(name="known", factors=source.factors, family=folder)
    with torch.no_grad():
        for module, factor in known.factors.items():
            own.modules()[module].weight.add_(factor.delta())
    made, _ = extract(own, base, 2)
    assert made.family == folder
    assert made.factors.keys() == known.factors.keys()
    assert made.components == tuple(sorted(["unet", *encoders]))
    for module, factor in made.factors.items():
        assert torch.allclose(factor.delta(), known.factors[module].delta(), atol=1e-5), module
    made.check(base)
    assert resize(made, 1, base)[0].rank == 1
    assert list(anatomy(made, base).blocks)[-len(encoders) :] == encoders


def test_biases_are_refused_or_named(tiny_base: Base) -> None:
    source = _of(tiny_base, "full", variant=1)
    with pytest.raises(AdapterError, match=r"can't hold \d+ of the changes, for instance the bias of"):
        as_lora(source, 4, tiny_base)
    _, report = as_lora(source, 4, tiny_base, allow_left_out=True)
    assert report.left_out == dict.fromkeys(source.factors, "bias")
    assert "left out" in report.as_text()
    with pytest.raises(AdapterError, match="can't hold"):  # without a base too: the parts tell
        as_lora(source, 4)


def test_tokens_come_along(tiny_base: Base) -> None:
    plain = random_adapter(tiny_base, target_modules(tiny_base)[:2])
    tokens = {"<fox>": {"text_encoder": torch.ones(2, 32)}}
    made, _ = resize(Adapter(name="a", factors=plain.factors, tokens=tokens), 1)
    assert made.tokens == tokens
    with pytest.raises(AdapterError, match="no modules"):
        as_lora(Adapter(name="a", tokens=tokens))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_resizing_by_energy_keeps_that_energy(tiny_base: Base, share: float) -> None:
    source = random_adapter(tiny_base, target_modules(tiny_base, "all")[::6], rank=8)
    made, report = resize(source, RankRule(energy=share))
    assert report.error**2 <= 1 - share
    for module, factor in made.factors.items():
        values = torch.linalg.svdvals(source.factors[module].delta().flatten(1).double())
        kept = (values[: factor.rank] ** 2).sum() / (values**2).sum()
        fewer = (values[: factor.rank - 1] ** 2).sum() / (values**2).sum()
        assert kept >= share - 1e-6
        assert fewer < share or factor.rank == 1
        assert report.modules[module].error ** 2 == pytest.approx(1 - float(kept), abs=1e-6)


def test_resizing_by_rank_and_by_error(tiny_base: Base) -> None:
    source = random_adapter(tiny_base, target_modules(tiny_base, "all")[::6], rank=8)
    made, report = resize(source, 3)
    assert {factor.rank for factor in made.factors.values()} == {3}
    assert report.notes["rank_before"] == 8
    _assert_error_is_true(report, made, source, tiny_base)
    by_error, report = resize(source, RankRule(error=0.3))
    assert all(fit.error <= 0.3 for fit in report.modules.values())
    assert by_error.rank < 8
    same, report = resize(source, 64)
    assert same.rank == 8
    assert report.error < 1e-6


def test_an_adapter_resized_up_is_as_small_as_it_was_meant(tiny_base: Base) -> None:
    """Padding a rank-2 adapter to rank 6 by zeros doesn't change what is found in it."""
    source = random_adapter(tiny_base, target_modules(tiny_base)[:3], rank=2, alpha=2.0)
    padded = {
        module: LowRank(
            torch.cat([factor.parts["down"], torch.zeros_like(factor.parts["down"])]),
            torch.cat([factor.parts["up"], torch.ones_like(factor.parts["up"])], dim=1),
            4.0,
        )
        for module, factor in source.factors.items()
    }
    made, _ = resize(Adapter(name="padded", factors=padded), RankRule(error=1e-6))
    assert made.rank == 2
    for module in padded:
        assert torch.allclose(made.factors[module].delta(), source.factors[module].delta(), atol=1e-6)


def test_no_product_is_formed_for_methods_with_factors(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("ΔW was formed")

    source = random_adapter(tiny_base, target_modules(tiny_base, "attention+ff", "none")[:6], rank=2)
    monkeypatch.setattr(LowRank, "delta", refuse)
    monkeypatch.setattr("pipelines.deltas.Delta.dense", refuse)
    made, _ = resize(source, 1)
    assert made.rank == 1
    assert anatomy(source).total.effective_rank > 1


# Extraction


@pytest.fixture
def tuned(tiny_base: Base) -> Base:
    return load_base(tiny_base.path, device="cpu")


def test_extraction_recovers_a_known_difference(tiny_base: Base, tuned: Base) -> None:
    known = random_adapter(tiny_base, target_modules(tiny_base, "all")[::5], rank=3, alpha=3.0)
    with torch.no_grad():
        for module, factor in known.factors.items():
            tuned.modules()[module].weight.add_(factor.delta())
    made, report = extract(tuned, tiny_base, 3, name="found")
    assert made.factors.keys() == known.factors.keys()
    for module, factor in made.factors.items():
        expected = known.factors[module].delta()
        assert float((factor.delta() - expected).norm() / expected.norm()) < 1e-5, module
        assert factor.rank <= 3
    assert report.error < 1e-5
    assert report.left_out == {}
    assert report.notes["left_out_energy"] == 0
    assert (made.name, made.family) == ("found", "sd15")
    assert made.metadata["base_sha256"] == tiny_base.sha256
    made.check(tiny_base)
    with Mixer(tiny_base) as mixer:
        mixer.add("found", made)
        mixer.set({"found": 1.0})
        for module, layer in tiny_base.modules().items():
            assert torch.allclose(layer.weight, tuned.modules()[module].weight, atol=1e-5), module


def test_extraction_names_what_it_leaves_out(tiny_base: Base, tuned: Base) -> None:
    changed = [
        "unet.conv_norm_out.weight",
        "unet.conv_norm_out.bias",
        "text_encoder.embeddings.token_embedding.weight",
        "unet.conv_in.weight",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    ]
    with torch.no_grad():
        for path in changed:
            component, _, rest = path.partition(".")
            tuned.component(component).get_parameter(rest).add_(0.1)
    made, report = extract(tuned, tiny_base, 1, unet_targets="attention", text_targets="none")
    assert list(made.factors) == [changed[4].removesuffix(".weight")]
    assert report.left_out == {
        "unet.conv_in": "not a target",
        "unet.conv_norm_out": "weight of a GroupNorm",
        "unet.conv_norm_out.bias": "bias",
        "text_encoder.embeddings.token_embedding": "weight of a Embedding",
    }
    parameters = [tuned.component(p.split(".")[0]).get_parameter(p.partition(".")[2]) for p in changed]
    sizes = [parameter.numel() for parameter in parameters]
    assert report.notes["left_out_energy"] == pytest.approx(sum(sizes[:4]) / sum(sizes), rel=1e-3)
    assert report.error < 1e-5  # of what was taken: a constant has rank 1
    everything, report = extract(tuned, tiny_base, 1)
    assert len(everything.factors) == 2
    assert "not a target" not in report.left_out.values()


def test_extraction_refuses_what_makes_no_sense(tiny_base: Base, tuned: Base, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"nothing to extract: .* they are equal"):
        extract(tuned, tiny_base, 4)
    with torch.no_grad():
        tuned.unet.conv_norm_out.bias.add_(1.0)
    with pytest.raises(AdapterError, match="they differ in 1 other places"):
        extract(tuned, tiny_base, 4)
    with pytest.raises(ConfigError, match="unknown unet_targets 'atention'; did you mean 'attention'"):
        extract(tuned, tiny_base, 4, unet_targets="atention")
    with pytest.raises(ConfigError, match="unknown text_targets"):
        extract(tuned, tiny_base, 4, text_targets="all")
    with Mixer(tuned) as mixer:
        mixer.add("a", random_adapter(tuned))
        with pytest.raises(AdapterError, match="are mixed into base"):
            extract(tuned, tiny_base, 4)
    from tests.tiny import save_tiny_pipeline

    wider = load_base(save_tiny_pipeline(tmp_path / "wider", unet={"block_out_channels": (16, 48)}))
    with pytest.raises(AdapterError, match="aren't built alike: unet"):
        extract(wider, tiny_base, 4)
    deeper = load_base(save_tiny_pipeline(tmp_path / "deeper", unet={"layers_per_block": 2}))
    with pytest.raises(AdapterError, match="aren't built alike: only one has unet"):
        extract(deeper, tiny_base, 4)
    other = load_base(save_tiny_pipeline(tmp_path / "sd2", family="sd2"))
    with pytest.raises(AdapterError, match=r"is sd2 and .* is sd15"):
        extract(other, tiny_base, 4)


# Anatomy


def test_ranks_of_known_spectra() -> None:
    for count in (1, 3, 8):
        equal = torch.full((count,), 2.0)
        assert effective_rank(equal) == pytest.approx(count)
        assert stable_rank(equal) == pytest.approx(count)
    assert effective_rank(torch.tensor([3.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_rank(torch.tensor([2.0, 1.0])) == pytest.approx(
        math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
    )
    assert stable_rank(torch.tensor([2.0, 1.0])) == pytest.approx(1.25)
    assert effective_rank(torch.zeros(4)) == stable_rank(torch.zeros(4)) == 0
    assert top_energy(torch.tensor([2.0, 1.0, 1.0])) == {1: pytest.approx(2 / 3), 4: 1.0, 16: 1.0}


def test_anatomy_measures_norms_shares_and_dead_modules(tiny_base: Base) -> None:
    modules = target_modules(tiny_base, "all")[::7]
    source = random_adapter(tiny_base, modules, rank=4)
    dead, faint, strong = modules[0], modules[1], modules[2]
    factors: dict[str, Any] = dict(source.factors)
    for module, scale in ((dead, 0.0), (faint, 1e-8)):
        factors[module] = LowRank(factors[module].down, factors[module].up * scale, 8.0)
    found = anatomy(Adapter(name="tiny", factors=factors), tiny_base)
    assert found.dead == tuple(m for m in found.modules if m in (dead, faint))
    assert found.total.dead == 2
    layer = tiny_base.modules()[strong].weight
    own = found.modules[strong]
    assert own.norm == pytest.approx(float(factors[strong].delta().norm()), rel=1e-5)
    assert own.relative == pytest.approx(own.norm / float(layer.norm()), rel=1e-5)
    values = torch.linalg.svdvals(factors[strong].delta().flatten(1).double())
    assert own.effective_rank == pytest.approx(effective_rank(values), rel=1e-4)
    assert own.rank == 4
    assert own.top_energy[4] == pytest.approx(1.0)
    assert own.block == block_of(strong)
    assert sum(block.share for block in found.blocks.values()) == pytest.approx(1.0)
    for name, block in found.blocks.items():
        inside = [m.norm for m in found.modules.values() if m.block == name]
        assert block.modules == len(inside)
        assert block.norm == pytest.approx(math.hypot(*inside))
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["total"]["dead"] == 2
    lines = found.as_text().splitlines()
    assert len(lines) == len(found.blocks) + 4
    assert "‖W₀‖" in lines[1]
    without = anatomy(source)
    assert without.total.relative is None
    assert "‖W₀‖" not in without.as_text()
    assert list(found.blocks)[-1] == "text_encoder"


@pytest.mark.parametrize("method", WITH_DELTA)
def test_every_method_has_an_anatomy(tiny_base: Base, method: str) -> None:
    source = _of(tiny_base, method)
    found = anatomy(source, tiny_base)
    assert found.modules.keys() == source.factors.keys()
    assert not found.dead
    assert all(math.isfinite(module.effective_rank) and module.norm > 0 for module in found.modules.values())
    module = next(iter(source.factors))
    assert found.modules[module].norm == pytest.approx(
        float(_delta(source, module, tiny_base).norm()), rel=1e-5
    )


def test_a_tool_that_needs_the_base_says_so(tiny_base: Base) -> None:
    source = _of(tiny_base, "dora")
    for tool in (lambda: as_lora(source, 4), lambda: resize(source, 4), lambda: anatomy(source)):
        with pytest.raises(AdapterError, match="give a base"):
            tool()


def test_damaged_adapters_are_refused(tiny_base: Base) -> None:
    module = target_modules(tiny_base)[0]
    good = random_adapter(tiny_base, [module]).factors[module]
    bad = LowRank(good.parts["down"] * math.nan, good.parts["up"], 1.0)
    for tool in (as_lora, anatomy):
        with pytest.raises(AdapterError, match="aren't finite"):
            tool(Adapter(name="bad", factors={module: bad}))
    # Sound parts may still overflow together.
    parts = {name: torch.full((16, 4), 1e30) for name in ("hada_w1_a", "hada_w2_a")}
    parts |= {name: torch.full((4, 16), 1e30) for name in ("hada_w1_b", "hada_w2_b")}
    huge = Factors(method="loha", parts=parts, alpha=4.0)
    with pytest.raises(AdapterError, match="isn't finite"):
        as_lora(Adapter(name="huge", factors={module: huge}))
