"""Every method in every form that holds it, for every family: the same ΔW comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.adapter import Adapter, AnyFactors, Factors
from pipelines.base import Base, load_base
from pipelines.errors import AdapterError
from pipelines.families import FAMILIES
from pipelines.formats import FORMATS, inspect_adapter, read_adapter, write_adapter
from pipelines.formats.kohya import write_key
from pipelines.methods import METHODS
from pipelines.places import places, weight_shape
from tests.pipelines.making import WITHOUT_DELTA, modules_for, random_adapter_of
from tests.tiny import random_adapter

MODULE = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture(scope="module")
def bases(tiny_folders: dict[str, Path]) -> dict[str, Base]:
    """A tiny base of every family; only their weights are looked at."""
    return {family: load_base(folder, device="cpu") for family, folder in tiny_folders.items()}


@cache
def _some(base: Base, method: str) -> tuple[str, ...]:
    """One module of each component and kernel that a method can sit on."""
    chosen: dict[tuple[str, tuple[int, ...]], str] = {}
    layers = places(base)[METHODS[method].on_attention]
    for name in modules_for(base, method):
        chosen.setdefault((name.split(".")[0], weight_shape(layers[name])[2:]), name)
    return tuple(chosen.values())


def assert_same_deltas(base: Base, one: Adapter, other: Adapter, error: float = 1e-5) -> None:
    """Fail unless ΔW and the change of the bias agree in every module."""
    assert one.factors.keys() == other.factors.keys()
    layers = base.weighted()
    for name, factor in one.factors.items():
        if not factor.has_delta:
            assert factor.parts.keys() == other.factors[name].parts.keys()
            for part, expected in factor.parts.items():
                found = other.factors[name].parts[part]
                assert float((expected - found).norm() / expected.norm()) <= error, name
            continue
        layer = layers[name]
        assert isinstance(layer.weight, Tensor)
        expected, found = factor.delta(layer.weight), other.factors[name].delta(layer.weight)
        assert float((expected - found).norm() / expected.norm()) <= error, name
        if isinstance(layer.bias, Tensor):
            changes = [each.factors[name].bias_delta(layer.bias) for each in (one, other)]
            assert (changes[0] is None) == (changes[1] is None), name
            if changes[0] is not None and changes[1] is not None:
                assert torch.allclose(changes[0], changes[1], atol=1e-5), name


HELD = [
    (method, format)
    for format, row in FORMATS.items()
    for method in METHODS
    if format != "embedding" and row.holds(method)
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("method", "format"), HELD)
def test_every_method_comes_back(
    bases: dict[str, Base], tmp_path: Path, family: str, method: str, format: str
) -> None:
    base = bases[family]
    adapter = random_adapter_of(base, method, _some(base, method), alpha=3.0)
    path = tmp_path / ("adapter" if FORMATS[format].kind == "folder" else "adapter.safetensors")
    write_adapter(adapter, path, format, "fp32")
    back = read_adapter(path, family=family)
    back.check(base)
    # In kohya files an empty out_proj stands for each text encoder that has none, see `kohya.anchored`.
    added = back.factors.keys() - adapter.factors.keys()
    assert len(added) == (len(FAMILIES[family].text_encoders) if format == "kohya" else 0)
    assert not any(back.factors[module].delta().any() for module in added)
    kept = {module: factors for module, factors in back.factors.items() if module not in added}
    assert_same_deltas(base, adapter, replace(back, factors=kept))
    assert (back.method, back.methods, back.family) == (method, (method,), family)
    assert (back.name, back.triggers, back.rank) == ("tiny", ("zwx",), adapter.rank)
    about = inspect_adapter(path, family=family)
    assert (about["format"], about["method"], about["family"], about["rank"]) == (
        FORMATS[format].id if format != "lycoris" or method != "lora" else "kohya",
        method,
        family,
        adapter.rank,
    )
    assert about["modules"] == len(back.factors)
    assert about["components"] == list(adapter.components)


@pytest.mark.parametrize("method", METHODS)
def test_the_other_layout_of_a_method_comes_back_or_is_refused(
    bases: dict[str, Base], tmp_path: Path, method: str
) -> None:
    """Tucker's cores, magnitudes per input, scales per output: lost nowhere."""
    base = bases["sdxl"]
    adapter = random_adapter_of(base, method, _some(base, method), variant=1)
    kept = 0
    for format in ("lycoris", "pigment"):
        path = tmp_path / f"{format}.safetensors"
        try:
            write_adapter(adapter, path, format, "fp32")
        except AdapterError:
            assert format != "pigment"
            continue
        assert_same_deltas(base, adapter, read_adapter(path, family="sdxl"))
        kept += 1
    assert kept


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_rounding_is_small(bases: dict[str, Base], tmp_path: Path, method: str, dtype: str) -> None:
    """Also where a vector multiplies the whole weight: such ones are kept in fp32."""
    base = bases["sd15"]
    adapter = random_adapter_of(base, method, _some(base, method)[:4], strength=0.05)
    write_adapter(adapter, tmp_path / "a.safetensors", "pigment", dtype)
    error = {"fp16": 2e-3, "bf16": 1.6e-2}[dtype]
    assert_same_deltas(base, adapter, read_adapter(tmp_path / "a.safetensors"), error)


@pytest.mark.parametrize(
    ("method", "format"),
    [(m, f) for f, row in FORMATS.items() for m in METHODS if f != "embedding" and not row.holds(m)],
)
def test_a_form_refuses_what_it_cant_hold(
    bases: dict[str, Base], tmp_path: Path, method: str, format: str
) -> None:
    base = bases["sd15"]
    adapter = random_adapter_of(base, method, _some(base, method)[:1])
    path = tmp_path / ("adapter" if FORMATS[format].kind == "folder" else "adapter.safetensors")
    plain = f"{format} form can't hold; write it as .*pigment.*--as-lora --rank N"
    beside = f"{format} form can't hold: .* and have no ΔW; write it as (lycoris or )?pigment$"
    with pytest.raises(AdapterError, match=beside if method in WITHOUT_DELTA else plain):
        write_adapter(adapter, path, format)
    assert list(tmp_path.iterdir()) == []


def test_methods_may_differ_by_module(bases: dict[str, Base], tmp_path: Path) -> None:
    base = bases["sd15"]
    factors: dict[str, AnyFactors] = {}
    for index, method in enumerate(METHODS):
        name = _some(base, method)[index % len(_some(base, method))]
        factors |= random_adapter_of(base, method, [name], seed=index).factors
    adapter = Adapter(name="mixed", factors=factors, method="lora")
    write_adapter(adapter, tmp_path / "a.safetensors", "pigment", "fp32")
    back = read_adapter(tmp_path / "a.safetensors")
    assert back.methods == adapter.methods
    assert len(back.methods) > 5
    assert_same_deltas(base, adapter, back)


def test_lycoris_files_state_their_algorithm(bases: dict[str, Base], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    base = bases["sdxl"]
    write_adapter(random_adapter_of(base, "lokr"), path, "lycoris")
    metadata = inspect_adapter(path)["metadata"]
    assert metadata["ss_network_module"] == "lycoris.kohya"
    assert json.loads(metadata["ss_network_args"]) == {"algo": "lokr"}
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert any(key.startswith("lora_unet_input_blocks_4_1_") for key in load_file(path))


def test_lokr_and_loha_are_written_without_a_scale(bases: dict[str, Base], tmp_path: Path) -> None:
    """ComfyUI ignores alpha where LoKr's halves are full: every reader must see the same ΔW."""
    base = bases["sd15"]
    name = _some(base, "lokr")[0]
    weight = base.weighted()[name].weight
    assert isinstance(weight, Tensor)
    rows, columns = 4, 4
    halves = {
        "lokr_w1": torch.randn(rows, columns),
        "lokr_w2": torch.randn(weight.shape[0] // rows, weight.shape[1] // columns, *weight.shape[2:]),
    }
    full = Factors(method="lokr", parts=halves, alpha=3.0, options={"rank": 4})
    factored = random_adapter_of(base, "lokr", _some(base, "lokr")[1:], alpha=0.5)
    adapter = replace(factored, factors={name: full, **factored.factors})
    path = tmp_path / "a.safetensors"
    write_adapter(adapter, path, "lycoris", "fp32")
    assert_same_deltas(base, adapter, read_adapter(path))
    tensors = load_file(path)
    stem = write_key(name, "alpha", base.family).removesuffix(".alpha")
    plain = torch.kron(tensors[f"{stem}.lokr_w1"], tensors[f"{stem}.lokr_w2"].flatten(1))
    assert torch.allclose(plain, full.delta(weight).flatten(1), atol=1e-5)
    for module, factor in read_adapter(path).factors.items():
        assert factor.rank in (0, factor.alpha), module
    write_adapter(random_adapter_of(base, "loha", _some(base, "loha"), alpha=3.0), path, "lycoris")
    assert all(factor.rank == factor.alpha for factor in read_adapter(path).factors.values())


def test_both_spellings_in_one_file_are_read_unless_a_module_stands_twice(
    bases: dict[str, Base], tmp_path: Path
) -> None:
    """Other readers drop half of such a file or refuse it; here each module is what counts."""
    adapter = random_adapter(bases["sdxl"])
    path = tmp_path / "a.safetensors"
    write_adapter(adapter, path, "kohya", "fp32")
    mixed: dict[str, torch.Tensor] = {}
    doubled: dict[str, torch.Tensor] = {}
    for key, value in load_file(path).items():
        own = key.replace("lora_unet_input_blocks_4_1_", "lora_unet_down_blocks_1_attentions_0_")
        mixed[own] = value
        doubled |= {key: value, own: value.clone()}
    save_file(mixed, path)
    assert_same_deltas(bases["sdxl"], adapter, read_adapter(path, family="sdxl"))
    save_file(doubled, path)
    with pytest.raises(AdapterError, match="names one module twice"):
        read_adapter(path)


@pytest.mark.parametrize("variant", ["processor", "plain"])
def test_old_diffusers_files_are_read(bases: dict[str, Base], tmp_path: Path, variant: str) -> None:
    adapter = random_adapter(bases["sd15"], rank=4, alpha=4.0)
    path = tmp_path / "a.safetensors"
    tensors: dict[str, torch.Tensor] = {}
    for name, factor in adapter.factors.items():
        component, place = name.split(".", 1)
        stem, layer = place.removesuffix(".0").rsplit(".", 1)
        if component == "unet" and variant == "processor":
            start = f"unet.{stem}.processor.{layer}_lora"
        elif component == "unet":
            start = f"unet.{place}.lora"
        else:
            start = f"text_encoder.text_model.{place}.lora_linear_layer"
        tensors |= {f"{start}.down.weight": factor.parts["down"], f"{start}.up.weight": factor.parts["up"]}
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    assert_same_deltas(bases["sd15"], adapter, read_adapter(path))


def test_dora_in_diffusers_own_form_is_read(tiny_base: Base, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    config = LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "conv1"], use_dora=True)
    plain = load_base(tiny_base.path, device="cpu")
    tiny_base.unet.add_adapter(config)
    for name, parameter in tiny_base.unet.named_parameters():
        if "lora_" in name:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(tiny_base.unet),
        unet_lora_adapter_metadata={**config.to_dict(), "target_modules": None},
    )
    back = read_adapter(tmp_path)
    assert back.method == "dora"
    back.check(plain)
    for name, factor in back.factors.items():
        layer = tiny_base.unet.get_submodule(name.removeprefix("unet."))
        weight = plain.weighted()[name].weight
        assert isinstance(weight, Tensor)
        layer.merge()
        assert torch.allclose(layer.base_layer.weight - weight, factor.delta(weight), atol=1e-5), name
