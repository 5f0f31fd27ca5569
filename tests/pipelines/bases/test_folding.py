"""A mix folded into a base: what a mixer makes of it, once, in fp32, without the base being loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.adapter import Adapter, Factors
from pipelines.base import Base
from pipelines.bases.folding import Mix, plan_fold
from pipelines.bases.source import Source, open_source
from pipelines.errors import AdapterError
from pipelines.mixer import Mixer, Weights
from tests.pipelines.making import BESIDE, IN_PARAMETERS, random_adapter_of
from tests.tiny import random_adapter, target_modules

# The mixer sums in fp32 too, in another order.
TOLERANCE = 2e-6


def folded(source: Source, mix: Mix) -> dict[str, torch.Tensor]:
    """Every tensor with the mix in it, by part and name."""
    fold = plan_fold(source, mix)
    return {
        f"{part}.{key}": fold.value(part, key, stored.view())
        for part in source.networks
        for key, stored in source.state(part).items()
    }


def assert_as_mixed(source: Source, base: Base, mix: Mix) -> int:
    """Fail unless folding gives what the mixer writes; return how many tensors the mix changes."""
    found = folded(source, mix)
    changed = 0
    with Mixer(base) as mixer:
        for name, (adapter, _) in mix.items():
            mixer.add(name, adapter)
        mixer.set({name: weight for name, (_, weight) in mix.items()})
        for part in source.networks:
            own = source.state(part)
            for key, value in base.component(part).state_dict().items():
                exact = value.double()
                error = (found[f"{part}.{key}"].double() - exact).norm() / exact.norm().clamp_min(1e-3)
                assert error < TOLERANCE, f"{part}.{key}: {error:.1e}"
                changed += not torch.equal(found[f"{part}.{key}"], own[key].view())
    return changed


def fitting(base: Base, adapter: Adapter) -> Adapter:
    """The adapter without changes of biases that the base's layers lack."""
    layers = base.weighted()
    factors = {
        module: replace(own, parts={name: part for name, part in own.parts.items() if name != "diff_b"})
        if isinstance(own, Factors) and getattr(layers[module], "bias", None) is None
        else own
        for module, own in adapter.factors.items()
    }
    return replace(adapter, factors=factors)


@pytest.mark.parametrize("method", IN_PARAMETERS)
def test_every_method_folds_as_it_is_mixed(
    tiny_folder: Path, base_of: Callable[[str], Base], method: str
) -> None:
    base = base_of("sd15")
    adapter = fitting(base, random_adapter_of(base, method, strength=0.2))
    assert assert_as_mixed(open_source(tiny_folder), base, {"a": (adapter, 0.7)}) >= len(adapter.factors)


@pytest.mark.parametrize("method", BESIDE)
def test_what_works_beside_the_weights_is_refused(
    tiny_folder: Path, base_of: Callable[[str], Base], method: str
) -> None:
    adapter = random_adapter_of(base_of("sd15"), method)
    with pytest.raises(AdapterError, match=r"'a' can't be folded into a base: .* have no ΔW; keep its file"):
        plan_fold(open_source(tiny_folder), {"a": (adapter, 0.7)})
    assert not plan_fold(open_source(tiny_folder), {"a": (adapter, 0.0)}).parts


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_every_family_and_every_kind_of_weight(
    tiny_folders: dict[str, Path], base_of: Callable[[str], Base], family: str
) -> None:
    base = base_of(family)
    everywhere = target_modules(base, "all", "attention+mlp")
    first, second = (random_adapter(base, everywhere, seed=seed, name=str(seed)) for seed in (1, 2))
    mix: Mix = {
        "plain": (first, (0.8, -0.4)),
        "blocks": (second, Weights(unet=1.5, text=0.0, blocks={"mid_block": 0.0, "up_blocks.0": -0.5})),
    }
    assert assert_as_mixed(open_source(tiny_folders[family]), base, mix) == len(everywhere)


def test_full_differences_change_biases_and_norms(tiny_folder: Path, tiny_base: Base) -> None:
    full = random_adapter_of(tiny_base, "full", strength=0.2)
    norm = random_adapter_of(tiny_base, "norm", strength=0.2)
    mix: Mix = {"full": (fitting(tiny_base, full), 0.5), "norm": (norm, -1.0)}
    source = open_source(tiny_folder)
    assert_as_mixed(source, tiny_base, mix)
    found = folded(source, mix)
    changed = {
        name
        for part in source.networks
        for key, stored in source.state(part).items()
        if not torch.equal(found[name := f"{part}.{key}"], stored.view())
    }
    assert any(name.endswith(".bias") for name in changed), "no bias was changed"
    assert any(".norm" in name for name in changed), "no norm was changed"


def test_all_zero_gives_the_very_tensors(tiny_folder: Path, tiny_base: Base) -> None:
    adapter = random_adapter(tiny_base, target_modules(tiny_base, "all"))
    source = open_source(tiny_folder)
    for weight in (0.0, Weights(unet=1.0, text=0.0, blocks=dict.fromkeys(Mixer(tiny_base).blocks, 0.0))):
        fold = plan_fold(source, {"a": (adapter, weight)})
        assert not fold.parts
        for part in source.networks:
            for key, stored in source.state(part).items():
                own = stored.view()
                assert fold.value(part, key, own) is own


def test_a_mix_in_the_loaded_base_isnt_folded_twice(tiny_base: Base) -> None:
    adapter, key = random_adapter(tiny_base), "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert tiny_base.source is not None
    before = folded(tiny_base.source, {"a": (adapter, 1.0)})
    with Mixer(tiny_base) as mixer:
        mixer.add("a", adapter)
        mixer.set({"a": 1.0})
        after = folded(tiny_base.source, {"a": (adapter, 1.0)})
    assert torch.equal(before[f"unet.{key}"], after[f"unet.{key}"])


def test_half_precision_is_rounded_once(tiny_folder: Path, tiny_base: Base) -> None:
    """W₀ in bf16: the sum is fp32, and what is returned isn't rounded yet."""
    adapter = random_adapter(tiny_base)
    module, factors = next(iter(adapter.factors.items()))
    part, path = module.split(".", 1)
    own = tiny_base.modules()[module].weight.detach().to(torch.bfloat16)
    found = plan_fold(open_source(tiny_folder), {"a": (adapter, 0.5)}).value(part, f"{path}.weight", own)
    assert found.dtype == torch.float32
    assert torch.equal(found, own.float().add(factors.delta(own.float()), alpha=0.5))


def refused(source: Source, mix: Mix) -> str:
    with pytest.raises(AdapterError) as caught:
        plan_fold(source, mix)
    return str(caught.value)


def test_what_weights_cant_hold_is_refused(tiny_folder: Path, tiny_base: Base) -> None:
    source, adapter = open_source(tiny_folder), random_adapter(tiny_base)
    message = refused(source, {"late": (adapter, Weights(begin=0.2, end=0.6))})
    assert "'late' changes with the steps" in message and "@0.2-0.6" in message
    words = replace(adapter, tokens={"<zib>": {"text_encoder": torch.ones(1, 32)}})
    assert "learned words (<zib>)" in refused(source, {"a": (words, 1.0)})
    assert plan_fold(source, {"a": (words, (1.0, 0.0))}).parts, "words at text weight 0 are no hindrance"


def test_what_doesnt_fit_is_refused(tiny_folders: dict[str, Path], tiny_base: Base, tiny_sd2: Base) -> None:
    source = open_source(tiny_folders["sd15"])
    assert "is for sd2" in refused(source, {"a": (random_adapter(tiny_sd2), 1.0)})
    adapter = random_adapter(tiny_base)
    assert "weight of 'a' is 7" in refused(source, {"a": (adapter, 7.0)})
    wrong = replace(adapter, factors={f"{name}x": factors for name, factors in adapter.factors.items()})
    assert "modules aren't in it" in refused(source, {"a": (wrong, 1.0)})


def test_a_new_bias_is_refused(tiny_folder: Path, tiny_base: Base) -> None:
    module = next(name for name in target_modules(tiny_base) if name.endswith("to_q"))
    weight = tiny_base.modules()[module].weight.detach()
    parts = {"diff": torch.zeros_like(weight), "diff_b": torch.ones(len(weight))}
    adapter = Adapter(name="b", factors={module: Factors(method="full", parts=parts)}, family="sd15")
    assert "which has none in this base" in refused(open_source(tiny_folder), {"b": (adapter, 1.0)})


def test_the_base_isnt_loaded(tiny_folder: Path, tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checking an adapter reads no weights: the skeleton has none."""
    from pipelines.bases import folding

    made: list[Base] = []
    skeleton = folding._skeleton

    def kept(source: Source) -> Base:
        made.append(skeleton(source))
        return made[0]

    monkeypatch.setattr(folding, "_skeleton", kept)
    plan_fold(open_source(tiny_folder), {"a": (random_adapter(tiny_base), 1.0)})
    kinds = {value.device.type for part in ("unet", "vae") for value in made[0].component(part).parameters()}
    assert kinds == {"meta"}
