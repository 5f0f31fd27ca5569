"""Interference: cosines and overlaps of known pairs, energy shares, balanced weights, the picture."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipelines import heatmap
from pipelines.adapter import Adapter, LowRank
from pipelines.base import Base, load_base
from pipelines.deltas import in_model_order
from pipelines.effects import effects
from pipelines.errors import AdapterError, BaseError, ConfigError, PictureError
from pipelines.families import block_of
from pipelines.interference import (
    Interference,
    balanced_weights,
    inner_product,
    interference,
    overlap,
)
from pipelines.lowrank import product_svd, svd
from pipelines.mixer import Mixer
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


def _adapter(base: Base, seed: int = 0, step: int = 3, **kw: Any) -> Adapter:
    return random_adapter(base, target_modules(base, "all")[::step], seed=seed, **kw)


def _scaled(adapter: Adapter, scale: float) -> Adapter:
    factors = {
        module: LowRank(factor.parts["down"], factor.parts["up"] * scale, factor.alpha)
        for module, factor in adapter.factors.items()
    }
    return Adapter(name=adapter.name, factors=factors, triggers=adapter.triggers)


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _pair(report: Interference, block: str = "all") -> Any:
    return next(iter(dict(report.rows)[block].pairs.values()))


@pytest.mark.parametrize(("scale", "cosine"), [(1.0, 1.0), (3.0, 1.0), (-1.0, -1.0), (-0.2, -1.0)])
def test_an_adapter_against_its_own_multiple(tiny_base: Base, scale: float, cosine: float) -> None:
    first = _adapter(tiny_base)
    report = interference({"a": first, "b": _scaled(first, scale)})
    for block, _ in report.rows:
        found = _pair(report, block)
        assert found.cosine == pytest.approx(cosine, abs=1e-6)
        assert found.columns == pytest.approx(1.0, abs=1e-6)
        assert found.rows == pytest.approx(1.0, abs=1e-6)
    assert report.total.share["a"] == pytest.approx(1 / (1 + scale**2), abs=1e-6)


def test_cosines_are_those_of_the_whole_deltas(tiny_base: Base) -> None:
    adapters = {"a": _adapter(tiny_base), "b": _adapter(tiny_base, seed=1, step=2, rank=2)}
    weights: dict[str, float | tuple[float, float]] = {"a": 0.5, "b": (-2.0, 1.0)}
    report = interference(adapters, weights)
    scale = {"a": (0.5, 0.5), "b": (-2.0, 1.0)}
    for block, found in report.blocks.items():
        vectors: dict[str, torch.Tensor] = {}
        modules = [m for m in tiny_base.modules() if block_of(m) == block]
        for name, adapter in adapters.items():
            parts = [
                scale[name][0 if m.startswith("unet.") else 1] * adapter.factors[m].delta().flatten()
                if m in adapter.factors
                else torch.zeros(tiny_base.modules()[m].weight.numel())
                for m in modules
            ]
            vectors[name] = torch.cat(parts).double()
        expected = torch.cosine_similarity(vectors["a"], vectors["b"], dim=0)
        if all(vector.any() for vector in vectors.values()):
            assert _pair(report, block).cosine == pytest.approx(float(expected), abs=1e-6), block
        else:
            assert _pair(report, block).cosine is None
        for name, vector in vectors.items():
            assert found.energy[name] == pytest.approx(float(vector @ vector), rel=1e-5)
            whole = sum(float(v @ v) for v in vectors.values())
            assert found.share[name] == pytest.approx(float(vector @ vector) / whole, rel=1e-5)
        shared = [m for m in modules if all(m in a.factors for a in adapters.values())]
        assert _pair(report, block).shared == len(shared)
    assert sum(report.total.share.values()) == pytest.approx(1.0)
    assert list(report.blocks) == in_model_order(report.blocks)


def test_adapters_on_other_modules_or_other_directions_dont_meet(tiny_base: Base) -> None:
    modules = target_modules(tiny_base, "attention", "none")
    apart = interference(
        {"a": random_adapter(tiny_base, modules[::2]), "b": random_adapter(tiny_base, modules[1::2])}
    )
    assert _pair(apart).cosine == 0
    assert _pair(apart).columns is None
    assert _pair(apart).shared == 0
    module = modules[0]
    width = tiny_base.modules()[module].weight.shape[0]
    eye = torch.eye(width)
    low, high = eye[:, :2], eye[:, 2:4]
    both = {
        name: Adapter(name=name, factors={module: LowRank(down.T, up, 2.0)})
        for name, up, down in (("a", low, low), ("b", high, low), ("c", high, high))
    }
    report = interference(both)
    assert [report.total.pairs[p].cosine for p in (("a", "b"), ("a", "c"))] == [0, 0]
    same_rows = report.total.pairs[("a", "b")]
    assert (same_rows.columns, same_rows.rows) == (0, 1)
    same_columns = report.total.pairs[("b", "c")]
    assert (same_columns.columns, same_columns.rows) == (1, 0)


def test_overlap_is_the_mean_squared_cosine_of_the_principal_angles() -> None:
    first = torch.linalg.qr(_draw(20, 4).double())[0]
    second = torch.linalg.qr(_draw(20, 4, seed=1).double())[0]
    right = torch.linalg.qr(_draw(15, 4, seed=2).double())[0]
    spectra = [product_svd(side, right.T) for side in (first, second)]
    cosines = torch.linalg.svdvals(first.T @ second)
    assert overlap(*spectra, rows=False) == pytest.approx(float((cosines**2).mean()), abs=1e-9)
    assert overlap(*spectra, rows=True) == pytest.approx(1.0)
    # Weighted by energy: a shared weak direction counts for little.
    weak = first * torch.tensor([1.0, 1.0, 1.0, 0.2], dtype=torch.float64)
    other = torch.cat([torch.linalg.qr(torch.cat([first, second], dim=1))[0][:, 4:7], first[:, 3:]], dim=1)
    other = other * torch.tensor([1.0, 1.0, 1.0, 0.2], dtype=torch.float64)
    little = overlap(product_svd(weak, right.T), product_svd(other, right.T), rows=False)
    assert little == pytest.approx(0.04 / 3.04, abs=1e-6)


def test_inner_products_dont_need_the_matrices() -> None:
    first, second = _draw(9, 3) @ _draw(3, 7, seed=1), _draw(9, 7, seed=2)
    assert inner_product(svd(first), svd(second)) == pytest.approx(float((first * second).sum()), abs=1e-4)


def test_who_dominates(tiny_base: Base) -> None:
    first, second = _adapter(tiny_base), _adapter(tiny_base, seed=1)
    loud = interference({"a": first, "b": second}, {"a": 1.0, "b": 3.0})
    assert loud.total.dominant == "b"
    assert all(found.dominant == "b" for found in loud.blocks.values())
    even = interference({"a": first, "b": first})
    assert even.total.dominant is None
    edge = {"a": first, "b": _scaled(first, math.sqrt(0.499))}
    assert interference(edge).total.dominant == "a"
    assert interference({**edge, "b": _scaled(first, math.sqrt(0.501))}).total.dominant is None


def test_an_adapter_at_zero_has_no_share(tiny_base: Base) -> None:
    adapters = {"a": _adapter(tiny_base), "b": _adapter(tiny_base, seed=1)}
    report = interference(adapters, {"a": 1.0})
    assert report.total.share == {"a": 1.0, "b": 0.0}
    assert _pair(report).cosine is None
    assert report.weights["b"] == (0.0, 0.0)
    silent = interference(adapters, {})
    assert silent.total.share == {"a": 0.0, "b": 0.0}
    assert silent.total.dominant is None
    json.dumps(silent.as_dict(), allow_nan=False)
    text_only = interference(adapters, {"a": (0.0, 1.0), "b": 1.0})
    assert text_only.blocks["text_encoder"].share["a"] > 0
    assert text_only.blocks["mid_block"].share["a"] == 0


@pytest.mark.parametrize("method", WITH_DELTA)
def test_every_method_can_be_compared_with_lora(tiny_base: Base, method: str) -> None:
    modules = modules_for(tiny_base, method)[::9]
    other = random_adapter_of(tiny_base, method, modules)
    matrices = [m for m in modules if m in tiny_base.modules()]
    plain = random_adapter(tiny_base, matrices or target_modules(tiny_base)[:2])
    report = interference({"other": other, "plain": plain}, base=tiny_base)
    layers: Any = tiny_base.weighted()
    inner = size = 0.0
    for module in modules:
        delta = other.factors[module].delta(layers[module].weight).double()
        size += float((delta**2).sum())
        if module in plain.factors:
            inner += float((delta * plain.factors[module].delta()).sum())
    expected = inner / math.sqrt(size * report.total.energy["plain"])
    assert _pair(report).cosine == pytest.approx(expected, abs=1e-5)
    assert report.total.energy["other"] == pytest.approx(size, rel=1e-5)


@pytest.mark.parametrize("folder", ["sd2", "sdxl"])
def test_other_families_are_compared_and_measured_alike(tiny_folders: dict[str, Path], folder: str) -> None:
    base = load_base(tiny_folders[folder], device="cpu")
    modules = [m for m in base.modules() if m.endswith(("attn2.to_k", "q_proj"))]
    encoders = [encoder.component for encoder in base.family.text_encoders]
    adapters = {
        name: Adapter(name=name, factors=random_adapter(base, modules, seed=seed).factors, family=folder)
        for seed, name in enumerate("ab")
    }
    report = interference(adapters, base=base)
    assert list(report.blocks)[-len(encoders) :] == encoders
    assert abs(_pair(report).cosine) < 0.5
    before = weights_of(base)
    found = effects(adapters, base)
    assert found["a"] > 0
    assert found["a"] != found["b"]
    assert_unchanged(base, before)


def test_the_report_as_data_and_text(tiny_base: Base) -> None:
    adapters = {name: _adapter(tiny_base, seed=seed, step=6) for seed, name in enumerate("abc")}
    report = interference(adapters)
    data = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert data["adapters"] == ["a", "b", "c"]
    assert len(data["total"]["pairs"]) == 3
    assert data["total"]["pairs"][0]["cosine"] == report.total.pairs[("a", "b")].cosine
    text = report.as_text()
    assert "a and b" in text
    assert "b and c" in text
    assert text.count("mid_block") == 4
    assert interference({"a": adapters["a"]}).total.pairs == {}


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"aa": 1.0}, "there is a weight for 'aa'; did you mean 'a'"),
        ({"a": math.nan}, "weight of 'a' is nan"),
        ({"a": (1.0,)}, "weight of 'a' is"),
    ],
)
def test_weights_out_of_place_are_refused(tiny_base: Base, weights: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        interference({"a": _adapter(tiny_base)}, weights)
    assert says in str(refusal.value)


def test_adapters_that_cant_be_compared_are_refused(tiny_base: Base) -> None:
    first = random_adapter(tiny_base, target_modules(tiny_base)[:1])
    with pytest.raises(ConfigError, match="at least one"):
        interference({})
    with pytest.raises(AdapterError, match="are for sd15 and sdxl"):
        interference({"a": first, "b": Adapter(name="b", factors=first.factors, family="sdxl")})
    module, good = next(iter(first.factors.items()))
    other = Adapter(name="b", factors={module: LowRank(good.parts["down"][:, :-1], good.parts["up"], 1.0)})
    with pytest.raises(AdapterError, match="made for one base"):
        interference({"a": first, "b": other})
    with pytest.raises(AdapterError, match="give a base"):
        interference({"a": random_adapter_of(tiny_base, "dora")})
    with Mixer(tiny_base) as mixer:
        mixer.add("a", first)
        with pytest.raises(AdapterError, match="are mixed into base"):
            interference({"a": first}, base=tiny_base)


# Balanced weights


def test_balanced_norms_are_equal_and_the_mean_weight_is_one(tiny_base: Base) -> None:
    first = _adapter(tiny_base)
    adapters = {
        "a": first,
        "b": _scaled(_adapter(tiny_base, seed=1), 2.5),
        "c": _adapter(tiny_base, seed=2, rank=2),
    }
    weights = balanced_weights(adapters)
    assert sum(weights.values()) / 3 == pytest.approx(1.0)
    report = interference(adapters, weights)
    assert all(share == pytest.approx(1 / 3, abs=1e-6) for share in report.total.share.values())
    assert balanced_weights({"a": first}) == {"a": 1.0}
    assert balanced_weights({}) == {}


def test_balanced_weights_are_clipped_and_the_silent_stand_aside(tiny_base: Base) -> None:
    first = _adapter(tiny_base)
    loud = {str(index): _scaled(first, 100.0) for index in range(4)}
    weights = balanced_weights({"quiet": first, **loud})
    assert weights["quiet"] == 3.0
    assert all(weights[name] == pytest.approx(weights["0"]) for name in loud)
    assert sum(weights.values()) / 5 < 1
    silent = balanced_weights({"a": first, "none": _scaled(first, 0.0)})
    assert silent == {"a": 1.0, "none": 1.0}


def test_balanced_effects_are_measured_on_the_base(tiny_base: Base) -> None:
    first = _adapter(tiny_base, strength=0.1)
    adapters = {"a": first, "b": _scaled(_adapter(tiny_base, seed=1, strength=0.1), 0.3)}
    found = effects(adapters, tiny_base)
    assert found == effects(adapters, tiny_base)  # fixed latents
    assert found["a"] > found["b"] > 0
    weights = balanced_weights(adapters, tiny_base, measure="effect")
    assert weights["a"] * found["a"] == pytest.approx(weights["b"] * found["b"])
    assert sum(weights.values()) / 2 == pytest.approx(1.0)
    # In first order the effect is in proportion to the weight.
    small, half = _scaled(first, 0.02), _scaled(first, 0.01)
    both = effects({"small": small, "half": half}, tiny_base)
    assert both["small"] / both["half"] == pytest.approx(2.0, rel=0.02)


def test_the_effect_of_text_encoders_counts(tiny_base: Base) -> None:
    text = random_adapter(tiny_base, target_modules(tiny_base, "none", "attention"), strength=1.0)
    assert effects({"text": text}, tiny_base)["text"] > 0


def test_balancing_refuses(tiny_base: Base) -> None:
    adapters = {"a": _adapter(tiny_base, step=9)}
    with pytest.raises(ConfigError, match="unknown measure 'norms'; did you mean 'norm'"):
        balanced_weights(adapters, measure="norms")
    with pytest.raises(ConfigError, match="measured on a base"):
        balanced_weights(adapters, measure="effect")
    with pytest.raises(AdapterError, match="is empty"):
        balanced_weights({"e": Adapter(name="e")}, tiny_base, measure="effect")
    with Mixer(tiny_base) as mixer:
        mixer.add("a", adapters["a"])
        with pytest.raises(AdapterError, match="are mixed into base"):
            balanced_weights(adapters, tiny_base, measure="effect")


# The picture


def _reds(picture: Image.Image) -> tuple[int, int]:
    """Pixels of full agreement and of full opposition."""
    counts = {colour: count for count, colour in picture.getcolors(1 << 24) or ()}
    return counts.get(heatmap._ALIKE, 0), counts.get(heatmap._AGAINST, 0)


def test_agreement_is_red_and_opposition_blue(tiny_base: Base) -> None:
    first = _adapter(tiny_base, step=9)
    alike = heatmap.interference_picture(interference({"a": first, "b": first}))
    against = heatmap.interference_picture(interference({"a": first, "b": _scaled(first, -1.0)}))
    rows = len(interference({"a": first}).rows)
    cell = 100 * (heatmap._CELL_HEIGHT - 2) * rows / 2  # at least half a hundred pixels' width per row
    assert _reds(alike)[0] > cell > _reds(alike)[1]
    assert _reds(against)[1] > cell > _reds(against)[0]


def test_bars_are_as_wide_as_the_shares(tiny_base: Base) -> None:
    adapters = {"a": _adapter(tiny_base, step=9), "b": _adapter(tiny_base, seed=1, step=9)}
    report = interference(adapters, {"a": 1.0, "b": 2.0})
    picture = heatmap.interference_picture(report)
    # Above the numbers, the last row's bar: count each adapter's colour along one line.
    bottom = max(y for y in range(picture.height - 80) if picture.getpixel((930, y)) == heatmap._ADAPTERS[1])
    line = [picture.getpixel((x, bottom)) for x in range(picture.width)]
    counts = [line.count(colour) for colour in heatmap._ADAPTERS[:2]]
    assert counts[0] / sum(counts) == pytest.approx(report.total.share["a"], abs=0.01)


def test_an_effect_that_is_no_number_is_said(tiny_base: Base) -> None:
    """Sound numbers in a file may be too large for what follows: its share isn't “nan%”."""
    adapters = {
        "sound": random_adapter(tiny_base),
        "huge": random_adapter(tiny_base, strength=1e37, name="Zib"),
    }
    with pytest.raises(AdapterError, match="'Zib' at weight 1 makes the base predict no numbers"):
        effects(adapters, tiny_base)
    weight = next(tiny_base.unet.parameters()).data.view(-1)
    before = weight[0].clone()
    weight[0] = float("nan")
    with pytest.raises(BaseError, match="it is damaged"):
        effects({"sound": adapters["sound"]}, tiny_base)
    weight[0] = before


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_every_number_of_adapters_has_its_layout(tiny_base: Base, count: int) -> None:
    names = [f"an adapter with a rather long name {index}" for index in range(count)]
    adapters = {name: _adapter(tiny_base, seed=seed, step=20, rank=1) for seed, name in enumerate(names)}
    report = interference(adapters)
    picture = heatmap.interference_picture(report, title="A title " * 40)
    assert picture.width <= 1000
    margin = {picture.getpixel((picture.width - 3, y)) for y in range(picture.height)}
    assert margin == {(255, 255, 255)}  # nothing runs over the edge
    assert {picture.getpixel((x, picture.height - 3)) for x in range(picture.width)} == {(255, 255, 255)}
    assert picture.tobytes() == heatmap.interference_picture(report, title="A title " * 40).tobytes()


def test_an_empty_block_and_a_silent_mix_are_drawn(tiny_base: Base) -> None:
    unet = random_adapter(tiny_base, target_modules(tiny_base, "attention", "none")[:2])
    text = random_adapter(tiny_base, target_modules(tiny_base, "none", "attention")[:2])
    assert heatmap.interference_picture(interference({"a": unet, "b": text})).width == heatmap.WIDTH
    assert heatmap.interference_picture(interference({"a": unet, "b": text}, {})).width == heatmap.WIDTH


@pytest.mark.parametrize("count", [1, 7])
def test_too_few_or_too_many_adapters_are_refused(tiny_base: Base, count: int) -> None:
    one = random_adapter(tiny_base, target_modules(tiny_base)[:1])
    report = interference({str(index): one for index in range(count)})
    with pytest.raises(PictureError, match=f"2 to 6 adapters; got {count}"):
        heatmap.interference_picture(report)
