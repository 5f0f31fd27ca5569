"""Bases in fewer bits: the mechanism by a stand-in, and every library that is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipelines import quantised
from pipelines.base import Base, load_base
from pipelines.device import Device, Placement, choose_device
from pipelines.errors import ConfigError
from pipelines.generate import GenerationConfig, generate
from pipelines.grids import psnr
from pipelines.mixer import Mixer
from pipelines.preparing import prepare, restore
from pipelines.quantised import QUANTISED, Quantiser, check_quantiser, dequantised, quantise
from tests.pipelines.making import random_adapter_of
from tests.tiny import random_adapter, save_tiny_pipeline, target_modules

CPU = torch.device("cpu")
CONFIG = GenerationConfig(prompt="a cat", seed=1, num_inference_steps=3)


class Rounded(torch.Tensor):
    """Numbers rounded to 1/64, of a kind that can't be written into."""

    def dequantize(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


class RoundedLinear(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(input, self.weight.as_subclass(torch.Tensor), self.bias)


def stand_in(layer: nn.Linear) -> nn.Linear:
    if layer.out_features == 16:  # a shape that it can't hold
        return layer
    made = RoundedLinear(layer.in_features, layer.out_features, bias=False, device="meta")
    made.bias = layer.bias
    del made.weight
    made.weight = ((layer.weight.data * 64).round() / 64).as_subclass(Rounded)
    return made


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    made = Quantiser(
        label="stand-in", bits=8.0, package="json", extra="quant", needs="nothing", layer=stand_in
    )
    monkeypatch.setitem(QUANTISED, "stand-in", made)
    yield "stand-in"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose layers are wide enough for groups of 64 numbers."""
    unet = {"block_out_channels": (64, 64), "attention_head_dim": 8}
    return save_tiny_pipeline(tmp_path_factory.mktemp("wide") / "base", unet=unet)


def outputs(base: Base) -> torch.Tensor:
    made = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 4, 8, 8, generator=made), torch.randn(2, 16, 32, generator=made)
    with torch.no_grad():
        found: torch.Tensor = base.unet(latents.to(base.dtype), torch.tensor(300), text.to(base.dtype)).sample
    return found.float()


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def on_cpu(name: str | None, offload: Any = "none") -> Device:
    return Device(CPU, torch.float32, quantise=name, offload=offload)


def test_only_layers_of_the_unets_attention_are_quantised(tiny_base: Base, row: str) -> None:
    others = {
        name: layer.weight.clone()
        for name, layer in tiny_base.modules().items()
        if ".attentions." not in name
    }
    plain = outputs(tiny_base)
    prepare(tiny_base, on_cpu(row))
    kinds = {name: type(layer) for name, layer in tiny_base.modules().items()}
    rounded = [name for name, kind in kinds.items() if kind is RoundedLinear]
    assert rounded
    assert all(".attentions." in name for name in rounded)
    left = [name for name, kind in kinds.items() if ".attentions." in name and kind is nn.Linear]
    assert all(tiny_base.modules()[name].weight.shape[0] == 16 for name in left)
    for name, weight in others.items():
        assert torch.equal(tiny_base.modules()[name].weight, weight)
    assert 0 < relative(outputs(tiny_base), plain) < 0.2


def test_layers_are_counted_and_none_is_an_error(tiny_base: Base, row: str) -> None:
    linear = [
        layer
        for name, layer in tiny_base.modules().items()
        if name.startswith("unet.") and ".attentions." in name and type(layer) is nn.Linear
    ]
    assert quantise(tiny_base.unet, row, CPU) == sum(layer.out_features != 16 for layer in linear) > 0
    with pytest.raises(ConfigError, match="found no layer"):
        quantise(tiny_base.unet, row, CPU)


def test_quantised_twice_and_otherwise(tiny_base: Base, row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tiny_base, on_cpu(row))
    once = outputs(tiny_base)
    prepare(tiny_base, on_cpu(row, "blocks"))
    assert torch.equal(outputs(tiny_base), once)
    restore(tiny_base)
    assert torch.equal(outputs(tiny_base), once)
    for asked, words in ((None, "asked for not"), ("int8", "asked for in 'int8'")):
        with pytest.raises(ConfigError, match=words):
            prepare(tiny_base, on_cpu(asked))
    assert torch.equal(outputs(tiny_base), once)


def test_layers_that_cant_visit_are_refused(tiny_base: Base) -> None:
    plain = outputs(tiny_base)
    for name in ("nf4", "bnb-int8"):
        with pytest.raises(ConfigError, match="choose offload 'parts' or one of int8-w8a8, int8, "):
            prepare(tiny_base, on_cpu(name, "blocks"))
    assert torch.equal(outputs(tiny_base), plain)


def test_a_mix_over_the_stand_in(tiny_base: Base, row: str) -> None:
    lora = random_adapter(tiny_base, target_modules(tiny_base, "all", "none"), strength=0.1)
    dora = random_adapter_of(tiny_base, "dora", seed=2, strength=0.1)
    other = load_base(tiny_base.path, device="cpu")
    prepare(tiny_base, on_cpu(row))
    for name, layer in tiny_base.modules().items():  # the same numbers, plain
        if type(layer) is RoundedLinear:
            own = other.modules()[name]
            own.weight.data = (own.weight.data * 64).round() / 64
    plain = outputs(tiny_base)
    with Mixer(tiny_base) as mixer, Mixer(other) as reference:
        for each in (mixer, reference):
            each.add("lora", lora)
            each.add("dora", dora)
            each.set({"lora": 0.8, "dora": 0.5})
        assert (mixer.route, reference.route) == ("unfused", "fused")
        assert relative(outputs(tiny_base), outputs(other)) < 2e-5
        assert relative(outputs(tiny_base), plain) > 1e-2
        mixer.set({})
        assert torch.equal(outputs(tiny_base), plain)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torchao", "bitsandbytes", "optimum", "optimum.quanto"):
        monkeypatch.setitem(sys.modules, package, None)
    for name, row in QUANTISED.items():
        if not row.extra:
            choose_device("cpu", None, Placement(quantise=name))
            continue
        with pytest.raises(ConfigError) as caught:
            choose_device("cpu", None, Placement(quantise=name))
        assert f'pip install "pigment-studio[{row.extra}]"' in str(caught.value)
        assert "\n" not in str(caught.value)


def _raise(layer: nn.Linear) -> nn.Linear:
    raise AssertionError("needs a card\nand more")


def _zero(layer: nn.Linear) -> nn.Linear:
    layer.weight.data.zero_()
    return layer


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (_raise, r"doesn't run on cpu in float32 \(needs a card\); it needs a big machine"),
        (_zero, "gives wrong numbers on cpu in float32"),
        (lambda layer: layer, "gives wrong numbers"),
    ],
)
def test_what_fails_the_trial_is_refused(
    layer: Callable[[nn.Linear], nn.Linear], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Quantiser(label="", bits=8, package="json", extra="quant", needs="a big machine", layer=layer)
    monkeypatch.setitem(QUANTISED, "made-up", row)
    with pytest.raises(ConfigError, match=words):
        check_quantiser("made-up", CPU, torch.float32)
    with pytest.raises(ConfigError, match="unknown quantisation 'int9'; did you mean"):
        check_quantiser("int9", CPU, torch.float32)


def test_a_layer_that_fails_is_named(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Quantiser(label="", bits=8, package="json", extra="quant", needs="a big machine", layer=_raise)
    monkeypatch.setitem(QUANTISED, "made-up", row)
    with pytest.raises(ConfigError, match=r"fails at unet\.down_blocks.*it needs a big machine"):
        quantise(tiny_base.unet, "made-up", CPU)


def test_the_trial_leaves_the_random_numbers_alone(row: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    check_quantiser(row, CPU, torch.float32)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", list(QUANTISED))
def test_every_library_draws_and_mixes(name: str, folder: Path) -> None:
    """A picture near the plain one's, the same mix by LoRA and DoRA, and at zero the base bit for bit."""
    pytest.importorskip(QUANTISED[name].package, reason=f"{QUANTISED[name].package} isn't installed")
    try:
        chosen = choose_device("cpu", None, Placement(quantise=name))
    except ConfigError as error:
        assert QUANTISED[name].needs in str(error)
        pytest.skip(str(error))
    reference, base = load_base(folder, device="cpu"), load_base(folder, device="cpu")
    adapters = {
        "lora": random_adapter(reference, target_modules(reference, "all", "none"), strength=0.1),
        "dora": random_adapter_of(reference, "dora", seed=2, strength=0.1),
    }
    prepare(base, chosen)
    assert f"UNet in {name}" in chosen.describe()
    plain, picture = outputs(base), generate(base, CONFIG)[0].image
    coarse = QUANTISED[name].bits < 8
    assert 0 < relative(plain, outputs(reference)) < (0.1 if coarse else 0.02)
    assert psnr(picture, generate(reference, CONFIG)[0].image) > (20 if coarse else 30)
    with Mixer(base) as mixer, Mixer(reference) as exact:
        for each in (mixer, exact):
            for key, adapter in adapters.items():
                each.add(key, adapter)
            each.set({"lora": 0.8, "dora": 0.5})
        assert (mixer.route, exact.route) == ("unfused", "fused")
        assert relative(outputs(base), outputs(reference)) < (0.1 if coarse else 0.02)
        assert relative(outputs(base), plain) > 0.05
        assert generate(base, CONFIG)[0].image.tobytes() != picture.tobytes()
        mixer.set({})
        assert torch.equal(outputs(base), plain)
    assert generate(base, CONFIG)[0].image.tobytes() == picture.tobytes()
    if QUANTISED[name].moves:
        prepare(base, on_cpu(name, "blocks"))
        assert torch.equal(outputs(base), plain)


def test_what_bitsandbytes_layers_stand_for() -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes isn't installed")
    for name in ("nf4", "bnb-int8"):
        torch.manual_seed(0)
        layer = nn.Linear(64, 32).requires_grad_(False)
        weight = layer.weight.detach().clone()
        made = QUANTISED[name].layer(layer)
        for _ in range(2):  # a pass moves what it keeps
            found = dequantised(made)
            assert found is not None
            assert 0 < relative(found, weight) < 0.15
            with torch.no_grad():
                made(torch.randn(3, 64))
    assert dequantised(nn.Linear(2, 2)) is None


def test_the_extras_are_there() -> None:
    import tomllib

    project = tomllib.loads((Path(quantised.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for row in (row for row in QUANTISED.values() if row.extra):
        brought = " ".join(project["optional-dependencies"][row.extra])
        assert {"optimum.quanto": "optimum-quanto"}.get(row.package, row.package) in brought
