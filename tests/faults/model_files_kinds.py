"""Kinds of bad adapter files, with what is said of each: by their header, their contents and their fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.faults.model_files_headers import BYTES, GROUPS, METADATA

Tensors = dict[str, torch.Tensor]

DOWN = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
UP = "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"
HADAMARD = ("w1_a", "w1_b", "w2_a", "w2_b")


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
"""What is changed in a sound file, and a pattern of what is said."""


def _config(**changes: Any) -> Callable[[Path], None]:
    """Change PEFT's settings."""

    def change(folder: Path) -> None:
        place = folder / "adapter_config.json"
        place.write_text(json.dumps(json.loads(place.read_text()) | changes))

    return change


def _settings(text: str) -> Callable[[Path], None]:
    """Put a text in the place of PEFT's settings."""

    def change(folder: Path) -> None:
        (folder / "adapter_config.json").write_text(text)

    return change


def _pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _half(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    place = folder / "adapter_model.safetensors"
    tensors = load_file(place)
    save_file(_without(tensors, sorted(tensors)[0]), place)


FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "settings cut off": (_settings("{"), "isn't JSON"),
    "settings that are a list": (_settings("[]"), "no settings"),
    "a tuner to come": (_config(peft_type="NEW"), "is of PEFT's kind 'NEW'; supported"),
    "weights in a pickle": (_pickled, "holds pickled weights, which are never opened"),
    "begun by PiSSA": (_config(init_lora_weights="pissa"), "moves a part of the base into the adapter"),
    "a setting that isn't honoured": (_config(lora_bias=True), "which isn't supported; save it without"),
    "half a pair in PEFT's form": (_half, "is incomplete"),
    "an alpha in a list": (_config(lora_alpha=[1]), "expected a number"),
}  # fmt: skip
"""What is changed in one of PEFT's folders, and a pattern of what is said."""


def _misfits() -> dict[str, tuple[Any, str]]:
    """Sound adapters that don't fit the base, and what is said of each."""
    from dataclasses import replace

    from pipelines.adapter import Adapter, Factors, LowRank
    from tests.faults.model_files_seeds import tiny_base
    from tests.tiny import random_adapter

    sound = random_adapter(tiny_base())
    name, own = next((name, own) for name, own in sound.factors.items() if name.startswith("unet."))
    assert isinstance(own, LowRank)

    def with_one(module: str, factor: Any) -> Any:
        return replace(sound, factors={**sound.factors, module: factor})

    wide = LowRank(down=torch.ones(4, 77), up=torch.ones(55, 4), alpha=4.0)
    query = next(one for one in sound.factors if one.endswith("attn1.to_q"))
    return {
        "made for SDXL": (
            random_adapter(tiny_base("sdxl")), "is for sdxl, base .* is sd15; choose a sdxl base"
        ),
        "modules that aren't there": (
            with_one("unet.mid_block.attentions.7.proj_in", own), "1 of .* aren't in it"
        ),
        "another width": (with_one(name, wide), "1 of .* have another shape"),
        "too large together": (
            with_one(name, LowRank(down=own.down * 1e20, up=own.up * 1e25, alpha=own.alpha)),
            "numbers too large",
        ),
        "words of another width": (
            Adapter(name="w", tokens={"<cat>": {"text_encoder": torch.ones(2, 768)}}), "expected n×32"
        ),
        "a bias where none is": (
            with_one(query, Factors(method="bitfit", parts={"diff_b": torch.ones(own_size(query))})),
            "changes the bias of .*, which has none",
        ),
        "a bias of another length": (
            with_one(query, Factors(method="bitfit", parts={"diff_b": torch.ones(3)})), "have another shape"
        ),
        "a bias of two sides": (
            with_one(query, Factors(method="bitfit", parts={"diff_b": torch.ones(2, own_size(query) // 2)})),
            "have another shape",
        ),
    }  # fmt: skip


def own_size(module: str) -> int:
    """How many outputs a layer of the tiny base has."""
    from tests.faults.model_files_seeds import tiny_base

    return int(tiny_base().modules()[module].weight.shape[0])


Write = Callable[[Path], Path]
"""Writes a bad adapter into an empty folder; returns the file or folder to open."""


def kinds() -> dict[str, tuple[Write, str]]:
    """Every kind by name: what writes it, and a pattern of what is said of it."""
    found: dict[str, tuple[Write, str]] = {}
    for name, (raw, says) in BYTES.items():
        found[name] = (_of_bytes(raw), says)
    for name, (change, says) in CONTENTS.items():
        found[name] = (_of_contents(change), says)
    for name, (form, metadata, says) in METADATA.items():
        found[name] = (_of_metadata(form, metadata), says)
    for name, (groups, says) in GROUPS.items():
        found[name] = (_of_metadata("pigment", {"pigment": json.dumps({"groups": groups})}), says)
    for name, (spoil, says) in FOLDERS.items():
        found[name] = (_of_folder(spoil), says)
    for name, (adapter, says) in _misfits().items():
        found[name] = (_of_adapter(adapter), says)
    return found


def _of_bytes(raw: bytes) -> Write:
    def write(place: Path) -> Path:
        (place / "bad.safetensors").write_bytes(raw)
        return place / "bad.safetensors"

    return write


def _of_contents(change: Callable[[Tensors], Tensors]) -> Write:
    def write(place: Path) -> Path:
        from safetensors.torch import load_file, save_file

        path = _sound(place, "kohya")
        save_file(change(load_file(path)), path)
        return path

    return write


def _of_metadata(form: str, metadata: dict[str, str]) -> Write:
    def write(place: Path) -> Path:
        from safetensors.torch import load_file, save_file

        path = _sound(place, form)
        save_file(load_file(path), path, metadata=metadata)
        return path

    return write


def _of_folder(spoil: Callable[[Path], None]) -> Write:
    def write(place: Path) -> Path:
        from pipelines.formats import write_adapter

        write_adapter(_adapter(), place / "bad", "peft")
        spoil(place / "bad" / "unet")
        return place / "bad"

    return write


def _of_adapter(adapter: Any) -> Write:
    def write(place: Path) -> Path:
        from pipelines.formats import write_adapter

        write_adapter(adapter, place / "bad.safetensors", "pigment", "fp32")
        return place / "bad.safetensors"

    return write


def _sound(place: Path, form: str) -> Path:
    """Write an adapter that is as it should be."""
    from pipelines.formats import write_adapter

    write_adapter(_adapter(), place / "bad.safetensors", form)
    return place / "bad.safetensors"


def _adapter() -> Any:
    from tests.faults.model_files_seeds import tiny_base
    from tests.tiny import random_adapter

    modules = list(random_adapter(tiny_base()).factors)[:-1] + ["unet.mid_block.attentions.0.proj_in"]
    return random_adapter(tiny_base(), modules)
