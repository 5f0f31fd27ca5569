"""Every family: its pipeline loads, its prompts reach the UNet, and it draws what diffusers draws."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.base import Base, load_base
from pipelines.errors import BaseError
from pipelines.families import FAMILIES, TARGETS, block_of
from pipelines.generate import GenerationConfig, generate, initial_noise
from pipelines.grids import psnr
from pipelines.samplers import make_scheduler


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> Base:
    return load_base(tiny_folders[request.param], device="cpu")


def test_a_folder_is_recognised_by_its_class_and_config(tiny_folders: dict[str, Path]) -> None:
    for family, folder in tiny_folders.items():
        assert load_base(folder, device="cpu").family.id == family


def test_every_component_has_modules(base: Base) -> None:
    found = {name.split(".", 1)[0] for name in base.modules()}
    assert found == set(base.family.components)
    assert not any("text_model" in name for name in base.weighted())
    assert base.weighted().keys() > base.modules().keys()
    assert set(base.text_encoders()) == set(base.family.components[1:])


@pytest.mark.parametrize("negative", ["", "rain"])
def test_prompts_are_the_pipelines(base: Base, negative: str) -> None:
    pipeline: Any = base.pipeline()
    encoded = pipeline.encode_prompt(
        prompt="a fox", negative_prompt=negative or None, device=base.device, num_images_per_prompt=1,
        do_classifier_free_guidance=True,
    )  # fmt: skip
    ours, against = base.condition(["a fox"]), base.condition([negative], negative=True)
    assert torch.equal(ours.hidden, encoded[0])
    assert torch.equal(against.hidden, encoded[1])
    if base.family.pooled:
        assert ours.pooled is not None and against.pooled is not None
        assert torch.equal(ours.pooled, encoded[2])
        assert torch.equal(against.pooled, encoded[3])


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_picture_is_the_pipelines(base: Base, guidance: float) -> None:
    config = GenerationConfig(prompt="a fox", seed=3, num_inference_steps=5, guidance_scale=guidance)
    ours = generate(base, config)[0].image
    pipeline: Any = base.pipeline()
    pipeline.scheduler = make_scheduler(base, config.sampler)
    noise, _ = initial_noise(base, 3, (base.resolution, base.resolution))
    theirs = pipeline(
        "a fox", latents=noise, num_inference_steps=5, guidance_scale=guidance, height=16, width=16
    ).images[0]
    assert psnr(ours, theirs) >= 45


def test_the_prompt_and_the_size_reach_the_unet(tiny_sdxl: Base) -> None:
    arguments = tiny_sdxl.condition(["a", "b"]).arguments((16, 24))
    added = arguments["added_cond_kwargs"]
    assert added["time_ids"].tolist() == [[16, 24, 0, 0, 16, 24]] * 2
    assert added["text_embeds"].shape == (2, 24)
    assert not torch.equal(*added["text_embeds"])


def test_a_missing_second_encoder_is_named(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_folders["sdxl"], tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "text_encoder_2")
    with pytest.raises(BaseError, match="has no text_encoder_2/ folder"):
        load_base(tmp_path / "cut")


def test_a_pipeline_built_like_no_family_is_refused(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_folders["sdxl"], tmp_path / "odd")
    config = tmp_path / "odd" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_linear_projection": False}))
    with pytest.raises(BaseError, match="use_linear_projection = False"):
        load_base(tmp_path / "odd")


def test_blocks_are_named(base: Base) -> None:
    blocks = {block_of(name) for name in base.modules()}
    assert {"down_blocks.0", "mid_block", "up_blocks.1", "conv_in", "conv_out", "text_encoder"} <= blocks
    assert set(TARGETS) == {"unet", "text_encoder"}
