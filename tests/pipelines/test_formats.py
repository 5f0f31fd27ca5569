"""Adapter files: every form gives the same ΔW back, reproducibly, in the spellings of other tools."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipelines.adapter import Adapter, AnyFactors, LowRank
from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.files import file_sha256
from pipelines.formats import FORMATS, WRITE_DTYPES, inspect_adapter, read_adapter, write_adapter
from pipelines.formats.container import read_header
from tests.tiny import random_adapter, target_modules

# The forms that hold plain LoRA in one file.
FORMS = [row.id for row in FORMATS.values() if row.kind == "file" and row.holds("lora")]
ERROR = {"fp16": 1e-3, "bf16": 8e-3, "fp32": 1e-6}


def delta_error(one: Adapter, other: Adapter) -> float:
    """The largest relative Frobenius error of any module's ΔW."""
    assert one.factors.keys() == other.factors.keys()
    return max(
        float(
            (one.factors[name].delta() - other.factors[name].delta()).norm()
            / one.factors[name].delta().norm()
        )
        for name in one.factors
    )


@pytest.mark.parametrize("format", FORMS)
@pytest.mark.parametrize("dtype", WRITE_DTYPES)
def test_round_trip_keeps_every_delta(tiny_base: Base, tmp_path: Path, format: str, dtype: str) -> None:
    alpha = {"fp16": 1.0, "bf16": 4.0, "fp32": 100.5}[dtype]
    everything = target_modules(tiny_base, "all", "attention+mlp")
    adapter = random_adapter(tiny_base, everything, rank=4, alpha=alpha, name='Zwölf, "x"')
    path = tmp_path / "adapter.safetensors"
    sha256 = write_adapter(adapter, path, format, dtype)
    back = read_adapter(path)
    assert delta_error(adapter, back) <= ERROR[dtype]
    assert (back.name, back.family, back.method, back.rank) == (adapter.name, "sd15", "lora", 4)
    assert back.triggers == ("zwx",)
    assert back.metadata["steps"] == "300"
    assert back.sha256 == sha256 == file_sha256(path)
    back.check(tiny_base)


@pytest.mark.parametrize("format", FORMS)
def test_differing_alphas_and_ranks_are_folded(tiny_base: Base, tmp_path: Path, format: str) -> None:
    mixed: dict[str, AnyFactors] = {}
    for index, module in enumerate(target_modules(tiny_base)):
        part = random_adapter(tiny_base, [module], rank=1 + index % 4, alpha=(0.5, 4.0, 0.0, -3.0)[index % 4])
        mixed |= part.factors
    adapter = Adapter(name="mixed", factors=mixed)
    path = tmp_path / "mixed.safetensors"
    write_adapter(adapter, path, format, "fp32")
    back = read_adapter(path)
    for name, factor in mixed.items():
        assert torch.allclose(back.factors[name].delta(), factor.delta(), atol=1e-6), name
    if format == "kohya":
        for component in ("unet", "text_encoder"):
            assert len({f.alpha for name, f in back.factors.items() if name.startswith(component)}) == 1


@pytest.mark.parametrize("format", FORMS)
def test_writing_twice_gives_the_same_bytes(tiny_base: Base, tmp_path: Path, format: str) -> None:
    adapter = random_adapter(tiny_base)
    paths = [tmp_path / f"{index}.safetensors" for index in range(2)]
    shuffled = Adapter(
        name=adapter.name,
        factors=dict(reversed(list(adapter.factors.items()))),
        triggers=adapter.triggers,
        metadata=dict(reversed({**adapter.metadata, "b": "2", "a": "1"}.items())),
    )
    first = Adapter(
        name=adapter.name,
        factors=adapter.factors,
        triggers=adapter.triggers,
        metadata={**adapter.metadata, "a": "1", "b": "2"},
    )
    assert write_adapter(first, paths[0], format) == write_adapter(shuffled, paths[1], format)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("format", FORMS)
def test_a_second_round_trip_changes_nothing(tiny_base: Base, tmp_path: Path, format: str) -> None:
    paths = [tmp_path / f"{index}.safetensors" for index in range(2)]
    first = write_adapter(random_adapter(tiny_base), paths[0], format)
    assert write_adapter(read_adapter(paths[0]), paths[1], format) == first


def test_kohya_files_spell_keys_and_metadata_as_other_tools_do(tiny_base: Base, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(random_adapter(tiny_base, rank=4, alpha=8.0), path, "kohya")
    tensors = load_file(path)
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0"
    text = "lora_te_text_model_encoder_layers_0_self_attn_out_proj"
    for name in (stem, text):
        assert tensors[f"{name}.lora_down.weight"].shape[0] == 4
        assert tensors[f"{name}.lora_up.weight"].dtype == torch.float16
        assert tensors[f"{name}.alpha"].item() == 8.0
        assert tensors[f"{name}.alpha"].shape == ()
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "8")
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.trigger_phrase"] == "zwx"
    assert "lora_adapter_metadata" not in metadata
    assert "ot_branch" not in metadata


def test_foreign_metadata_is_carried_and_stale_facts_are_renewed(tiny_base: Base, tmp_path: Path) -> None:
    kept = {"ss_tag_frequency": '{"a": 1}', "modelspec.author": "me", "note": "own"}
    stale = {"ss_network_dim": "99", "modelspec.hash_sha256": "0xdead", "modelspec.title": "old"}
    adapter = Adapter(name="new", factors=random_adapter(tiny_base).factors, metadata={**kept, **stale})
    path = tmp_path / "a.safetensors"
    write_adapter(adapter, path)
    with safe_open(path, "pt") as file:
        written = file.metadata()
    assert written["ss_tag_frequency"] == kept["ss_tag_frequency"]
    assert "note" not in written
    assert json.loads(written["pigment"])["metadata"] == {"note": "own"}
    assert (written["ss_network_dim"], written["modelspec.title"]) == ("4", "new")
    assert written["modelspec.hash_sha256"] != "0xdead"
    back = read_adapter(path).metadata
    assert all(back[key] == value for key, value in kept.items())


def test_a_kohya_file_without_alphas_has_scale_one(tiny_base: Base, tmp_path: Path) -> None:
    adapter = random_adapter(tiny_base, alpha=4.0, rank=4)
    path = tmp_path / "a.safetensors"
    write_adapter(adapter, path, "kohya", "fp32")
    tensors = {key: value for key, value in load_file(path).items() if not key.endswith(".alpha")}
    save_file({key.replace("lora_te_", "lora_te1_"): value for key, value in tensors.items()}, path)
    back = read_adapter(path)
    assert delta_error(adapter, back) == 0
    assert back.name == "a"


@pytest.mark.parametrize(
    ("stated", "scale"),
    [
        ({"unet.r": 4, "unet.lora_alpha": 8, "text_encoder.lora_alpha": 8}, 2.0),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True, "text_encoder.lora_alpha": 8.0,
          "text_encoder.use_rslora": True}, 4.0),
        ({"unet.lora_alpha": 1, "unet.alpha_pattern": {"to_q": 12, "^down_blocks": 1, "to_k": 12, "to_v": 12,
          "to_out.0": 12}, "text_encoder.lora_alpha": 12}, 3.0),
        ({}, 1.0),
    ],
)  # fmt: skip
def test_alpha_stated_by_diffusers_metadata_is_honoured(
    tiny_base: Base, tmp_path: Path, stated: dict[str, object], scale: float
) -> None:
    adapter = random_adapter(tiny_base, alpha=4.0, rank=4)
    path = tmp_path / "a.safetensors"
    write_adapter(adapter, path, "diffusers", "fp32")
    save_file(load_file(path), path, metadata={"lora_adapter_metadata": json.dumps(stated)})
    back = read_adapter(path)
    for name, factor in adapter.factors.items():
        assert torch.allclose(back.factors[name].delta(), scale * factor.delta(), rtol=1e-5, atol=1e-7), name


def test_a_file_saved_by_diffusers_itself_is_read(tiny_base: Base, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    config = LoraConfig(
        r=2, lora_alpha=6, target_modules=["to_q", "to_out.0", "conv1"], init_lora_weights=False
    )
    tiny_base.unet.add_adapter(config)
    state = get_peft_model_state_dict(tiny_base.unet)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=state,
        unet_lora_adapter_metadata={**config.to_dict(), "target_modules": None},
    )
    back = read_adapter(tmp_path / "pytorch_lora_weights.safetensors")
    for name, factor in back.factors.items():
        layer = tiny_base.unet.get_submodule(name.removeprefix("unet."))
        assert torch.allclose(factor.delta(), layer.get_delta_weight("default"), atol=1e-6), name
    assert len(back.factors) == len(state) // 2 > 5


def test_inspecting_reads_the_header_only_and_needs_no_torch(tiny_base: Base, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(random_adapter(tiny_base), path)
    about = inspect_adapter(path)
    assert (about["name"], about["format"], about["family"], about["method"]) == (
        "tiny",
        "kohya",
        "sd15",
        "lora",
    )
    assert (about["rank"], about["modules"], about["tensors"], about["dtype"]) == (4, 40, 120, "F16")
    assert about["components"] == ["text_encoder", "unet"]
    assert about["triggers"] == ["zwx"]
    assert about["bytes"] == path.stat().st_size
    program = (
        "import sys; from pipelines.formats import inspect_adapter; inspect_adapter(sys.argv[1]); "
        "assert 'torch' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, cwd=root, timeout=60)


def test_bit_rot_is_noticed(tiny_base: Base, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(random_adapter(tiny_base), path)
    raw = bytearray(path.read_bytes())
    raw[read_header(path).data_start + 1000] ^= 0x01
    path.write_bytes(raw)
    with pytest.raises(AdapterError, match="is damaged: its numbers have SHA-256"):
        read_adapter(path)


def _scaled(factor: AnyFactors, down: float, up: float) -> LowRank:
    return LowRank(factor.parts["down"] * down, factor.parts["up"] * up, factor.alpha)


def test_small_and_large_numbers_survive_fp16(tiny_base: Base, tmp_path: Path) -> None:
    """Factors far out of fp16's range are balanced by powers of two, which ΔW doesn't see."""
    good = random_adapter(tiny_base)
    for down, up in [(1e-6, 1e6), (1e5, 1e-5), (1.0, 1e-7)]:
        factors = {name: _scaled(factor, down, up) for name, factor in good.factors.items()}
        adapter = Adapter(name="scaled", factors=factors)
        path = tmp_path / "a.safetensors"
        write_adapter(adapter, path, "kohya", "fp16")
        assert delta_error(adapter, read_adapter(path)) <= 1e-3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "onnx"}, "unknown format 'onnx'"),
        ({"dtype": "int8"}, "unknown precision 'int8'"),
        ({"path": "a.ckpt"}, "expected a name ending in .safetensors"),
        ({"path": "missing/a.safetensors"}, "can't be written"),
    ],
)
def test_writing_refuses_in_one_line_and_leaves_nothing(
    tiny_base: Base, tmp_path: Path, change: dict[str, str], says: str
) -> None:
    path = tmp_path / change.pop("path", "a.safetensors")
    with pytest.raises(AdapterError, match=says):
        write_adapter(random_adapter(tiny_base), path, **change)
    assert list(tmp_path.iterdir()) == []


def test_writing_refuses_numbers_beyond_fp16_and_unsound_adapters(tiny_base: Base, tmp_path: Path) -> None:
    good = random_adapter(tiny_base)
    name, factor = next(iter(good.factors.items()))
    huge = Adapter(name="huge", factors={name: _scaled(factor, 1e8, 1e8)})
    with pytest.raises(AdapterError, match="beyond fp16"):
        write_adapter(huge, tmp_path / "a.safetensors", dtype="fp16")
    write_adapter(huge, tmp_path / "a.safetensors", dtype="bf16")
    nan = Adapter(name="nan", factors={name: _scaled(factor, float("nan"), 1.0)})
    for adapter in (nan, Adapter(name="empty", factors={})):
        with pytest.raises(AdapterError, match=r"aren't finite|is empty"):
            write_adapter(adapter, tmp_path / "b.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_an_old_file_survives_a_failing_write(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(random_adapter(tiny_base), path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.files.os.fsync", full)
    with pytest.raises(AdapterError, match="No space left"):
        write_adapter(random_adapter(tiny_base, seed=1), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
