"""Adapters without ΔW in the mixer: by weight, block and step, with others, refused whole, let go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.adapter import Adapter, Factors
from pipelines.anatomy import anatomy
from pipelines.balance import balanced_weights
from pipelines.base import Base
from pipelines.effects import effects
from pipelines.errors import AdapterError
from pipelines.export import export_adapter
from pipelines.formats import FORMATS, inspect_adapter, read_adapter, read_part, write_adapter
from pipelines.generate import GenerationConfig, generate
from pipelines.interference import interference
from pipelines.merging import merge_adapters
from pipelines.methods.bottleneck import bottleneck
from pipelines.mixer import Mixer, Weights
from pipelines.mixing.attached import Attached
from pipelines.tools import as_lora, resize
from tests.pipelines.making import BESIDE, WITHOUT_DELTA, random_adapter_of
from tests.tiny import assert_unchanged, random_adapter, weights_of

BEHIND = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"


def hooks(base: Base) -> int:
    """How many hooks there are on the base's modules."""
    modules = [m for part in base.family.components for m in base.component(part).modules()]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def answer(base: Base) -> list[Tensor]:
    """What the text encoder makes of prompts, and the UNet of a fixed text: neither sees the other."""
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    text = torch.randn(1, 16, int(base.unet.config["cross_attention_dim"]), generator=generator)
    with torch.no_grad():
        return [base.condition(["a fox", "zwx"]).hidden, base.unet(latents, 5, text).sample]


def same(one: list[Tensor], other: list[Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize("route", ["fused", "unfused"])
@pytest.mark.parametrize("method", BESIDE)
def test_at_zero_it_is_the_base_and_hooks_come_and_go(tiny_base: Base, method: str, route: Any) -> None:
    before, plain = weights_of(tiny_base), answer(tiny_base)
    adapter = random_adapter_of(tiny_base, method)
    mixer = Mixer(tiny_base, route=route)
    mixer.add("a", adapter)
    assert hooks(tiny_base) == 0 and all(same(answer(tiny_base), plain))
    mixer.set({"a": 0.8})
    assert hooks(tiny_base) == len(adapter.factors) * (2 if method == "prefix" else 1)
    once = answer(tiny_base)
    assert not torch.equal(once[0], plain[0])
    mixer.set({"a": (0.8, 0.0)})
    assert same(answer(tiny_base), plain) == [True, method == "prefix"]
    mixer.set({"a": 0.0})
    assert hooks(tiny_base) == 0 and all(same(answer(tiny_base), plain))
    mixer.set({"a": 0.8})
    assert all(same(answer(tiny_base), once))
    assert mixer.factor_bytes >= sum(p.nbytes for f in adapter.factors.values() for p in f.parts.values())
    mixer.restore()
    assert hooks(tiny_base) == 0 and mixer.factor_bytes == 0 and tiny_base.holder is None
    assert_unchanged(tiny_base, before)


def test_bottlenecks_add_up_by_weight(tiny_base: Base) -> None:
    """At one module: y + Σ wᵢ · fᵢ(y), with LoRA's change in y and whatever the order."""
    first, second = (random_adapter_of(tiny_base, "bottleneck", [BEHIND], seed=seed) for seed in (1, 2))
    lora = random_adapter(tiny_base, [BEHIND])
    layer: Any = tiny_base.modules()[BEHIND]
    weight = layer.weight.detach() - 0.4 * lora.factors[BEHIND].delta()
    x = torch.randn(3, layer.in_features)
    y = functional.linear(x, weight, layer.bias)
    expected = y + 0.5 * bottleneck(y, first.factors[BEHIND].parts)
    expected = expected - 1.5 * bottleneck(y, second.factors[BEHIND].parts)
    with Mixer(tiny_base) as mixer, torch.no_grad():
        for name, adapter in {"one": first, "lora": lora, "two": second}.items():
            mixer.add(name, adapter)
        mixer.set({"one": 0.5, "two": -1.5, "lora": -0.4})
        assert torch.allclose(layer(x), expected, atol=1e-5)
        mixer.remove("one")
        assert torch.allclose(layer(x), y - 1.5 * bottleneck(y, second.factors[BEHIND].parts), atol=1e-5)


def test_prefixes_add_up_by_weight(tiny_base: Base) -> None:
    one, two = (random_adapter_of(tiny_base, "prefix", seed=seed) for seed in (1, 2))
    attention: Any = next(iter(tiny_base.attentions().values()))
    x = torch.randn(2, 6, 32)

    def call() -> Tensor:
        with torch.no_grad():
            found: Tensor = attention(hidden_states=x, attention_mask=None, is_causal=True)[0]
            return found

    plain, changes = call(), []
    with Mixer(tiny_base) as mixer:
        mixer.add("one", one)
        mixer.add("two", two)
        for name in ("one", "two"):
            mixer.set({name: 1.0})
            changes.append(call() - plain)
        mixer.set({"one": 0.5, "two": -1.5})
        assert torch.allclose(call() - plain, 0.5 * changes[0] - 1.5 * changes[1], atol=1e-5)
    assert changes[0].norm() > 0.05 * plain.norm()


def test_blocks_and_steps_weigh_it(tiny_base: Base) -> None:
    adapter = random_adapter_of(tiny_base, "bottleneck")
    plain = answer(tiny_base)
    with Mixer(tiny_base) as mixer:
        mixer.add("a", adapter)
        mixer.set({"a": 1.0})
        full = answer(tiny_base)
        blocks = dict.fromkeys(mixer.blocks, 0.0)
        mixer.set({"a": Weights(unet=1.0, blocks=blocks)})
        assert hooks(tiny_base) == 0 and all(same(answer(tiny_base), plain))
        mixer.set({"a": Weights(unet=1.0, blocks={**blocks, "mid_block": 1.0})})
        inner = sum(name.startswith("unet.mid_block") for name in adapter.factors)
        assert hooks(tiny_base) == inner > 0
        assert same(answer(tiny_base), plain) == [True, False]
        late = Weights(unet=1.0, begin=0.5, end=0.5)
        mixer.set({"a": late})
        mixer.at(0, 4)
        assert same(answer(tiny_base), [full[0], plain[1]]) == [True, True]  # text isn't bound to steps
        mixer.at(2, 4)
        assert all(same(answer(tiny_base), full))
        mixer.rest()
        assert all(same(answer(tiny_base), full))


@pytest.mark.parametrize("method", BESIDE)
def test_pictures_are_drawn_with_it(tiny_base: Base, method: str) -> None:
    config = GenerationConfig(prompt="a zwx", seed=2, num_inference_steps=3)
    plain = generate(tiny_base, config)[0].image.tobytes()
    with Mixer(tiny_base) as mixer:
        mixer.add("a", random_adapter_of(tiny_base, method))
        mixer.set({"a": Weights(unet=1.5, begin=0.2, end=0.6)})
        assert generate(tiny_base, config)[0].image.tobytes() != plain
        mixer.set({"a": 0.0})
        assert generate(tiny_base, config)[0].image.tobytes() == plain
    assert generate(tiny_base, config)[0].image.tobytes() == plain


def test_a_half_precision_base_stays_in_it(tiny_base: Base) -> None:
    plain = answer(tiny_base)
    layer: Any = tiny_base.modules()[BEHIND]
    adapter = random_adapter_of(tiny_base, "bottleneck", [BEHIND])
    x = torch.randn(3, layer.in_features, dtype=torch.bfloat16)
    own = nn.Linear(layer.in_features, layer.out_features, dtype=torch.bfloat16).requires_grad_(False)
    found = replace_layer(tiny_base, own)
    with Mixer(tiny_base) as mixer:
        mixer.add("a", adapter)
        mixer.set({"a": 1.0})
        y = own.weight @ x[0] + own.bias
        changed = own(x)
        assert changed.dtype == torch.bfloat16
        exact = y.float() + bottleneck(y, adapter.factors[BEHIND].parts)
        assert torch.allclose(changed[0].float(), exact, atol=0.05)
    replace_layer(tiny_base, found)
    assert all(same(answer(tiny_base), plain))


def replace_layer(base: Base, layer: nn.Module) -> nn.Module:
    """Put another layer at BEHIND; returns the one that stood there."""
    path, _, leaf = BEHIND.removeprefix("unet.").rpartition(".")
    parent: Any = base.unet.get_submodule(path)
    before: nn.Module = parent[int(leaf)]
    parent[int(leaf)] = layer
    return before


def broken(adapter: Adapter, module: str, **parts: Tensor) -> Adapter:
    """The adapter with other tensors in one module."""
    own = adapter.factors[module]
    assert isinstance(own, Factors)
    return replace(adapter, factors={**adapter.factors, module: replace(own, parts={**own.parts, **parts})})


def misfits(base: Base) -> Iterator[tuple[Adapter, str]]:
    bottlenecks, prefixes = (random_adapter_of(base, method) for method in ("bottleneck", "prefix"))
    layer = next(iter(prefixes.factors))
    yield broken(bottlenecks, BEHIND, bottleneck_up=torch.zeros(7, 4)), "another shape.*up \\(7, 4\\)"
    yield broken(bottlenecks, BEHIND, bottleneck_up_b=torch.full((32,), torch.nan)), "aren't finite"
    yield broken(prefixes, layer, prefix_gate=torch.zeros(3)), "another shape.*4 heads of 8"
    yield broken(prefixes, layer, prefix_v=torch.zeros(4, 33)), "another shape.*values \\(4, 33\\)"
    elsewhere = {f"{layer}.q_proj": prefixes.factors[layer]}
    yield replace(prefixes, factors=elsewhere), "1 of 1 modules aren't in it"
    yield replace(bottlenecks, factors={layer: bottlenecks.factors[BEHIND]}), "1 of 1 modules aren't in it"
    lora = random_adapter(base, [BEHIND])
    yield replace(lora, factors={layer: lora.factors[BEHIND]}), "1 of 1 modules aren't in it"


def test_what_doesnt_fit_is_refused_whole(tiny_base: Base) -> None:
    before = weights_of(tiny_base)
    mixer = Mixer(tiny_base)
    mixer.add("good", random_adapter_of(tiny_base, "bottleneck"))
    mixer.set({"good": 0.7})
    mixed, held = answer(tiny_base), hooks(tiny_base)
    for adapter, why in misfits(tiny_base):
        with pytest.raises(AdapterError, match=why):
            mixer.add("bad", adapter)
        assert mixer.names == ("good",) and hooks(tiny_base) == held
        assert all(same(answer(tiny_base), mixed))
    mixer.restore()
    assert_unchanged(tiny_base, before)


@pytest.mark.parametrize("at", ["making", "hooking"])
def test_a_failing_add_changes_nothing(tiny_base: Base, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    mixer = Mixer(tiny_base)
    mixer.add("first", random_adapter_of(tiny_base, "prefix"))
    mixer.set({"first": 0.7})
    mixed, held = answer(tiny_base), hooks(tiny_base)
    real: Callable[..., Any] = Attached.__init__ if at == "making" else Attached.set
    calls = {"left": 1}

    def failing(*args: Any) -> None:
        calls["left"] -= 1
        real(*args)
        if calls["left"] == 0:
            raise MemoryError("none left")

    monkeypatch.setattr(Attached, "__init__" if at == "making" else "set", failing)
    with pytest.raises(MemoryError):
        mixer.add("second", random_adapter_of(tiny_base, "bottleneck"))
    assert mixer.names == ("first",) and hooks(tiny_base) == held
    assert all(same(answer(tiny_base), mixed))
    mixer.restore()
    assert hooks(tiny_base) == 0


@pytest.mark.parametrize("method", WITHOUT_DELTA)
def test_tools_that_need_a_delta_refuse_it_by_name(tiny_base: Base, tmp_path: Path, method: str) -> None:
    adapter = random_adapter_of(tiny_base, method, name="odd")
    plain = random_adapter(tiny_base)
    tools: dict[str, Callable[[], Any]] = {
        "as_lora": lambda: as_lora(adapter, 4, tiny_base),
        "resize": lambda: resize(adapter, 4),
        "anatomy": lambda: anatomy(adapter, tiny_base),
        "merge": lambda: merge_adapters([plain, adapter], [1.0, 1.0], "linear", base=tiny_base),
        "interference": lambda: interference({"a": plain, "odd": adapter}, base=tiny_base),
        "--as-lora": lambda: export_adapter(
            adapter, tmp_path / "a.safetensors", "kohya", base=tiny_base, as_lora=4
        ),
    }
    for name, tool in tools.items():
        with pytest.raises(
            AdapterError, match=r"adapter 'odd' can't be used here: .* and have no ΔW"
        ) as found:
            tool()
        assert "\n" not in str(found.value), name
    for format, row in FORMATS.items():
        if row.holds(method) or format == "embedding":
            continue
        path = tmp_path / ("a.safetensors" if row.kind == "file" else "a")
        with pytest.raises(AdapterError, match=f"'odd' is .*, which the {format} form can't hold.*no ΔW"):
            export_adapter(adapter, path, format, base=tiny_base)
    assert not list(tmp_path.iterdir())


def test_its_effect_can_be_balanced_and_its_norm_cant(tiny_base: Base) -> None:
    adapters = {"lora": random_adapter(tiny_base), "beside": random_adapter_of(tiny_base, "bottleneck")}
    found = balanced_weights(adapters, tiny_base, measure="effect")
    sizes = effects(adapters, tiny_base)
    assert sizes["beside"] > 0 and hooks(tiny_base) == 0
    assert found["lora"] * sizes["lora"] == pytest.approx(found["beside"] * sizes["beside"], rel=1e-5)
    with pytest.raises(AdapterError, match="bottleneck adapters add layers and have no ΔW"):
        balanced_weights(adapters, tiny_base, measure="norm")


@pytest.mark.parametrize("method", WITHOUT_DELTA)
def test_its_own_form_is_exported_inspected_and_read(tiny_base: Base, tmp_path: Path, method: str) -> None:
    adapter, path = random_adapter_of(tiny_base, method), tmp_path / "a.safetensors"
    report = export_adapter(adapter, path, "pigment", "fp32", tiny_base)
    assert report.keys_matched == report.keys_expected == report.keys_written
    assert report.delta_error == 0
    about = inspect_adapter(path)
    assert (about["method"], about["rank"], about["modules"]) == (method, adapter.rank, len(adapter.factors))
    assert about["family"] == "sd15"
    back = read_adapter(path)
    back.check(tiny_base)
    part, said = read_part(path, tiny_base)
    assert part.factors.keys() == adapter.factors.keys() and not said.left
    damaged = replace(adapter, factors={**adapter.factors, "unet.mid_block.nowhere": first(adapter)})
    write_adapter(damaged, path, "pigment", "fp32")
    part, said = read_part(path, tiny_base)
    assert part.factors.keys() == adapter.factors.keys()
    assert all("the base has no such module" in line for line in said.left) and said.left


def first(adapter: Adapter) -> Any:
    return next(iter(adapter.factors.values()))
