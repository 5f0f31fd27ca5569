"""The safety checker: asked only where the base brings one, and its word is final."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from pipelines.base import Base, load_base
from pipelines.drawing.clip_pixels import clip_pixels
from pipelines.drawing.safety import NOTE
from pipelines.errors import BaseError
from pipelines.generate import GenerationConfig, generate
from tests.pipelines.drawing.scenes import noisy_picture

DRAW = GenerationConfig(prompt="a fox", num_inference_steps=2, num_images=2)
_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
           "image_size": 28, "patch_size": 14, "projection_dim": 8}  # fmt: skip


def _with_checker(source: Path, folder: Path, threshold: float) -> Base:
    """The tiny base with a checker that flags what is more alike to its concepts than `threshold`."""
    shutil.copytree(source, folder)
    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=_VISION, text_config={"num_hidden_layers": 1}, projection_dim=8)
    )
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(threshold)
        checker.special_care_embeds_weights.fill_(2.0)
    checker.save_pretrained(folder / "safety_checker")
    CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
    return load_base(folder, device="cpu")


def test_flagged_pictures_are_black_and_say_so(tiny_folder: Path, tmp_path: Path) -> None:
    base = _with_checker(tiny_folder, tmp_path / "b", threshold=-2.0)
    for picture in generate(base, DRAW):
        assert picture.image.size == (16, 16) and not np.asarray(picture.image).any()
        assert picture.settings["notes"] == [NOTE]


def test_others_pass_and_it_can_be_turned_off(tiny_folder: Path, tiny_base: Base, tmp_path: Path) -> None:
    plain = [picture.image.tobytes() for picture in generate(tiny_base, DRAW)]
    mild = _with_checker(tiny_folder, tmp_path / "mild", threshold=2.0)
    assert [picture.image.tobytes() for picture in generate(mild, DRAW)] == plain
    strict = _with_checker(tiny_folder, tmp_path / "strict", threshold=-2.0)
    off = DRAW.model_copy(update={"safety_checker": False})
    assert [picture.image.tobytes() for picture in generate(strict, off)] == plain


def test_a_broken_checker_is_an_error_and_not_a_pass(tiny_folder: Path, tmp_path: Path) -> None:
    base = _with_checker(tiny_folder, tmp_path / "b", threshold=2.0)
    (tmp_path / "b" / "feature_extractor" / "preprocessor_config.json").unlink()
    with pytest.raises(BaseError, match=r"safety_checker needs feature_extractor/preprocessor_config\.json"):
        generate(base, DRAW)
    (tmp_path / "b" / "safety_checker" / "model.safetensors").unlink()
    with pytest.raises(BaseError, match=r"has no \.safetensors file"):
        generate(base, DRAW)


@pytest.mark.parametrize("size", [(224, 224), (300, 200), (180, 420), (40, 30), (225, 640)])
def test_pictures_are_seen_as_transformers_shows_them(size: tuple[int, int]) -> None:
    picture = noisy_picture(*size)
    ours = clip_pixels(picture, 224)
    theirs = CLIPImageProcessor()(picture, return_tensors="pt").pixel_values
    assert ours.shape == theirs.shape == (1, 3, 224, 224)
    assert (ours - theirs).abs().max() < 0.02  # a level of 255 is 0.015
    config = json.loads(CLIPImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).to_json_string())
    other = CLIPImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)(picture, return_tensors="pt")
    assert (clip_pixels(picture, 224, config) - other.pixel_values).abs().max() < 0.02
