"""Bases written as a folder and as one file, read back by Pigment and by plain diffusers."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.base import Base, load_base
from pipelines.bases import writing
from pipelines.bases.record import RECORD
from pipelines.bases.source import Source, open_source
from pipelines.bases.writing import write_base
from pipelines.formats.container import read_header
from tests.tiny import random_adapter, save_tiny_pipeline, target_modules

KINDS: dict[str, dict[str, Any]] = {
    "sd15": {},
    "sd15-inpainting": {"unet": {"in_channels": 9}},
    "sd2": {"prediction_type": "v_prediction"},
    "sd2-base": {},
    "sdxl": {},
    "sdxl-inpainting": {"unet": {"in_channels": 9}},
    "sdxl-v": {"prediction_type": "v_prediction"},
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A random pipeline of each of KINDS, made once. Don't write into them."""
    root, made = tmp_path_factory.mktemp("kinds"), {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_tiny_pipeline(root / kind, family=kind.split("-")[0], **KINDS[kind])
        return made[kind]

    return get


def assert_same(one: Source, other: Source) -> None:
    """Fail unless two sources have the same family, configs and, bit for bit, weights."""
    assert one.family is other.family and one.prediction_type == other.prediction_type
    for part in one.networks:
        ours, theirs = one.state(part), other.state(part)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.equal(ours[key].view(), theirs[key].view()), f"{part}.{key}"
    for part, config in one.configs.items():
        assert {**config} == {**other.configs[part]}, part


@pytest.mark.parametrize("kind", list(KINDS))
def test_folder_to_file_to_folder(folder_of: Callable[[str], Path], kind: str, tmp_path: Path) -> None:
    source = open_source(folder_of(kind))
    report = write_base(source, tmp_path / "base.safetensors")
    assert report.equal == report.tensors > 300 and report.changed == 0
    back = write_base(open_source(tmp_path / "base.safetensors"), tmp_path / "back", layout="folder")
    assert back.equal == back.tensors == report.tensors
    assert_same(source, open_source(tmp_path / "back"))
    assert_same(source, open_source(tmp_path / "base.safetensors"))
    first, second = (load_base(path, device="cpu") for path in (folder_of(kind), tmp_path / "back"))
    words = ["a zib on a table", "", "ZIB \u00e9"]
    assert torch.equal(first.condition(words).hidden, second.condition(words).hidden)
    assert first.inpainting == second.inpainting == kind.endswith("inpainting")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "base.safetensors"]


@pytest.mark.parametrize("kind", ["sd15", "sd2", "sdxl"])
def test_file_to_folder_to_file_is_the_same_file(
    folder_of: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    write_base(open_source(folder_of(kind)), one, title="x")
    write_base(open_source(one), tmp_path / "folder", layout="folder", title="x")
    write_base(open_source(tmp_path / "folder"), two, title="x")
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("kind", ["sd15", "sd2", "sdxl"])
def test_plain_diffusers_loads_the_file(folder_of: Callable[[str], Path], kind: str, tmp_path: Path) -> None:
    """By `from_single_file` with the folder's configs: equal weights, and the same picture.

    Equal weights at other addresses differ in the last bit of a product, by 1e-7 in what SDXL's text encoder
    gives: the pictures are held to 1e-4.
    """
    import diffusers

    folder, file = folder_of(kind), tmp_path / "base.safetensors"
    write_base(open_source(folder), file)
    kind_of = getattr(diffusers, open_source(folder).family.pipeline_class)
    theirs = kind_of.from_pretrained(folder, local_files_only=True)
    ours = kind_of.from_single_file(str(file), config=str(folder), local_files_only=True)
    for part in open_source(folder).networks:
        expected, found = getattr(theirs, part).state_dict(), getattr(ours, part).state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected), part
    pictures = []
    for pipe in (theirs, ours):
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        out = pipe("zib", num_inference_steps=3, height=16, width=16, generator=generator, output_type="pt")
        pictures.append(out.images)
    assert (pictures[0] - pictures[1]).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_plain_diffusers_loads_the_folder(
    folder_of: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    import diffusers

    source = open_source(folder_of(kind))
    write_base(source, tmp_path / "copy", layout="folder", dtype="fp16")
    pipe = getattr(diffusers, source.family.pipeline_class).from_pretrained(
        tmp_path / "copy", local_files_only=True, torch_dtype=torch.float16
    )
    for part in source.networks:
        found = getattr(pipe, part).state_dict()
        for key, stored in source.state(part).items():
            assert torch.equal(found[key], stored.view().half()), f"{part}.{key}"


@pytest.mark.parametrize("layout", ["file", "folder"])
@pytest.mark.parametrize(("dtype", "kind"), [("fp16", "F16"), ("bf16", "BF16"), ("fp32", "F32")])
def test_precisions(tiny_folder: Path, tmp_path: Path, layout: str, dtype: str, kind: str) -> None:
    path = tmp_path / ("base.safetensors" if layout == "file" else "base")
    source = open_source(tiny_folder)
    report = write_base(source, path, layout=layout, dtype=dtype)
    assert report.dtype == dtype
    files = [path] if layout == "file" else sorted(path.rglob("*.safetensors"))
    assert {entry.dtype for file in files for entry in read_header(file).tensors.values()} == {kind}
    written, torch_dtype = open_source(path), writing.DTYPES[dtype]
    for key, stored in source.state("unet").items():
        assert torch.equal(written.state("unet")[key].view(), stored.view().to(torch_dtype))
    if layout == "folder":
        config = json.loads((path / "text_encoder" / "config.json").read_text())
        assert config["dtype"] == str(torch_dtype)[6:]


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_a_folded_mix_is_what_the_mixer_draws_with(
    tiny_folder: Path, tiny_base: Base, tmp_path: Path, layout: str
) -> None:
    """One step's prediction of the folded base against the mixed one: both fp32, summed in another order."""
    from pipelines.mixer import Mixer

    adapter = random_adapter(tiny_base, target_modules(tiny_base, "all", "attention+mlp"))
    path = tmp_path / ("base.safetensors" if layout == "file" else "base")
    report = write_base(open_source(tiny_folder), path, layout=layout, mix={"zib": (adapter, (0.8, 0.5))})
    assert report.changed == 2 * len(adapter.factors) - sum(
        tiny_base.weighted()[module].bias is None for module in adapter.factors
    )
    written = load_base(path, device="cpu")
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def predict(base: Base) -> torch.Tensor:
        with torch.no_grad():
            text = base.condition(["a zib"]).hidden
            return base.unet(latents, 500, text, return_dict=False)[0]

    plain = predict(tiny_base)
    with Mixer(tiny_base) as mixer:
        mixer.add("zib", adapter)
        mixer.set({"zib": (0.8, 0.5)})
        mixed = predict(tiny_base)
    folded = predict(written)
    assert (folded - mixed).norm() / mixed.norm() < 1e-5
    assert (plain - mixed).norm() / mixed.norm() > 0.1, "the mix did nothing"


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_folding_at_zero_gives_the_same_bytes(
    tiny_folder: Path, tiny_base: Base, tmp_path: Path, layout: str
) -> None:
    ending = ".safetensors" if layout == "file" else ""
    source = open_source(tiny_folder)
    for name, mix in (("plain", None), ("zero", {"a": (random_adapter(tiny_base), 0.0)})):
        write_base(source, tmp_path / f"{name}{ending}", layout=layout, mix=mix)
    one, two = open_source(tmp_path / f"plain{ending}"), open_source(tmp_path / f"zero{ending}")
    assert_same(one, two)
    assert_same(source, two)


def test_metadata_say_what_it_is(tiny_folder: Path, tiny_base: Base, tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"
    write_base(open_source(tiny_folder), path, mix={"zib": (random_adapter(tiny_base), 0.5)}, title="Mine")
    header = read_header(path)
    found = header.metadata
    assert found["modelspec.architecture"] == "stable-diffusion-v1"
    assert found["modelspec.title"] == "Mine" and found["modelspec.merged_from"] == "base, zib 0.5"
    assert found["modelspec.prediction_type"] == "epsilon" and found["modelspec.resolution"] == "16x16"
    digest = hashlib.sha256(path.read_bytes()[header.data_start :]).hexdigest()
    assert found["modelspec.hash_sha256"] == f"0x{digest}" and found["sshs_model_hash"] == digest
    assert set(json.loads(found[RECORD])["tokenizers"]) == {"tokenizer"}, "the tiny tokenizer is no family's"


@pytest.mark.parametrize(
    ("kind", "architecture", "marks"),
    [
        ("sd15-inpainting", "stable-diffusion-v1-inpainting", set()),
        ("sd2", "stable-diffusion-v2-768-v", set()),
        ("sd2-base", "stable-diffusion-v2-512", set()),
        ("sdxl", "stable-diffusion-xl-v1-base", set()),
        ("sdxl-v", "stable-diffusion-xl-v1-base", {"v_pred"}),
    ],
)
def test_architectures_and_marks(
    folder_of: Callable[[str], Path], tmp_path: Path, kind: str, architecture: str, marks: set[str]
) -> None:
    write_base(open_source(folder_of(kind)), tmp_path / "x.safetensors", dtype="fp16")
    header = read_header(tmp_path / "x.safetensors")
    assert header.metadata["modelspec.architecture"] == architecture
    assert {name for name in header.tensors if "." not in name} == marks


def test_a_schedule_that_begins_at_noise_is_marked(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of("sdxl-v"), tmp_path / "copy"))
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rescale_betas_zero_snr": True}))
    write_base(open_source(folder), tmp_path / "x.safetensors")
    assert {"v_pred", "ztsnr"} <= read_header(tmp_path / "x.safetensors").tensors.keys()
    assert open_source(tmp_path / "x.safetensors").configs["scheduler"]["rescale_betas_zero_snr"] is True


def test_pocket_goes_into_one_file_and_back(pocket: Base, tmp_path: Path) -> None:
    """Its configs and its tokenizer travel in the file's metadata."""
    path = tmp_path / "pocket.safetensors"
    report = write_base(open_source("pocket"), path)
    assert report.equal == report.tensors
    assert "its sizes are no published model's" in report.as_text()
    assert "no published model's" not in replace(report, published=True).as_text()
    found = load_base(path, device="cpu")
    prompts = ["a red disc on a table, <weird> \u00fcber", ""]
    assert torch.equal(found.condition(prompts).hidden, pocket.condition(prompts).hidden)
    assert found.resolution == pocket.resolution
    for key, value in pocket.unet.state_dict().items():
        assert torch.equal(found.unet.state_dict()[key], value), key


def test_the_familys_tokenizer_isnt_carried(tmp_path: Path) -> None:
    """Saved by transformers in its own form, it is still known for the one that ships."""
    from transformers import CLIPTokenizer

    from pipelines.bases.configs import configs_of
    from pipelines.bases.modelspec import _is_shipped, tokenizer_texts

    for family, pad in (("sd15", None), ("sdxl", None), ("sd2", "!")):
        for name, where in configs_of(family).tokenizers.items():
            texts = tokenizer_texts(where)
            expected = pad if name == "tokenizer" else "!"
            assert _is_shipped(texts, expected), (family, name)
            folder = tmp_path / f"{family}-{name}"
            (folder / "own").mkdir(parents=True)
            for file, text in texts.items():
                (folder / "own" / file).write_text(text, encoding="utf-8")
            CLIPTokenizer.from_pretrained(folder / "own").save_pretrained(folder / "saved")
            saved = tokenizer_texts(folder / "saved")
            assert "tokenizer.json" in saved and _is_shipped(saved, expected), (family, name)
            assert not _is_shipped(saved, "x"), "another padding makes other tokens"


def test_paths_of_this_machine_arent_written(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    for file in (
        "unet/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "model_index.json",
    ):
        said = json.loads((folder / file).read_text()) | {"_name_or_path": "/home/somebody/secret"}
        (folder / file).write_text(json.dumps(said))
    write_base(open_source(folder), tmp_path / "x.safetensors")
    write_base(open_source(folder), tmp_path / "x", layout="folder")
    for path in (tmp_path / "x.safetensors", *(tmp_path / "x").rglob("*")):
        assert path.is_dir() or b"somebody" not in path.read_bytes(), path


@pytest.mark.parametrize(("kind", "encoders"), [("sd15", 1), ("sdxl", 2)])
def test_text_encoders_are_spelled_for_every_transformers(
    folder_of: Callable[[str], Path], tmp_path: Path, kind: str, encoders: int
) -> None:
    """transformers 4 knows their tensors with `text_model.` alone, 5 takes both."""
    write_base(open_source(folder_of(kind)), tmp_path / "x", layout="folder")
    files = sorted(tmp_path.glob("x/text_encoder*/model.safetensors"))
    assert len(files) == encoders
    for file in files:
        assert all(key.startswith(("text_model.", "text_projection.")) for key in read_header(file).tensors)


def test_another_vae_is_written(folder_of: Callable[[str], Path], tiny_folder: Path, tmp_path: Path) -> None:
    other = save_tiny_pipeline(tmp_path / "other", seed=9)
    write_base(open_source(tiny_folder, vae=other), tmp_path / "x.safetensors")
    found = open_source(tmp_path / "x.safetensors").state("vae")
    for key, stored in open_source(other).state("vae").items():
        assert torch.equal(found[key].view(), stored.view())
