"""Exports: proven by reading back and by diffusers, or not kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines import conformance, export
from pipelines.adapter import Adapter, LowRank
from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.export import export_adapter
from pipelines.formats import FORMATS, read_adapter, write_adapter
from pipelines.generate import GenerationConfig, generate, initial_noise
from pipelines.grids import psnr
from pipelines.mixer import Mixer
from pipelines.samplers import make_scheduler
from tests.tiny import assert_unchanged, random_adapter, target_modules, weights_of


@pytest.mark.parametrize("format", ["kohya", "diffusers"])
@pytest.mark.parametrize("targets", [("attention", "none"), ("none", "attention"), ("all", "attention+mlp")])
def test_diffusers_draws_the_mixers_picture(
    tiny_base: Base, tmp_path: Path, format: str, targets: tuple[str, str]
) -> None:
    adapter = random_adapter(tiny_base, target_modules(tiny_base, *targets), rank=4, alpha=6.0, strength=1.0)
    before = weights_of(tiny_base)
    report = export_adapter(adapter, tmp_path / "a.safetensors", format, "fp16", tiny_base)
    modules = len(adapter.factors)
    assert report.keys_written == report.keys_matched == modules * (3 if format == "kohya" else 2)
    assert report.loaded_modules == report.modules == modules
    assert report.loaded_by == ("PEFT" if format == "peft" else "diffusers") and report.independent
    assert report.delta_error <= 1e-3
    assert report.loaded_error is not None and report.loaded_error <= 1e-3
    assert report.psnr_db is not None and report.psnr_db >= 35
    assert_unchanged(tiny_base, before)
    assert f"{report.keys_matched}/{report.keys_matched}" in report.as_text()
    assert (
        json.loads(json.dumps(report.as_dict()))["sha256"] == read_adapter(tmp_path / "a.safetensors").sha256
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("format", ["kohya", "diffusers"])
def test_the_embedded_bases_export_loads_in_plain_diffusers(
    pocket: Base, tmp_path: Path, format: str
) -> None:
    """UNet and text encoder both, written here by hand without `export`'s own check."""
    from diffusers import StableDiffusionPipeline

    adapter = random_adapter(pocket, rank=4, alpha=6.0, strength=0.8)
    text_only = {name: f for name, f in adapter.factors.items() if name.startswith("text_encoder.")}
    assert 0 < len(text_only) < len(adapter.factors)
    path = tmp_path / "a.safetensors"
    write_adapter(adapter, path, format)
    config = GenerationConfig(prompt="a photo of a fox on a red background", seed=11, num_inference_steps=8)
    plain = generate(pocket, config)[0].image
    with Mixer(pocket) as mixer:
        mixer.add("a", adapter)
        mixer.set({"a": 1.0})
        ours = generate(pocket, config)[0].image
        mixer.set({"a": (1.0, 0.0)})
        without_text = generate(pocket, config)[0].image
    pipeline = StableDiffusionPipeline.from_pretrained(pocket.path, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler(pocket, config.sampler)
    pipeline.load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    noise, _ = initial_noise(pocket, 11, (pocket.resolution, pocket.resolution))
    theirs = pipeline(config.prompt, latents=noise, num_inference_steps=8, guidance_scale=3.0).images[0]
    assert psnr(ours, theirs) >= 45
    # The comparison sees the adapter, and its text encoder half.
    assert psnr(plain, theirs) < 35
    assert psnr(without_text, theirs) < psnr(ours, theirs) - 5


def test_a_mixed_base_is_left_alone(tiny_base: Base, tmp_path: Path) -> None:
    mixer = Mixer(tiny_base)
    mixer.add("other", random_adapter(tiny_base, seed=5))
    mixer.set({"other": 1.0})
    before = weights_of(tiny_base)
    report = export_adapter(random_adapter(tiny_base), tmp_path / "a.safetensors", base=tiny_base)
    assert report.psnr_db is not None and report.psnr_db >= 35
    assert_unchanged(tiny_base, before)
    assert mixer.weights == {"other": (1.0, 1.0)}


def test_without_a_base_only_the_file_is_checked(tiny_base: Base, tmp_path: Path) -> None:
    report = export_adapter(random_adapter(tiny_base), tmp_path / "a.safetensors", dtype="fp32")
    assert report.psnr_db is None and report.loaded_modules is None
    assert report.delta_error < 1e-6
    assert "loaded by" not in report.as_text()


def _tampering(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Make the writer leave a file that is wrong in one way."""

    def write(adapter: Adapter, path: Path, format: str, dtype: str) -> str:
        sha256 = write_adapter(adapter, path, format, dtype)
        tensors = load_file(path)
        first = next(key for key in tensors if key.endswith("lora_up.weight"))
        if kind == "scaled":
            tensors[first] = tensors[first] * 1.01
        elif kind == "missing":
            del tensors[first]
        elif kind == "extra":
            tensors["lora_unet_conv_in.lora_up.weight"] = torch.ones(1, 1)
        elif kind == "nan":
            tensors[first] = tensors[first] * float("nan")
        elif kind == "alpha":
            tensors[first.replace("lora_up.weight", "alpha")] = torch.tensor(1.0)
        save_file(tensors, path)
        return sha256

    monkeypatch.setattr(export, "write_adapter", write)


@pytest.mark.parametrize("kind", ["scaled", "missing", "extra", "nan", "alpha"])
def test_a_wrong_file_is_removed_and_the_old_one_stays(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "a.safetensors"
    export_adapter(random_adapter(tiny_base), path)
    before = path.read_bytes()
    _tampering(monkeypatch, kind)
    with pytest.raises(AdapterError, match=r"export of 'tiny' failed: .* nothing was kept"):
        export_adapter(random_adapter(tiny_base, seed=1), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_file_that_diffusers_reads_otherwise_is_refused(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Per-module alphas: the file is right, but diffusers takes the commonest alpha for attention."""
    monkeypatch.setitem(FORMATS, "kohya", _without_uniform_alpha())
    adapter = random_adapter(tiny_base, alpha=4.0)
    changed = {
        name: LowRank(f.parts["down"], f.parts["up"], 16.0 if name.endswith("to_q") else 4.0)
        for name, f in adapter.factors.items()
    }
    with pytest.raises(AdapterError, match="diffusers applies ΔW with an error"):
        export_adapter(Adapter(name="mixed", factors=changed), tmp_path / "a.safetensors", base=tiny_base)
    assert list(tmp_path.iterdir()) == []


def _without_uniform_alpha() -> object:
    from dataclasses import replace

    return replace(FORMATS["kohya"], normalise=dict)


def test_a_picture_far_off_is_refused(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(*_: object) -> conformance.LoadedCheck:
        return conformance.LoadedCheck("diffusers", modules=40, worst=0.0, psnr_db=34.9)

    monkeypatch.setattr(export, "check_loaded", off)
    with pytest.raises(AdapterError, match=r"draws another picture with it \(34.9 dB, at least 35\)"):
        export_adapter(random_adapter(tiny_base), tmp_path / "a.safetensors", base=tiny_base)
    assert list(tmp_path.iterdir()) == []


def test_refusals_leave_nothing(tiny_base: Base, tmp_path: Path) -> None:
    foreign = Adapter(
        name="x", factors={"unet.nowhere": next(iter(random_adapter(tiny_base).factors.values()))}
    )
    for adapter, path, says in [
        (foreign, tmp_path / "a.safetensors", "aren't in it"),
        (random_adapter(tiny_base), tmp_path / "a.bin", "ending in .safetensors"),
        (random_adapter(tiny_base), tmp_path / "no" / "a.safetensors", "can't be written"),
    ]:
        with pytest.raises(AdapterError, match=says):
            export_adapter(adapter, path, base=tiny_base)
    assert list(tmp_path.iterdir()) == []
