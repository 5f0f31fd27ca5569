"""The base recipe from nothing, for seconds: the result loads in plain diffusers, a build resumes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from pipelines.errors import ConfigError, StudioError
from trainers.base import build as recipe
from trainers.base.__main__ import main
from trainers.base.build import STAGES, BuildPlan, build
from trainers.base.glyphs import find_font
from trainers.base.tokenizer import build as build_tokenizer
from trainers.evidence.similarity import Judge

try:
    find_font()
    HAS_FONT = True
except StudioError:
    HAS_FONT = False
needs_font = pytest.mark.skipif(not HAS_FONT, reason="Noto Color Emoji isn't installed")


def test_the_tokenizer_encodes_any_text(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    build_tokenizer(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert tokenizer.model_max_length == 77
    for text in ("a photo of a fox", "schöne Käfer 🦊 и 猫", "\x00\x7f zzqx"):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in ids[:-1]
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        assert decoded.replace(" ", "") == text.lower().replace(" ", "")
    assert len(tokenizer("fox").input_ids) == 3


@needs_font
@pytest.mark.slow
def test_a_build_from_nothing_gives_a_pipeline_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import AutoencoderKL, StableDiffusionPipeline

    monkeypatch.setattr(recipe, "STAGES", {k: v for k, v in STAGES.items() if k != "measure"})
    monkeypatch.setattr(recipe, "SUBJECTS", recipe.SUBJECTS[:8])
    monkeypatch.setattr(recipe, "PICTURES", 64)
    plan = BuildPlan(out=tmp_path / "base", minutes=0.1, processes=1, variants=8)
    said: list[str] = []
    build(plan, said.append)
    assert said[-1] == "assemble: done"
    pipeline = StableDiffusionPipeline.from_pretrained(plan.out)
    picture = pipeline("a fox", num_inference_steps=2, output_type="pt").images
    assert picture.shape == (1, 3, 64, 64) and torch.isfinite(picture).all()
    judge = Judge.load(plan.out)
    assert judge.text_embeddings(["a fox", "an owl"]).norm(dim=-1).tolist() == pytest.approx([1, 1], abs=1e-4)

    if "PIGMENT_LONG" not in os.environ:
        return  # `make test-build` goes on
    (plan.work / "towers.done").unlink()
    (plan.work / "assemble.done").unlink()
    said.clear()
    build(plan, said.append)
    assert said == [
        "tokenizer: done before",
        "autoencoder: done before",
        "latents: done before",
        "denoiser: done before",
        "towers: started",
        "towers: done",
        "assemble: started",
        "assemble: done",
    ]

    onwards = BuildPlan(
        out=tmp_path / "next", minutes=0.05, source=plan.out, processes=2, variants=8, decoder_minutes=0.02
    )
    build(onwards, said.append)
    samples = json.loads((onwards.work / "denoiser" / "plan.json").read_text())["samples"]
    assert samples > 0
    old, new = (
        StableDiffusionPipeline.from_pretrained(folder).unet.conv_in.weight
        for folder in (plan.out, onwards.out)
    )
    assert not torch.equal(old, new) and torch.isfinite(new).all()
    first, second = (AutoencoderKL.from_pretrained(folder / "vae") for folder in (plan.out, onwards.out))
    for (name, before), after in zip(first.named_parameters(), second.parameters(), strict=True):
        if name.startswith(("encoder", "quant_conv")):
            assert torch.equal(before, after), "the UNet's latents must stay as they are"
    assert not torch.equal(first.decoder.conv_in.weight, second.decoder.conv_in.weight)


def test_another_source_or_seed_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "about.json").write_text(
        json.dumps({"source": "None", "seed": 1, "variants": 240, "size": 64})
    )
    with pytest.raises(ConfigError, match="choose another --out"):
        build(BuildPlan(out=tmp_path, minutes=1))


def test_bad_arguments_are_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--out", str(tmp_path / "x"), "--minutes", "1", "--from", str(tmp_path)]) == 2
    assert main(["build", "--out", str(tmp_path / "x"), "--minutes", "0"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and "model_index.json is missing" in lines[0]
    assert not (tmp_path / "x").exists()
