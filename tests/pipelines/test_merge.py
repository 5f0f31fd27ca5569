"""Merging: what each algorithm promises, the error that is reported, and what is refused."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils import merge_utils

from pipelines.adapter import Adapter, LowRank
from pipelines.base import Base, load_base
from pipelines.errors import AdapterError, ConfigError
from pipelines.lowrank import RankRule
from pipelines.merging import MERGES, merge_adapters
from pipelines.merging.algorithms import dare_linear, dare_ties, disjoint_mean, drop, linear, ties, trim
from pipelines.methods import METHODS
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


SHAPES = [(8, 6), (4, 3, 3, 3), (1, 1), (5, 1)]
WITH_DENSITY = [m for m, row in MERGES.items() if any(p.name == "density" for p in row.parameters)]
METHOD_NAMES = WITH_DELTA


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _combine(
    method: str, deltas: torch.Tensor, weights: torch.Tensor, density: float = 1.0, seed: int = 0
) -> torch.Tensor:
    wanted = inspect.signature(MERGES[method].combine).parameters
    offered: dict[str, Any] = {
        "density": density,
        "majority_sign": "total",
        "generator": torch.Generator().manual_seed(seed),
    }
    return MERGES[method].combine(
        deltas, weights, **{name: value for name, value in offered.items() if name in wanted}
    )


def _of(base: Base, method_name: str, **kw: Any) -> Adapter:
    """A random adapter of a method on a few modules."""
    return random_adapter_of(base, method_name, modules_for(base, method_name)[::11], **kw)


def _only_norms(adapter: Adapter, base: Base) -> bool:
    return adapter.factors.keys().isdisjoint(base.modules())


def _sum(
    adapters: list[Adapter], weights: list[float], module: str, base: Base | None = None
) -> torch.Tensor:
    layers: Any = None if base is None else base.weighted()
    total = torch.zeros(())
    for adapter, weight in zip(adapters, weights, strict=True):
        if module in adapter.factors:
            own = None if layers is None else layers[module].weight
            total = total + weight * adapter.factors[module].delta(own).double()
    return total


# Pure tensor functions


@pytest.mark.parametrize("method", MERGES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [1e-6, 0.4, 1.0])
def test_shapes_are_kept_and_numbers_finite(method: str, shape: tuple[int, ...], density: float) -> None:
    merged = _combine(method, _draw(3, *shape), torch.tensor([0.5, -1.0, 2.0]), density)
    assert merged.shape == shape
    assert merged.isfinite().all()


@pytest.mark.parametrize("method", MERGES)
@pytest.mark.parametrize("weight", [1.0, 0.3, -0.7])
def test_one_adapter_alone_at_full_density_is_itself(method: str, weight: float) -> None:
    delta = _draw(1, 8, 6)
    assert torch.allclose(_combine(method, delta, torch.tensor([weight])), weight * delta[0], atol=1e-6)


@pytest.mark.parametrize("method", MERGES)
@pytest.mark.parametrize("density", [0.5, 1.0])
def test_weight_zero_removes(method: str, density: float) -> None:
    deltas = _draw(2, 8, 6)
    both = _combine(method, deltas, torch.tensor([0.8, 0.0]), density)
    assert torch.equal(both, _combine(method, deltas[:1], torch.tensor([0.8]), density))


@pytest.mark.parametrize("method", [m for m in MERGES if not m.startswith("dare")])
def test_order_of_the_tensors_doesnt_matter(method: str) -> None:
    deltas, weights, order = _draw(3, 8, 6), torch.tensor([0.5, -1.0, 2.0]), [2, 0, 1]
    first = _combine(method, deltas, weights, 0.4)
    assert torch.allclose(first, _combine(method, deltas[order], weights[order], 0.4), atol=1e-6)


@pytest.mark.parametrize("method", ["dare_linear", "magnitude_prune"])
def test_full_density_is_linear(method: str) -> None:
    deltas, weights = _draw(3, 8, 6), torch.tensor([0.5, -1.0, 2.0])
    assert torch.equal(_combine(method, deltas, weights, 1.0), linear(deltas, weights))


def test_full_density_makes_both_ties_the_same() -> None:
    deltas, weights = _draw(3, 8, 6), torch.tensor([0.5, -1.0, 2.0])
    assert torch.equal(_combine("dare_ties", deltas, weights), _combine("ties", deltas, weights))


@pytest.mark.parametrize("method", WITH_DENSITY)
def test_every_density_counts(method: str) -> None:
    deltas, weights = _draw(2, 8, 6), torch.ones(2)
    assert not torch.equal(_combine(method, deltas, weights, 0.3), _combine(method, deltas, weights, 0.9))


def test_trimming_keeps_the_largest_share_of_each() -> None:
    deltas = _draw(2, 10, 10)
    kept = trim(deltas, 0.25)
    for before, after in zip(deltas, kept, strict=True):
        assert int((after != 0).sum()) == 25
        threshold = before.abs().flatten().sort(descending=True).values[24]
        assert torch.equal(after, before * (before.abs() >= threshold))
    assert int((trim(deltas, 1e-6) != 0).sum()) == 2
    assert torch.equal(trim(deltas, 1.0), deltas)


def test_dropping_keeps_the_expectation_and_a_seed_its_meaning() -> None:
    deltas = torch.ones(1, 200, 200)

    def dropped(seed: int, density: float = 0.25) -> torch.Tensor:
        return drop(deltas, density, torch.Generator().manual_seed(seed))

    assert set(dropped(0).unique().tolist()) == {0.0, 4.0}
    assert float(dropped(0).mean()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(dropped(0), dropped(0))
    assert not torch.equal(dropped(0), dropped(1))
    assert torch.equal(dropped(0, 1.0), deltas)


@pytest.mark.filterwarnings("ignore:The density")
def test_signs_are_elected_after_weighting() -> None:
    """The two readings of TIES differ here: a negative weight votes for the opposite sign."""
    deltas = torch.tensor([[[3.0]], [[2.0]]])
    ours = ties(deltas, torch.tensor([1.0, -1.0]), density=1.0)
    assert ours.item() == pytest.approx(3.0)  # 3 − 2 elects plus; −2 doesn't agree
    theirs = merge_utils.ties(list(deltas), torch.tensor([1.0, -1.0]), density=1.0)
    assert theirs.item() == pytest.approx(0.5)  # both agree before weighting: (3 − 2) / 2


def test_the_majority_is_by_size_or_by_number() -> None:
    weighted = torch.tensor([[5.0, 0.0], [-1.0, 0.0], [-1.0, 2.0]])
    assert disjoint_mean(weighted, "total").tolist() == [5.0, 2.0]
    assert disjoint_mean(weighted, "frequency").tolist() == [-1.0, 2.0]


@pytest.mark.filterwarnings("ignore:The density")
@pytest.mark.parametrize("density", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("majority_sign", ["total", "frequency"])
def test_the_tensor_functions_are_pefts(density: float, majority_sign: str) -> None:
    deltas, weights = _draw(3, 8, 8), torch.tensor([0.5, -1.0, 2.0])
    tensors = list(deltas)
    assert torch.allclose(linear(deltas, weights), merge_utils.task_arithmetic(tensors, weights), atol=1e-6)
    pruned = MERGES["magnitude_prune"].combine(deltas, weights, density=density)
    assert torch.allclose(pruned, merge_utils.magnitude_prune(tensors, weights, density), atol=1e-6)
    # TIES elects the same signs before and after weighting where all weights are one positive number.
    equal = torch.full((3,), 0.7)
    ours = ties(deltas, equal, density=density, majority_sign=majority_sign)
    assert torch.allclose(ours, merge_utils.ties(tensors, equal, density, majority_sign), atol=1e-6)


@pytest.mark.filterwarnings("ignore:The density")
@pytest.mark.parametrize("density", [0.25, 1.0])
def test_dare_is_pefts_for_the_same_masks(density: float, monkeypatch: pytest.MonkeyPatch) -> None:
    deltas, weights = _draw(3, 8, 8), torch.full((3,), 0.7)
    chances = torch.rand(deltas.shape, generator=torch.Generator().manual_seed(0))
    masks = iter([*(chances < density).float(), *(chances < density).float()])
    monkeypatch.setattr(torch, "bernoulli", lambda _: next(masks))

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    ours = dare_linear(deltas, weights, density=density, generator=generator())
    assert torch.allclose(ours, merge_utils.dare_linear(list(deltas), weights, density), atol=1e-6)
    ours = dare_ties(deltas, weights, density=density, generator=generator())
    assert torch.allclose(ours, merge_utils.dare_ties(list(deltas), weights, density), atol=1e-6)


# Whole adapters


@pytest.fixture
def pair(tiny_base: Base) -> list[Adapter]:
    """Two adapters that share some modules; one has convolutions, one text layers."""
    unet = target_modules(tiny_base, "all", "none")[::12]
    text = target_modules(tiny_base, "none", "attention")[:2]
    return [
        random_adapter(tiny_base, unet, rank=3, alpha=5.0, name="a"),
        random_adapter(tiny_base, [*unet[::2], *text], rank=2, seed=1, name="b"),
    ]


@pytest.mark.parametrize("method", ["cat", "linear"])
@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.7, -0.4], [-2.0, 3.0]])
def test_exact_merges_are_the_weighted_sum(pair: list[Adapter], method: str, weights: list[float]) -> None:
    merged, report = merge_adapters(pair, weights, method)
    assert merged.factors.keys() == pair[0].factors.keys() | pair[1].factors.keys()
    for module, factor in merged.factors.items():
        expected = _sum(pair, weights, module)
        assert float((factor.delta() - expected).norm() / expected.norm()) < 1e-6, module
    assert report.error < 1e-6
    assert report.worst[1] < 1e-6


def test_concatenation_adds_up_ranks_until_they_are_full(tiny_base: Base, pair: list[Adapter]) -> None:
    merged, report = merge_adapters(pair, [1.0, 1.0])
    for module, factor in merged.factors.items():
        assert isinstance(factor, LowRank)
        full = min(factor.weight_shape[0], factor.down[0].numel())
        assert factor.rank == min(full, sum(a.factors[module].rank for a in pair if module in a.factors))
    assert report.ranks == (2, 5)
    some = target_modules(tiny_base)[::10]
    wide = [random_adapter(tiny_base, some, rank=12, seed=seed, name=str(seed)) for seed in (0, 1)]
    merged, report = merge_adapters(wide, [1.0, 1.0])
    assert {f.rank for f in merged.factors.values()} <= {16, 24}  # 16 is full where there are 16 channels
    assert report.error < 1e-6


def test_the_mixed_base_and_the_merged_adapter_are_the_same(tiny_base: Base, pair: list[Adapter]) -> None:
    merged, _ = merge_adapters(pair, [0.7, (1.2, -0.3)], "cat")
    mixes = []
    for adapters, weights in (({"a": pair[0], "b": pair[1]}, {"a": 0.7, "b": (1.2, -0.3)}),
                              ({"m": merged}, {"m": 1.0})):  # fmt: skip
        with Mixer(tiny_base) as mixer:
            for name, adapter in adapters.items():
                mixer.add(name, adapter)
            mixer.set(weights)  # type: ignore[arg-type]
            mixes.append(weights_of(tiny_base))
    assert all(torch.allclose(mixes[0][name], mixes[1][name], atol=1e-5) for name in mixes[0])


@pytest.mark.parametrize("method", MERGES)
def test_the_reported_error_is_true_and_order_doesnt_matter(pair: list[Adapter], method: str) -> None:
    weights = [0.9, -0.5]
    merged, report = merge_adapters(pair, weights, method)
    distance = size = 0.0
    for module, factor in merged.factors.items():
        expected = _sum(pair, weights, module)
        own = float((factor.delta() - expected).norm())
        distance, size = distance + own**2, size + float(expected.norm()) ** 2
        assert report.modules[module].error == pytest.approx(own / float(expected.norm()), abs=1e-5)
        assert report.modules[module].rank == factor.rank
    assert report.error == pytest.approx((distance / size) ** 0.5, abs=1e-5)
    turned, _ = merge_adapters(pair[::-1], weights[::-1], method)
    for module, factor in merged.factors.items():
        assert torch.allclose(factor.delta(), turned.factors[module].delta(), atol=1e-4), module
    assert json.loads(json.dumps(report.as_dict()))["error"] == report.error
    assert "error against Σ wᵢΔWᵢ" in report.as_text()


@pytest.mark.parametrize("method", MERGES)
def test_an_adapter_at_zero_takes_no_part(pair: list[Adapter], method: str) -> None:
    both, _ = merge_adapters(pair, [0.5, 0.0], method)
    alone, _ = merge_adapters(pair[:1], [0.5], method)
    assert both.factors.keys() == alone.factors.keys()
    for module, factor in alone.factors.items():
        assert torch.equal(both.factors[module].delta(), factor.delta())
    assert both.metadata == alone.metadata
    text_only, _ = merge_adapters(pair, [0.0, (0.0, 1.0)], method)
    assert text_only.components == ("text_encoder",)


@pytest.mark.parametrize("method", [m for m in MERGES if m != "cat"])
def test_a_rank_caps_every_module(pair: list[Adapter], method: str) -> None:
    merged, report = merge_adapters(pair, [1.0, 1.0], method, rank=1)
    assert {factor.rank for factor in merged.factors.values()} == {1}
    assert report.ranks == (1, 1)
    by_energy, _ = merge_adapters(pair, [1.0, 1.0], method, rank=RankRule(energy=0.999999))
    assert by_energy.rank > 1


def test_svd_to_a_rank_is_the_nearest_and_pefts(tiny_base: Base) -> None:
    """PEFT's add_weighted_adapter is right for "cat" and "svd"; the same tensors come out there."""
    from peft import LoraConfig, get_peft_model

    modules = target_modules(tiny_base, "attention", "none")[:4]
    adapters = [random_adapter(tiny_base, modules, rank=3, alpha=6.0, seed=s, name=f"n{s}") for s in (0, 1)]
    paths = [module.removeprefix("unet.") for module in modules]
    config = LoraConfig(r=3, lora_alpha=6, target_modules=paths)
    own = load_base(tiny_base.path, device="cpu")
    model = get_peft_model(own.unet, config, adapter_name="n0")
    model.add_adapter("n1", config)
    for adapter in adapters:
        for module, path in zip(modules, paths, strict=True):
            layer = model.base_model.model.get_submodule(path)
            layer.lora_A[adapter.name].weight.data.copy_(adapter.factors[module].parts["down"])
            layer.lora_B[adapter.name].weight.data.copy_(adapter.factors[module].parts["up"])
    weights = [0.8, 0.5]
    model.add_weighted_adapter(["n0", "n1"], weights, "cat", combination_type="cat")
    model.add_weighted_adapter(["n0", "n1"], weights, "svd2", combination_type="svd", svd_rank=2)
    for method, name, rank in (("cat", "cat", None), ("svd", "svd2", 2)):
        merged, _ = merge_adapters(adapters, weights, method, rank=rank)
        for module, path in zip(modules, paths, strict=True):
            theirs = model.base_model.model.get_submodule(path).get_delta_weight(name)
            assert torch.allclose(merged.factors[module].delta(), theirs, atol=1e-5), (method, module)


def test_a_seed_tells_the_masks_whatever_else_is_merged(pair: list[Adapter]) -> None:
    def made(adapters: list[Adapter], seed: int) -> Adapter:
        return merge_adapters(adapters, [1.0] * len(adapters), "dare_linear", density=0.5, seed=seed)[0]

    module = next(module for module in pair[0].factors if module not in pair[1].factors)
    first = made(pair, 3).factors[module].delta()
    assert torch.equal(first, made(pair[:1], 3).factors[module].delta())
    assert not torch.allclose(first, made(pair, 4).factors[module].delta())


@pytest.mark.parametrize("method_name", METHOD_NAMES)
def test_every_method_merges_with_lora(tiny_base: Base, method_name: str) -> None:
    other = _of(tiny_base, method_name, name="other", seed=1)
    plain = random_adapter(tiny_base, target_modules(tiny_base)[::11], rank=2, name="plain")
    merged, report = merge_adapters([other, plain], [0.6, 1.1], "linear", base=tiny_base, allow_left_out=True)
    assert report.error < 2e-6
    assert merged.factors
    for module, factor in merged.factors.items():
        expected = _sum([other, plain], [0.6, 1.1], module, tiny_base)
        assert float((factor.delta() - expected).norm() / expected.norm()) < 2e-6, module
    merged.check(tiny_base)


def test_weights_that_cancel_leave_nothing(pair: list[Adapter]) -> None:
    merged, report = merge_adapters([pair[0], pair[0]], [1.0, -1.0], "linear")
    assert all(float(factor.delta().abs().max()) < 1e-6 for factor in merged.factors.values())
    assert {factor.rank for factor in merged.factors.values()} == {1}
    assert json.dumps(report.as_dict(), allow_nan=False)


# What a merged adapter says of itself, and tokens


def _with(adapter: Adapter, **changes: Any) -> Adapter:
    fields = {
        "name": adapter.name,
        "factors": adapter.factors,
        "tokens": adapter.tokens,
        "family": adapter.family,
        "triggers": adapter.triggers,
        "metadata": adapter.metadata,
        "sha256": adapter.sha256,
    }
    return Adapter(**{**fields, **changes})


def test_the_result_says_what_it_was_made_of(pair: list[Adapter]) -> None:
    common = {"base_sha256": "b" * 64}
    first = _with(pair[0], triggers=("zib",), sha256="a" * 64, metadata={**common, "steps": "300"})
    second = _with(pair[1], triggers=("zwx", "zib"), metadata={**common, "steps": "300"})
    merged, report = merge_adapters([first, second], [0.5, (1.0, 0.2)], "ties", density=0.3, rank=4)
    assert merged.name == "a + b"
    assert merged.triggers == ("zib", "zwx")
    assert merged.sha256 is None
    assert merged.metadata["modelspec.merged_from"] == f"a (sha256 {'a' * 64}), b"
    assert merged.metadata["base_sha256"] == "b" * 64
    assert "steps" not in merged.metadata
    recipe = json.loads(merged.metadata["merge"])
    assert recipe == report.recipe
    assert recipe["method"] == "ties"
    assert recipe["parameters"] == {"density": 0.3, "majority_sign": "total", "rank": "rank 4"}
    assert recipe["adapters"][1] == {"name": "b", "sha256": None, "weight": 1.0, "text_weight": 0.2}
    assert merge_adapters([first], [1.0], name="mine")[0].name == "mine"
    other = _with(second, metadata={"base_sha256": "c" * 64})
    assert "base_sha256" not in merge_adapters([first, other], [1.0, 1.0])[0].metadata


def test_tokens_are_joined_and_a_clash_is_refused(pair: list[Adapter]) -> None:
    first = _with(pair[0], tokens={"<fox>": {"text_encoder": _draw(2, 32)}})
    second = _with(pair[1], tokens={"<cat>": {"text_encoder": _draw(1, 32, seed=1)}})
    merged, _ = merge_adapters([first, second], [0.5, 1.0])
    assert merged.tokens.keys() == {"<fox>", "<cat>"}
    assert torch.equal(merged.tokens["<fox>"]["text_encoder"], _draw(2, 32))
    assert merge_adapters([first, second], [0.0, 1.0])[0].tokens.keys() == {"<cat>"}
    same = _with(pair[1], tokens=first.tokens)
    assert merge_adapters([first, same], [1.0, 1.0])[0].tokens.keys() == {"<fox>"}
    for changed in ({"text_encoder": _draw(2, 32, seed=5)}, {"text_encoder_2": _draw(2, 32)}):
        clash = _with(pair[1], tokens={"<fox>": changed})
        with pytest.raises(AdapterError, match="both have a token '<fox>' that differs"):
            merge_adapters([first, clash], [1.0, 1.0])


# Refusals


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": "tie"}, "unknown merge method 'tie'; did you mean 'ties'"),
        ({"method": "cat", "rank": 4}, "'cat' takes no rank"),
        ({"method": "linear", "density": 0.5}, "'linear' takes no density; it takes rank"),
        ({"method": "ties", "seed": 1}, "'ties' takes no seed"),
        ({"method": "ties", "density": 0.0}, "density is 0; give a number from"),
        ({"method": "ties", "density": 1.01}, "density is 1.01"),
        ({"method": "ties", "density": float("nan")}, "density is nan"),
        ({"method": "ties", "density": "much"}, "density is 'much'"),
        ({"method": "ties", "majority_sign": "both"}, "choose one of total, frequency"),
        ({"method": "svd", "rank": 0}, "rank is 0; give a number from 1"),
        ({"method": "svd", "rank": 1.5}, "give a whole number"),
        ({"method": "dare_ties", "seed": -1}, "seed is -1"),
        ({"weights": [1.0]}, "got 2 adapters and 1 weights"),
        ({"weights": [0.0, 0]}, "every weight is 0"),
        ({"weights": [1.0, float("inf")]}, "weight of 'b' is inf"),
        ({"weights": [1.0, (1.0, 2.0, 3.0)]}, "weight of 'b' is"),
        ({"weights": ["1", 1.0]}, "weight of 'a' is '1'"),
    ],
)
def test_settings_out_of_place_are_refused(pair: list[Adapter], settings: dict[str, Any], says: str) -> None:
    settings = {"weights": [1.0, 1.0], **settings}
    with pytest.raises(ConfigError) as refusal:
        merge_adapters(pair, settings.pop("weights"), **settings)
    assert says in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_adapters_that_dont_go_together_are_refused(tiny_base: Base, pair: list[Adapter]) -> None:
    with pytest.raises(ConfigError, match="got 0 adapters"):
        merge_adapters([], [])
    with pytest.raises(AdapterError, match="are for sd15 and sdxl"):
        merge_adapters([pair[0], _with(pair[1], family="sdxl")], [1.0, 1.0])
    module, good = next(iter(pair[1].factors.items()))
    narrow = LowRank(good.parts["down"][:, :-1], good.parts["up"], good.alpha)
    with pytest.raises(AdapterError, match="made for one base"):
        merge_adapters([pair[1], _with(pair[1], factors={module: narrow})], [1.0, 1.0])
    with pytest.raises(AdapterError, match="have another shape"):
        merge_adapters([_with(pair[1], factors={module: narrow})], [1.0], base=tiny_base)
    with Mixer(tiny_base) as mixer:
        mixer.add("a", pair[0])
        with pytest.raises(AdapterError, match="are mixed into base"):
            merge_adapters(pair, [1.0, 1.0], base=tiny_base)


@pytest.mark.parametrize(
    "method_name", [m for m, row in METHODS.items() if row.needs_weight and row.matrices is None]
)
def test_a_method_that_needs_the_base_says_so(tiny_base: Base, method_name: str) -> None:
    adapter = _of(tiny_base, method_name)
    if _only_norms(adapter, tiny_base):
        pytest.skip("norms have no place in plain LoRA at all")
    with pytest.raises(AdapterError, match="give a base"):
        merge_adapters([adapter], [1.0], "linear", allow_left_out=True)


@pytest.mark.parametrize("method_name", [m for m in WITH_DELTA if METHODS[m].matrices is None])
def test_concatenation_says_which_adapter_has_no_factors(tiny_base: Base, method_name: str) -> None:
    adapter = _of(tiny_base, method_name, name="odd")
    if _only_norms(adapter, tiny_base):
        pytest.skip("norms have no place in plain LoRA at all")
    with pytest.raises(AdapterError, match=r"'odd'.* has no factors .*merge by 'linear'"):
        merge_adapters([adapter], [1.0], "cat", base=tiny_base, allow_left_out=True)


def test_norms_alone_leave_nothing_to_merge(tiny_base: Base) -> None:
    norms = [adapter for m in WITH_DELTA if _only_norms(adapter := _of(tiny_base, m), tiny_base)]
    assert norms
    for adapter in norms:
        with pytest.raises(AdapterError, match="nothing is left to merge"):
            merge_adapters([adapter], [1.0], "linear", base=tiny_base, allow_left_out=True)


def _method_with_biases() -> list[str]:
    return [m for m in WITH_DELTA if METHODS[m].bias_delta is not None]


@pytest.mark.parametrize("method_name", _method_with_biases())
def test_what_plain_lora_cant_hold_is_refused_or_named(tiny_base: Base, method_name: str) -> None:
    biased = [m for m in modules_for(tiny_base, method_name) if tiny_base.weighted()[m].bias is not None]
    adapter = random_adapter_of(tiny_base, method_name, biased[::5], variant=1)
    plain = random_adapter(tiny_base, target_modules(tiny_base)[::11])
    with pytest.raises(AdapterError, match="plain LoRA can't hold"):
        merge_adapters([adapter, plain], [1.0, 1.0], "linear", base=tiny_base)
    merged, report = merge_adapters(
        [adapter, plain], [1.0, 1.0], "linear", base=tiny_base, allow_left_out=True
    )
    assert report.left_out
    assert set(report.left_out) <= set(adapter.factors)
    for module, why in report.left_out.items():
        assert (module in merged.factors) == (why == "bias")
    assert "left out" in report.as_text()
    # At weight 0 there is nothing to leave out.
    merge_adapters([adapter, plain], [0.0, 1.0], "linear", base=tiny_base)


def test_the_table_states_papers_variants_and_usable_defaults() -> None:
    for method, row in MERGES.items():
        assert row.id == method
        assert row.paper.startswith("https://")
        assert len(row.variant) > 20
        for parameter in row.parameters:
            assert parameter.default is None or parameter.checked(parameter.default) == parameter.default
            assert parameter.kind in ("share", "int", "choice")
    run: Callable[..., Any] = MERGES["ties"].resolve
    assert run({}) == {"density": 0.5, "majority_sign": "total", "rank": None}
