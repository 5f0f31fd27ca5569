"""PEFT's folders: written so that PEFT loads the same ΔW, read whole, or refused by name."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file

from pipelines.adapter import Adapter, AnyFactors
from pipelines.base import Base
from pipelines.families import FAMILIES
from pipelines.formats.peft import inspect_peft, is_peft, read_peft, write_peft
from pipelines.methods import METHODS
from tests.pipelines.making import ON_NORMS, few, random_adapter_of, random_factors

WRITTEN = [row.id for row in METHODS.values() if row.peft_type]
# DoRA's magnitudes per input aren't PEFT's: they are refused, see below.
ROUND_TRIPS = [(method, v) for method in WRITTEN for v in (0, 1) if (method, v) != ("dora", 1)]
TOLERANCE = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 8e-3}

Maker = Callable[[str], Base]


def merged_by_peft(base: Base, adapter: Adapter, folder: Path) -> dict[str, torch.Tensor]:
    """ΔW (and `<name>.bias`: Δ of the bias) of each module, as PEFT merges the folder."""
    changes = {}
    for component in adapter.components:
        model = base.component(component)
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder / component)
        after: Any = dict(loaded.merge_and_unload().named_modules())
        before: Any = dict(model.named_modules())
        for path in before:
            name = f"{component}.{path.removeprefix('text_model.')}"
            if name in adapter.factors:
                changes[name] = (after[path].weight - before[path].weight).detach()
                if before[path].bias is not None:
                    changes[f"{name}.bias"] = (after[path].bias - before[path].bias).detach()
    return changes


def assert_same(
    base: Base, factors: Mapping[str, AnyFactors], changes: Mapping[str, torch.Tensor], dtype: str
) -> None:
    for name, factor in factors.items():
        layer: Any = base.weighted()[name]
        expected = factor.delta(layer.weight)
        # PEFT adds ΔW to the weight and the test takes it away again: fp32 rounds by the weight's size.
        rounding = 5e-7 * float(layer.weight.norm())
        allowed = TOLERANCE[dtype] * float(expected.norm()) + rounding
        assert float((changes[name] - expected).norm()) <= allowed, name
        if (bias := changes.get(f"{name}.bias")) is not None:
            moved = factor.bias_delta(layer.bias)
            assert torch.allclose(bias, torch.zeros_like(bias) if moved is None else moved, atol=1e-3), name


def deltas(base: Base, adapter: Adapter) -> dict[str, torch.Tensor]:
    layers: Any = base.weighted()
    return {name: factor.delta(layers[name].weight) for name, factor in adapter.factors.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", WRITTEN)
def test_peft_merges_what_is_written(base_of: Maker, family: str, method: str, tmp_path: Path) -> None:
    base = base_of(family)
    variant = {"ia3": 1, "loha": 1, "lokr": 0, "oft": 1}.get(method, 0)
    modules = [m for m in few(base, method) if not (method == "loha" and m.endswith("proj_in"))]
    adapter = random_adapter_of(base, method, modules, variant=variant)
    assert {name.split(".")[0] for name in modules} == set(base.family.components)
    write_peft(adapter, tmp_path / "out", "fp32")
    assert_same(base, adapter.factors, merged_by_peft(base, adapter, tmp_path / "out"), "fp32")


def test_lokr_with_both_halves_factored(base_of: Maker, tmp_path: Path) -> None:
    base = base_of("sd15")
    modules = [m for m in few(base, "lokr") if m.startswith("unet.")]
    adapter = random_adapter_of(base, "lokr", modules, variant=1, rank=1)
    assert all("lokr_w1_a" in f.parts for f in adapter.factors.values())
    assert any("lokr_t2" in f.parts for f in adapter.factors.values())
    write_peft(adapter, tmp_path / "out", "fp32")
    assert_same(base, adapter.factors, merged_by_peft(base, adapter, tmp_path / "out"), "fp32")


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("method", WRITTEN)
def test_half_precision(base_of: Maker, method: str, dtype: str, tmp_path: Path) -> None:
    base = base_of("sd15")
    adapter = random_adapter_of(base, method, few(base, method)[:6])
    write_peft(adapter, tmp_path / "out", dtype)
    again = read_peft(tmp_path / "out")
    changes = deltas(base, again)
    for name, expected in deltas(base, adapter).items():
        # Numbers near one (IA3's) round by their own size, not by that of the change.
        allowed = TOLERANCE[dtype] * float(expected.norm())
        if METHODS[method].needs_weight:
            weight: Any = base.weighted()[name].weight
            allowed += TOLERANCE[dtype] / 2 * float(weight.norm())
        assert float((changes[name] - expected).norm()) <= allowed, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("method", "variant"), ROUND_TRIPS)
def test_round_trip(base_of: Maker, family: str, method: str, variant: int, tmp_path: Path) -> None:
    base = base_of(family)
    adapter = random_adapter_of(base, method, few(base, method), variant=variant)
    digest = write_peft(adapter, tmp_path / "out", "fp32")
    again = read_peft(tmp_path / "out")
    assert (again.name, again.family, again.method) == (adapter.name, family, method)
    assert (again.triggers, again.metadata["steps"]) == (("zwx",), "300")
    assert again.sha256 == digest
    assert again.factors.keys() == adapter.factors.keys()
    for name, change in deltas(base, again).items():
        layer: Any = base.weighted()[name]
        before = adapter.factors[name]
        assert torch.allclose(change, before.delta(layer.weight), rtol=1e-5, atol=1e-6), name
        assert again.factors[name].rank == before.rank
        if layer.bias is not None:
            found, wanted = again.factors[name].bias_delta(layer.bias), before.bias_delta(layer.bias)
            assert (found is None) == (wanted is None)
            assert found is None or wanted is None or torch.allclose(found, wanted, atol=1e-6)
    assert write_peft(adapter, tmp_path / "twice", "fp32") == digest, "the same adapter, the same bytes"


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr", "adalora"])
def test_mixed_ranks_and_alphas(base_of: Maker, method: str, tmp_path: Path) -> None:
    base = base_of("sd15")
    modules = [name for name in few(base, method) if name.startswith("unet.")]
    factors: dict[str, AnyFactors] = {}
    for index, name in enumerate(modules):
        weight = base.modules()[name].weight.detach()
        kept: dict[str, Any] = {"rank": 1 + index % 3, "alpha": 2.0 + index, "seed": index, "weight": weight}
        factors[name] = random_factors(method, tuple(weight.shape), **kept)
    adapter = Adapter(name="mixed", factors=factors, method=method)
    write_peft(adapter, tmp_path / "out", "fp32")
    assert_same(base, factors, merged_by_peft(base, adapter, tmp_path / "out"), "fp32")
    again = read_peft(tmp_path / "out", family="sd15")
    for name, change in deltas(base, again).items():
        assert torch.allclose(change, factors[name].delta(base.modules()[name].weight), atol=1e-6), name


@pytest.fixture
def written(base_of: Maker, tmp_path: Path) -> Path:
    """A LoRA on UNet and text encoder, in PEFT's form."""
    base = base_of("sd15")
    write_peft(random_adapter_of(base, "lora", few(base, "lora")), tmp_path / "zwx", "fp32")
    return tmp_path / "zwx"


def test_inspection_agrees_with_reading_and_needs_no_torch(written: Path) -> None:
    seen, read = inspect_peft(written), read_peft(written)
    assert seen["format"] == "peft"
    assert (seen["name"], seen["family"], seen["method"]) == (read.name, read.family, read.method)
    assert (seen["rank"], seen["alpha"], seen["modules"]) == (read.rank, read.alpha, len(read.factors))
    assert seen["components"] == list(read.components)
    assert seen["tensors"] == 2 * len(read.factors)
    assert (seen["dtype"], seen["triggers"]) == ("F32", ["zwx"])
    code = (
        "import sys; from pipelines.formats.peft import inspect_peft; "
        f"inspect_peft({str(written)!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("method", WRITTEN)
def test_every_method_is_inspected_by_its_name(base_of: Maker, method: str, tmp_path: Path) -> None:
    base = base_of("sdxl")
    adapter = random_adapter_of(base, method, few(base, method))
    write_peft(adapter, tmp_path / "out")
    seen = inspect_peft(tmp_path / "out")
    assert (seen["method"], seen["family"], seen["rank"]) == (method, "sdxl", adapter.rank)


def test_one_component_alone(written: Path, tmp_path: Path) -> None:
    assert is_peft(written) and is_peft(written / "unet")
    assert is_peft(written / "unet" / "adapter_model.safetensors")
    assert not is_peft(tmp_path) and not is_peft(written / "unet" / "adapter_config.json")
    assert read_peft(written / "unet").components == ("unet",)
    plain = tmp_path / "renamed"
    (written / "text_encoder").rename(plain)
    assert read_peft(plain / "adapter_model.safetensors").components == ("text_encoder",)
    (written / "unet").rename(tmp_path / "other")
    assert read_peft(tmp_path / "other").components == ("unet",)


def test_a_folder_by_peft_itself_tells_its_encoder(base_of: Maker, tmp_path: Path) -> None:
    base = base_of("sdxl")
    model = copy.deepcopy(base.component("text_encoder_2"))
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "x")
    assert read_peft(tmp_path / "x", family="sdxl").components == ("text_encoder_2",)


@pytest.mark.parametrize(("width", "family"), [(768, "sd15"), (1024, "sd2"), (2048, "sdxl")])
def test_the_family_shows_in_the_context_width(width: int, family: str, tmp_path: Path) -> None:
    """As in folders that PEFT wrote for published bases, which say nothing of their family."""
    path = "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{path}.lora_A.weight": torch.ones(2, width), f"{path}.lora_B.weight": torch.ones(640, 2)}
    (tmp_path / "unet").mkdir()
    save_file(tensors, tmp_path / "unet" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3}
    (tmp_path / "unet" / "adapter_config.json").write_text(json.dumps(config))
    adapter = read_peft(tmp_path)
    assert (adapter.family, adapter.alpha) == (family, 3.0)
    assert inspect_peft(tmp_path)["family"] == family
    assert adapter.name == tmp_path.name


def test_settings_of_every_method_by_peft_are_understood(base_of: Maker, tmp_path: Path) -> None:
    """What PEFT writes by default holds no field that is refused."""
    unet = base_of("sd15").unet
    for method in WRITTEN:
        config = METHODS[method].peft_config
        assert config is not None
        targets = ["norm1"] if method in ON_NORMS else ["to_q"]
        wrapped = peft.get_peft_model(copy.deepcopy(unet), config(4, 4.0, targets, 0.0))
        wrapped.save_pretrained(tmp_path / method / "unet")
        assert inspect_peft(tmp_path / method, family="sd15")["method"] == method


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "unet" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_rank_stabilised_scale_is_honoured(written: Path) -> None:
    before = read_peft(written)
    change_config(written, use_rslora=True)
    after = read_peft(written)
    for name, factor in before.factors.items():
        scale = factor.rank**0.5 if name.startswith("unet.") else 1.0
        assert torch.allclose(after.factors[name].delta(), factor.delta() * scale, rtol=1e-5)
