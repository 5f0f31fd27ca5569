"""Family and form of a file: told by what it shows, in that order of weight, and by a hint last."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.adapter import AnyFactors, Factors, LowRank
from pipelines.base import Base, load_base
from pipelines.errors import AdapterError
from pipelines.families import FAMILIES
from pipelines.formats import FORMATS, inspect_adapter, read_adapter, write_adapter
from pipelines.formats.container import Entry, Header
from pipelines.formats.recognition import Ghost, ghost_factors
from pipelines.methods import METHODS
from pipelines.mixer import Mixer
from tests.pipelines.making import modules_for, random_adapter_of, random_factors
from tests.pipelines.test_formats_keys import published
from tests.tiny import random_adapter, target_modules

ATTENTION = "transformer_blocks.0.attn2.to_k"
Tensors = dict[str, torch.Tensor]


def lora_file(path: Path, modules: dict[str, tuple[int, ...]], ours: str, metadata: dict[str, str]) -> Path:
    """Write rank-1 factors of modules of the given shapes in diffusers' names, as foreign tools do."""
    tensors: Tensors = {}
    for stem, shape in modules.items():
        ends = {"kohya": ("lora_down", "lora_up"), "diffusers": ("lora_A", "lora_B")}[ours]
        tensors[f"{stem}.{ends[0]}.weight"] = torch.zeros(1, *shape[1:])
        tensors[f"{stem}.{ends[1]}.weight"] = torch.zeros(shape[0], 1, *(1 for _ in shape[2:]))
    save_file(tensors, path, metadata)
    return path


K, Q = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", "to_q"
PROJECTION = "lora_unet_mid_block_attentions_0_proj_in"
TEXT = "text_model_encoder_layers_0_self_attn_q_proj"


@pytest.mark.parametrize(
    ("modules", "metadata", "family"),
    [
        ({K: (320, 768)}, {}, "sd15"),
        ({K: (320, 1024)}, {}, "sd2"),
        ({K: (640, 2048)}, {}, "sdxl"),
        ({K: (320, 1024)}, {"ss_base_model_version": "sd_v1"}, "sd2"),
        ({K: (640, 2048)}, {"modelspec.architecture": "stable-diffusion-v1/lora"}, "sdxl"),
        ({PROJECTION: (1280, 1280, 1, 1)}, {}, "sd15"),
        ({PROJECTION: (1280, 1280), f"lora_te_{TEXT}": (1024, 1024)}, {}, "sd2"),
        ({PROJECTION: (1280, 1280)}, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({PROJECTION: (1280, 1280)}, {"ss_base_model_version": "sd_v2_768_v"}, "sd2"),
        ({f"lora_te_{TEXT}": (768, 768)}, {}, "sd15"),
        ({f"lora_te_{TEXT}": (1024, 1024)}, {}, "sd2"),
        ({f"lora_te2_{TEXT}": (1280, 1280)}, {}, "sdxl"),
        ({f"lora_te1_{TEXT}": (768, 768), f"lora_te2_{TEXT}": (1280, 1280)}, {}, "sdxl"),
        ({"lora_unet_input_blocks_4_1_proj_in": (640, 640)}, {}, "sdxl"),
        ({"lora_unet_input_blocks_1_1_proj_in": (320, 320, 1, 1)}, {}, "sd15"),
        ({"lora_unet_add_embedding_linear_1": (9, 9)}, {}, "sdxl"),
        ({"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (9, 9)}, {}, "sd15"),
        ({"lora_unet_conv_in": (9, 9, 3, 3)}, {"modelspec.architecture": "stable-diffusion-v2-512/x"}, "sd2"),
    ],
)
def test_a_files_family_is_told_whatever_is_hoped(
    modules: dict[str, tuple[int, ...]], metadata: dict[str, str], family: str, tmp_path: Path
) -> None:
    path = lora_file(tmp_path / "a.safetensors", modules, "kohya", metadata)
    assert inspect_adapter(path)["family"] == family
    decided = any(shape[-1] in (768, 1024, 2048) for shape in modules.values()) or metadata
    if decided:
        for hint in FAMILIES:
            assert read_adapter(path, family=hint).family == family


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("format", ["kohya", "diffusers", "lycoris", "peft"])
def test_a_hint_decides_where_the_file_doesnt(
    family: str, format: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Tiny attention layers without metadata could be anyone's; Pigment's own metadata outweigh any hint."""
    base = load_base(tiny_folders[family], device="cpu")
    modules = [name for name in target_modules(base, text="none") if ".mid_block." in name]
    path = tmp_path / ("a" if format == "peft" else "a.safetensors")
    write_adapter(random_adapter(base, modules), path, format)
    for hint in (None, *FAMILIES):
        assert inspect_adapter(path, family=hint)["family"] == family
    if format != "peft":
        from safetensors.torch import load_file

        save_file(load_file(path), path)
        for hint in FAMILIES:
            found = inspect_adapter(path, family=hint)
            assert found["family"] == hint
            assert read_adapter(path, family=hint).family == hint


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "loha_dora", "lokr", "lokr_dora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_lycoris_files_of_published_widths_are_told(method: str, family: str, tmp_path: Path) -> None:
    row = FORMATS["lycoris"]
    module = next(name for name in published(family) if name.endswith(f"{ATTENTION}"))
    factor = random_factors(method, published(family)[module], rank=4)
    kind = FAMILIES[family]
    save_file(
        {row.write_key(module, part, kind): value.contiguous() for part, value in factor.parts.items()},
        tmp_path / "a.safetensors",
    )
    assert inspect_adapter(tmp_path / "a.safetensors")["family"] == family


@pytest.mark.parametrize("method", METHODS)
def test_rank_and_shape_are_told_from_shapes_alone(method: str) -> None:
    """Inspecting asks methods with stand-ins for tensors: nothing of them may need numbers or torch."""
    factor = random_factors(method, (24, 16, 3, 3) if method.startswith("locon") else (24, 16))
    if method == "norm":
        factor = random_factors(method, (24,))
    ghost: AnyFactors
    parts = {name: Ghost(tuple(part.shape)) for name, part in factor.parts.items()}
    if isinstance(factor, LowRank):
        ghost = LowRank(down=parts["down"], up=parts["up"], alpha=1.0)  # type: ignore[arg-type]
    else:
        ghost = Factors(method=method, parts=parts, options=factor.options)  # type: ignore[arg-type]
    assert ghost.rank == factor.rank
    assert ghost.weight_shape == factor.weight_shape


def test_no_method_and_no_form_needs_torch_to_be_inspected(tiny_base: Base, tmp_path: Path) -> None:
    for method in METHODS:
        adapter = random_adapter_of(tiny_base, method, modules_for(tiny_base, method)[:1])
        for format, row in FORMATS.items():
            if format != "embedding" and row.holds(method):
                ending = "" if row.kind == "folder" else ".safetensors"
                write_adapter(adapter, tmp_path / f"{method}-{format}{ending}", format)
    program = (
        "import sys; from pathlib import Path; from pipelines.formats import inspect_adapter; "
        "found = [(path.name, inspect_adapter(path)) for path in sorted(Path(sys.argv[1]).iterdir())]; "
        "assert len(found) > 40; "
        "wrong = [name for name, about in found if about['method'] != name.split('-')[0]]; "
        "assert not wrong, wrong; "
        "assert not {'torch', 'peft', 'diffusers'} & set(sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=root, timeout=60)


def test_ghosts_of_half_a_module_are_none() -> None:
    header = Header({"a": Entry("F32", (2, 2), 0, 16)}, {}, 0)
    assert ghost_factors(header, {"down": "a"}) is None


def test_many_files_are_inspected_quickly_and_without_torch(tmp_path: Path) -> None:
    """A full SDXL attention adapter in SGM names: thousands of keys, some hundredths of a second."""
    family = FAMILIES["sdxl"]
    modules = [name for name in published("sdxl") if ".attn" in name and "norm" not in name]
    tensors = {}
    for module in modules:
        for part, shape in (("down", (1, 2)), ("up", (2, 1)), ("alpha", ())):
            tensors[FORMATS["kohya"].write_key(module, part, family)] = torch.zeros(shape)
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, {"ss_base_model_version": "sdxl_base_v1-0"})
    inspect_adapter(path)
    began = time.process_time()
    assert inspect_adapter(path)["modules"] == len(modules) > 500
    assert time.process_time() - began < 2.0
    program = (
        "import sys; from pipelines.formats import inspect_adapter; inspect_adapter(sys.argv[1]); "
        "assert not {'torch', 'peft', 'diffusers'} & set(sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, cwd=root, timeout=60)


def test_one_by_one_convolutions_may_be_stored_with_two_axes(tiny_base: Base, tmp_path: Path) -> None:
    """Some tools write a 1×1 convolution's factors like a linear layer's; what is stated counts more."""
    modules = [name for name in tiny_base.modules() if name.endswith(("proj_in", "to_q"))]
    adapter = random_adapter(tiny_base, modules)
    path = tmp_path / "a.safetensors"
    write_adapter(adapter, path, "kohya", "fp32")
    flat = {key: value.flatten(1) if value.ndim == 4 else value for key, value in load_file(path).items()}
    save_file(flat, path, {"ss_base_model_version": "sd_v1"})
    back = read_adapter(path)
    assert back.family == "sd15"
    before = {name: module.weight.detach().clone() for name, module in tiny_base.modules().items()}
    with Mixer(tiny_base) as mixer:
        mixer.add("a", back)
        mixer.set({"a": 1.0})
        for name, factors in adapter.factors.items():
            change = tiny_base.modules()[name].weight - before[name]
            assert torch.allclose(change, factors.delta(), atol=1e-6), name


@pytest.mark.parametrize(
    "text", ["<!DOCTYPE html><html>", "version https://git-lfs", '{"error": "not found"}']
)
def test_a_text_in_place_of_a_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text(text * 9)
    with pytest.raises(AdapterError, match="begins with the text"):
        read_adapter(path)


@pytest.mark.parametrize(
    ("patterns", "alphas"),
    [
        ({"attn2.to_k": 16, "to_k": 2}, {"attn2.to_k": 16.0, "attn1.to_k": 2.0, "attn1.to_q": 8.0}),
        ({"to_k": 2, "attn2.to_k": 16}, {"attn2.to_k": 2.0, "attn1.to_k": 2.0, "attn1.to_q": 8.0}),
        ({".*attn2.*": 16}, None),
        ({"to_[kq]": 16}, None),
    ],
)
def test_alpha_patterns_are_pefts_or_refused(
    tiny_base: Base, tmp_path: Path, patterns: dict[str, int], alphas: dict[str, float] | None
) -> None:
    """The first pattern that a module ends with wins; regular expressions aren't guessed at."""
    adapter = random_adapter(tiny_base, [n for n in tiny_base.modules() if n.endswith((".to_k", ".to_q"))])
    path = tmp_path / "a.safetensors"
    write_adapter(adapter, path, "diffusers", "fp32")
    stated = {"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": patterns}
    save_file(load_file(path), path, {"lora_adapter_metadata": json.dumps(stated)})
    if alphas is None:
        with pytest.raises(AdapterError, match="pattern"):
            read_adapter(path)
        return
    back = read_adapter(path)
    for ending, alpha in alphas.items():
        found = {factors.alpha for name, factors in back.factors.items() if name.endswith(ending)}
        assert found == {alpha}, ending
