"""What of PEFT's folders is refused, and that a refusal leaves what was there."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.adapter import Adapter, Factors, LowRank
from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.formats.peft import inspect_peft, read_peft, write_peft
from tests.pipelines.making import few, random_adapter_of

Maker = Callable[[str], Base]


@pytest.fixture
def written(base_of: Maker, tmp_path: Path) -> Path:
    """A LoRA on UNet and text encoder, in PEFT's form."""
    base = base_of("sd15")
    write_peft(random_adapter_of(base, "lora", few(base, "lora")), tmp_path / "zwx", "fp32")
    return tmp_path / "zwx"


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "unet" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"made_up": 3}, "made_up"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING"),
        ({"peft_type": ["LORA"]}, "LORA"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "pattern"),
        ({"alpha_pattern": [1]}, "pattern"),
        ({"peft_type": "LOHA"}, "isn't understood"),
    ],
)
def test_settings_that_cannot_be_honoured_are_named(
    written: Path, fields: dict[str, Any], message: str
) -> None:
    change_config(written, **fields)
    with pytest.raises(AdapterError, match=message) as caught:
        read_peft(written)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    with pytest.raises(AdapterError):
        inspect_peft(written)


def damage_missing_half(folder: Path) -> None:
    path = folder / "unet" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(key for key in tensors if "lora_A" in key))
    save_file(tensors, path)


def damage_extra_tensor(folder: Path) -> None:
    path = folder / "unet" / "adapter_model.safetensors"
    save_file({**load_file(path), "base_model.model.conv_in.base_layer.bias": torch.ones(4)}, path)


def damage_bits(folder: Path) -> None:
    path = folder / "unet" / "adapter_model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)


def damage_nan(folder: Path) -> None:
    path = folder / "unet" / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0] = float("nan")
    save_file(tensors, path)


def damage_config_text(folder: Path) -> None:
    (folder / "unet" / "adapter_config.json").write_text("{")


def damage_config_list(folder: Path) -> None:
    (folder / "unet" / "adapter_config.json").write_text("[1]")


def damage_config_size(folder: Path) -> None:
    change_config(folder, base_model_name_or_path="x" * 1_000_001)


def damage_pickle(folder: Path) -> None:
    path = folder / "unet" / "adapter_model.safetensors"
    path.rename(path.with_name("adapter_model.bin"))


def damage_gone(folder: Path) -> None:
    (folder / "unet" / "adapter_model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing_half, "has no down"),
        (damage_extra_tensor, "isn't understood"),
        (damage_bits, "damaged"),
        (damage_nan, "finite"),
        (damage_config_text, "isn't JSON"),
        (damage_config_list, "no settings"),
        (damage_config_size, "at most 1,000,000"),
        (damage_pickle, "never opened"),
        (damage_gone, "can't be read"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(
    written: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(written)
    with pytest.raises(AdapterError, match=message) as caught:
        read_peft(written)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_vera_without_its_matrices_is_refused(base_of: Maker, tmp_path: Path) -> None:
    config = peft.VeraConfig(r=2, target_modules=["to_q"], save_projection=False)
    peft.get_peft_model(copy.deepcopy(base_of("sd15").unet), config).save_pretrained(tmp_path / "unet")
    with pytest.raises(AdapterError, match="save_projection"):
        read_peft(tmp_path, family="sd15")


def test_what_peft_cannot_hold_is_refused(base_of: Maker, tmp_path: Path) -> None:
    base = base_of("sd15")
    out = tmp_path / "out"
    lora, dora = (random_adapter_of(base, method, few(base, method)) for method in ("lora", "dora"))
    half = {**lora.factors, next(iter(dora.factors)): next(iter(dora.factors.values()))}
    vectors = {"text_encoder": torch.ones(1, 32)}
    huge = LowRank(down=torch.full((1, 32), 1e6), up=torch.ones(32, 1), alpha=1.0)
    oft = {
        f"unet.mid_block.{index}": Factors(method="oft", parts={"oft_r": torch.ones(4, size)})
        for index, size in enumerate((3, 6))
    }
    cases: list[tuple[Adapter, str]] = [
        (random_adapter_of(base, "locon"), "LoCon"),
        (random_adapter_of(base, "full", few(base, "full")), "Full difference"),
        (random_adapter_of(base, "dora", few(base, "dora"), variant=1), "per input"),
        (replace(lora, factors=half), "one method per component"),
        (replace(lora, tokens={"<x>": vectors}), "tokens"),
        (Adapter(name="none"), "empty"),
        (Adapter(name="huge", factors={"unet.conv_in": huge}), "fp16"),
        (Adapter(name="blocks", factors=oft), "block size"),
    ]
    for adapter, message in cases:
        with pytest.raises(AdapterError, match=message) as caught:
            write_peft(adapter, out)
        assert len(str(caught.value)) < 300
        assert list(tmp_path.iterdir()) == [], "a refused adapter leaves nothing behind"
    with pytest.raises(AdapterError, match="fp8"):
        write_peft(lora, out, "fp8")


def test_an_earlier_adapter_is_replaced_and_other_folders_are_not(base_of: Maker, written: Path) -> None:
    base = base_of("sd15")
    unet = [name for name in few(base, "ia3") if name.startswith("unet.")]
    write_peft(random_adapter_of(base, "ia3", unet), written)
    assert read_peft(written).method == "ia3"
    assert [path.name for path in written.iterdir()] == ["unet"], "nothing of the former is left"
    assert [path.name for path in written.parent.iterdir()] == [written.name]
    other = written.parent / "pictures"
    other.mkdir()
    (other / "a.png").write_bytes(b"x")
    with pytest.raises(AdapterError, match="there already"):
        write_peft(random_adapter_of(base, "ia3", unet), other)
    assert (other / "a.png").read_bytes() == b"x"


def test_a_failing_disk_leaves_the_former_adapter(
    base_of: Maker, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipelines.formats.peft_writing as writing

    before = read_peft(written).sha256

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_atomic", full)
    base = base_of("sd15")
    with pytest.raises(AdapterError, match="No space left"):
        write_peft(random_adapter_of(base, "ia3", few(base, "ia3")), written)
    assert read_peft(written).sha256 == before
    assert [path.name for path in written.parent.iterdir()] == [written.name]
