"""Adapter files that are damaged, hostile or of another kind: refused in one line, the base untouched."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipelines.adapter import Adapter
from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.formats import inspect_adapter, read_adapter, write_adapter
from pipelines.mixer import Mixer
from tests.pipelines.making import random_adapter_of
from tests.tiny import assert_unchanged, random_adapter, weights_of

DOWN = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
UP = "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"

HADAMARD = ("w1_a", "w1_b", "w2_a", "w2_b")

Tensors = dict[str, torch.Tensor]


def container(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of a header (JSON-able, or bytes as they are) and its data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BYTES = {
    "empty file": (b"", "holds 0 bytes"),
    "seven bytes": (b"\0" * 7, "holds 7 bytes"),
    "pickle": (b"\x80\x04\x95" + b"\0" * 20, "is a pickle file"),
    "zip pickle": (b"PK\x03\x04" + b"\0" * 20, "is a pickle file"),
    "header of 90 MB": (struct.pack("<Q", 90_000_000) + b"{", "at most 1,000,000 are read"),
    "header of 2^63": (struct.pack("<Q", 2**63) + b"{", "at most 1,000,000 are read"),
    "header cut off": (container(b"{", length=500), "is cut off"),
    "no JSON": (container(b"\xff\xfe{}"), "isn't JSON"),
    "deep JSON": (container(b"[" * 200_000), "isn't JSON"),
    "a list": (container([1, 2]), "holds no names"),
    "a key twice": (container(b'{"a":1,"a":2}'), "isn't JSON"),
    "no tensors": (container({}), "is empty"),
    "only metadata": (container({"__metadata__": {"a": "b"}}), "is empty"),
    "metadata no texts": (container({"__metadata__": {"a": 1}}), "metadata aren't texts"),
    "too many tensors": (
        container({f"a{i}": entry([0], 0, 0) for i in range(20_001)}),
        "at most 20,000|1,000,000",
    ),
    "path in key": (container({"../../etc/x": entry([1], 0, 4)}, b"\0" * 4), "has a tensor named"),
    "dots in key": (container({"a..b": entry([1], 0, 4)}, b"\0" * 4), "has a tensor named"),
    "newline in key": (container({"a\nb": entry([1], 0, 4)}, b"\0" * 4), "has a tensor named"),
    "long key": (container({"a" * 300: entry([1], 0, 4)}, b"\0" * 4), "has a tensor named"),
    "entry no object": (container({"a": 5}), "malformed"),
    "negative shape": (container({"a": entry([-1], 0, 4)}, b"\0" * 4), "malformed"),
    "huge shape": (container({"a": entry([2**61, 2**61], 0, 4)}, b"\0" * 4), "bytes for shape"),
    "boolean shape": (container({"a": entry([True], 0, 4)}, b"\0" * 4), "malformed"),
    "fraction shape": (container({"a": entry([1.5], 0, 6)}, b"\0" * 6), "malformed"),  # type: ignore[list-item]
    "unknown kind": (container({"a": entry([1], 0, 4, "F3")}, b"\0" * 4), "numbers of kind 'F3'"),
    "size against shape": (container({"a": entry([2], 0, 4)}, b"\0" * 4), "bytes for shape"),
    "tensors overlap": (
        container({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, b"\0" * 6),
        "overlap or leave gaps",
    ),
    "gap": (container({"a": entry([1], 4, 8)}, b"\0" * 8), "overlap or leave gaps"),
    "data cut off": (container({"a": entry([4], 0, 16)}, b"\0" * 8), "is cut off"),
    "data left over": (container({"a": entry([1], 0, 4)}, b"\0" * 9), "5 bytes follow"),
}


@pytest.mark.parametrize("kind", BYTES)
def test_broken_bytes_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    raw, says = BYTES[kind]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(raw)
    for reader in (read_adapter, inspect_adapter):
        started = time.process_time()
        with pytest.raises(AdapterError, match=says) as refusal:
            reader(path)
        assert time.process_time() - started < 1.0
        assert "\n" not in str(refusal.value)
        assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_header_whose_length_looks_like_a_pickle_is_read(length: int, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    raw = json.dumps({"<cat>": entry([1, 768], 0, 3072)}).encode().ljust(length)
    path.write_bytes(container(raw, b"\0" * 3072))
    assert inspect_adapter(path)["tokens"] == ["<cat>"]


def _without(tensors: Tensors, *keys: str) -> Tensors:
    return {key: value for key, value in tensors.items() if key not in keys}


def _poisoned(tensors: Tensors, value: float) -> Tensors:
    bad = tensors[UP].clone()
    bad.view(-1)[3] = value
    return {**tensors, UP: bad}


def _kohya_sgm(tensors: Tensors) -> Tensors:
    return {key.replace("down_blocks", "input_blocks"): value for key, value in tensors.items()}


CONTENTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "half a pair": (
        lambda t: _without(t, UP),
        "is incomplete: unet.mid_block.attentions.0.proj_in has no up",
    ),
    "other half": (lambda t: _without(t, DOWN), "has no down factor"),
    "NaN": (lambda t: _poisoned(t, float("nan")), "aren't finite"),
    "infinity": (lambda t: _poisoned(t, float("inf")), "aren't finite"),
    "NaN alpha": (
        lambda t: {**t, DOWN.replace("lora_down.weight", "alpha"): torch.tensor(float("nan"))},
        "finite",
    ),
    "two alphas": (
        lambda t: {**t, DOWN.replace("lora_down.weight", "alpha"): torch.ones(2)},
        "alpha of shape",
    ),
    "int8": (lambda t: {**t, UP: t[UP].to(torch.int8)}, "I8 numbers"),
    "other rank": (lambda t: {**t, UP: t[UP][:, :-1].contiguous()}, "don't fit at"),
    "empty factor": (lambda t: {**t, DOWN: t[DOWN][:0], UP: t[UP][:, :0].contiguous()}, "don't fit at"),
    "three dimensions": (lambda t: {**t, DOWN: t[DOWN].reshape(4, -1, 1)}, "don't fit at"),
    "unknown key": (
        lambda t: {**t, "bundle_emb.x": torch.ones(1)},
        "120 of 121 tensors known.*'bundle_emb.x'",
    ),
    "one module twice": (
        lambda t: {**t, **{k.replace("lora_te_", "lora_te1_"): v.clone() for k, v in t.items()}},
        "names one module twice",
    ),
    "whole model": (
        lambda t: {"model.diffusion_model.out.2.weight": torch.ones(2, 2)},
        "may be a whole model",
    ),
    "half of LoHa": (
        lambda t: {"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.ones(2, 2)},
        "is incomplete: unet.mid_block.attentions.0.proj_in has no hada_w1_b",
    ),
    "LoHa of two ranks": (
        lambda t: {
            f"lora_unet_mid_block_attentions_0_proj_in.hada_{name}": torch.ones(2, 3) for name in HADAMARD
        },
        "don't fit at unet.mid_block.attentions.0.proj_in",
    ),
    "GLoRA": (
        lambda t: {"lora_unet_mid_block_attentions_0_proj_in.a1.weight": torch.ones(2, 2)},
        "holds GLoRA weights",
    ),
    "two methods in one module": (
        lambda t: {**t, UP.replace("lora_up.weight", "hada_w1_a"): torch.ones(2)},
        "that no method puts together: down, hada_w1_a, up",
    ),
    "other number of magnitudes": (
        lambda t: {**t, UP.replace("lora_up.weight", "dora_scale"): torch.ones(2)},
        "don't fit at .*: 2 magnitudes for 32 outputs",
    ),
    "second text encoder, half": (
        lambda t: {**t, "lora_te2_text_projection.lora_up.weight": torch.ones(2, 2)},
        "is incomplete: text_encoder_2.text_projection has no down",
    ),
    "half of an SGM name": (_kohya_sgm, "isn't understood as an adapter"),
    "FLUX": (
        lambda t: {**t, "lora_unet_double_blocks_0_img_attn_qkv.alpha": torch.tensor(1.0)},
        "is an adapter for FLUX; supported: Stable Diffusion 1.x",
    ),
    "SD 3": (
        lambda t: {"transformer.x.lora_A.weight": torch.ones(2, 2)},
        "is an adapter for a transformer model",
    ),
    "PEFT without its folder": (
        lambda t: {"base_model.model.x.lora_A.weight": torch.ones(2, 2)},
        "choose the folder that holds its adapter_config.json",
    ),
    "token without vectors": (lambda t: {"<cat>": torch.ones(0, 768)}, "has a token '<cat>' of shape"),
    "token of whole numbers": (
        lambda t: {"<cat>": torch.ones(2, 768, dtype=torch.int64)},
        "has I64 numbers at token '<cat>'",
    ),
    "token of NaN": (lambda t: {"<cat>": torch.full((2, 768), float("nan"))}, "aren't finite"),
    "no prefix": (
        lambda t: {key.removeprefix("lora_unet_").removeprefix("lora_te_"): v for key, v in t.items()},
        "0 of 120 tensors known",
    ),
    "half of LoKr": (
        lambda t: {"lora_unet_mid_block_attentions_0_proj_in.lokr_w1": torch.ones(2, 2)},
        "don't fit at unet.mid_block.attentions.0.proj_in",
    ),
    "both forms": (
        lambda t: {**t, "unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.ones(2, 2)},
        "120 of 121",
    ),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_bad_contents_are_refused_and_the_base_stays(kind: str, tiny_base: Base, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    modules = list(random_adapter(tiny_base).factors)[:-1] + ["unet.mid_block.attentions.0.proj_in"]
    write_adapter(random_adapter(tiny_base, modules), path)
    change, says = CONTENTS[kind]
    save_file(change(load_file(path)), path)
    mixer = Mixer(tiny_base)
    mixer.add("good", random_adapter(tiny_base))
    mixer.set({"good": 0.7})
    before = weights_of(tiny_base)
    with pytest.raises(AdapterError, match=says) as refusal:
        mixer.add("bad", read_adapter(path))
    with pytest.raises(AdapterError, match=says):
        read_adapter(path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300
    assert mixer.names == ("good",)
    assert_unchanged(tiny_base, before)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"ss_base_model_version": "sd3_medium"}, "is an adapter for SD 3"),
        ({"modelspec.architecture": "Flux.1-dev/lora"}, "is an adapter for FLUX"),
        ({"lora_adapter_metadata": "{"}, "isn't readable"),
        ({"lora_adapter_metadata": '{"unet.use_dora": true}'}, "states DoRA, and .* has no magnitudes"),
        ({"lora_adapter_metadata": '{"unet.lora_alpha": "many"}'}, "isn't readable"),
        ({"lora_adapter_metadata": '{"unet.lora_alpha": 1e999}'}, "isn't finite"),
        ({"lora_adapter_metadata": "[]"}, "isn't readable"),
    ],
)
def test_bad_metadata_is_refused(
    tiny_base: Base, tmp_path: Path, metadata: dict[str, str], says: str
) -> None:
    path = tmp_path / "bad.safetensors"
    write_adapter(random_adapter(tiny_base), path, "diffusers")
    save_file(load_file(path), path, metadata=metadata)
    with pytest.raises(AdapterError, match=says):
        read_adapter(path)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (5, "groups of modules that aren't a list"),
        ([5], "states the method '5', which isn't known"),
        ([{"method": "new"}], "states the method 'new', which isn't known; update Pigment"),
        ([{"method": "lora", "options": [1]}], "aren't names and values"),
        ([{"method": "lora", "options": {"a": [1]}}], "states an option 'a' for lora that can't be"),
        ([{"method": "lora", "options": {"a": 10**200}}], "states an option 'a' for lora"),
        ([{"method": "lora", "options": {"a": float("nan")}}], "states an option 'a' for lora"),
        ([{"method": "loha"}], "is incomplete: .* has no hada_w1_a"),
        ([{"method": "lora", "modules": 5}, {"method": "loha"}], "is incomplete: .* has no hada_w1_a"),
        ([{"method": "lokr"}], "states lokr for .*, whose tensors are others: down, up"),
    ],
)
def test_bad_groups_of_pigments_own_form_are_refused(
    tiny_base: Base, tmp_path: Path, groups: object, says: str
) -> None:
    path = tmp_path / "bad.safetensors"
    write_adapter(random_adapter(tiny_base), path, "pigment")
    save_file(load_file(path), path, metadata={"pigment": json.dumps({"groups": groups})})
    for reader in (read_adapter, inspect_adapter):
        with pytest.raises(AdapterError, match=says) as refusal:
            reader(path)
        assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "sd2"),
    ],
)
def test_another_familys_adapter_is_refused_by_the_base(
    tiny_base: Base, tmp_path: Path, metadata: dict[str, str], family: str
) -> None:
    path = tmp_path / "other.safetensors"
    write_adapter(random_adapter(tiny_base), path, "diffusers")
    save_file(load_file(path), path, metadata=metadata)
    assert inspect_adapter(path, family="sd15")["family"] == family
    before = weights_of(tiny_base)
    with pytest.raises(AdapterError, match=f"is for {family}, base .* is sd15; choose a {family} base"):
        Mixer(tiny_base).add("other", read_adapter(path, family="sd15"))
    assert_unchanged(tiny_base, before)


def test_hostile_texts_are_data(tiny_base: Base, tmp_path: Path) -> None:
    about = {"name": "../../x\n<b>", "triggers": [1], "metadata": {"a": 5, "b": "c"}}
    path = tmp_path / "odd.safetensors"
    write_adapter(random_adapter(tiny_base), path)
    save_file(
        load_file(path), path, metadata={"pigment": json.dumps(about), "modelspec.trigger_phrase": "x, y"}
    )
    adapter = read_adapter(path)
    assert adapter.name == "../../x <b>"
    assert adapter.triggers == ("x", "y")
    assert adapter.metadata["b"] == "c"
    save_file(load_file(path), path, metadata={"pigment": "{not json"})
    assert read_adapter(path).name == "odd"


def test_other_places_are_refused(tmp_path: Path) -> None:
    for path, says in [
        (tmp_path / "nowhere.safetensors", "No such file"),
        (tmp_path / "model.ckpt", "is a pickle file"),
        (tmp_path / "model.pt", "is a pickle file"),
        (tmp_path, "no file|Is a directory"),
    ]:
        with pytest.raises(AdapterError, match=says):
            read_adapter(path)


def test_other_forms_survive_damage_too(tiny_base: Base, tmp_path: Path) -> None:
    """Bytes all over a header, in the forms whose metadata and keys steer the reader."""
    names = [name for name in tiny_base.modules() if name.endswith("attn2.to_k")][:1]
    token = Adapter(name="a", tokens={"<cat>": {"text_encoder": torch.ones(1, 32)}})
    adapters = {
        "pigment": random_adapter_of(tiny_base, "loha_dora", names),
        "lycoris": random_adapter_of(tiny_base, "lokr", names),
        "embedding": token,
    }
    for format, adapter in adapters.items():
        path = tmp_path / f"{format}.safetensors"
        write_adapter(adapter, path, format)
        raw = path.read_bytes()
        header = struct.unpack("<Q", raw[:8])[0] + 8
        for position in range(8, header, 11):
            path.write_bytes(raw[:position] + bytes([raw[position] ^ 0x11]) + raw[position + 1 :])
            try:
                read_adapter(path, family="sd15").check(tiny_base)
            except AdapterError as refusal:
                assert "\n" not in str(refusal) and len(str(refusal)) < 400


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1), value=st.integers(0, 255), cut=st.floats(0, 1), do_cut=st.booleans())
def test_any_single_damage_is_read_or_refused_cleanly(
    position: float, value: int, cut: float, do_cut: bool, tiny_base: Base, tmp_path: Path
) -> None:
    """One changed header byte or a cut anywhere gives an adapter or an AdapterError, nothing else."""
    path = tmp_path / "fuzz.safetensors"
    source = tmp_path / "source.safetensors"
    if not source.exists():
        write_adapter(random_adapter(tiny_base, list(random_adapter(tiny_base).factors)[:3]), source)
    raw = bytearray(source.read_bytes())
    header = struct.unpack("<Q", raw[:8])[0] + 8
    raw[int(position * (header - 1))] = value
    path.write_bytes(raw[: int(cut * len(raw))] if do_cut else raw)
    try:
        read_adapter(path)
        inspect_adapter(path)
    except AdapterError as refusal:
        assert "\n" not in str(refusal)
