"""The offline judge: unit vectors, any size of picture, and the right one of two subjects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from pipelines.base import ASSETS
from pipelines.errors import BaseError
from trainers.evidence.similarity import Judge


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


def pictures(folder: str) -> list[Image.Image]:
    return [Image.open(path) for path in sorted((ASSETS / "examples" / folder).glob("*.png"))]


def test_embeddings_are_unit_vectors_of_one_space(judge: Judge) -> None:
    image = judge.image_embeddings([*pictures("mascot"), Image.new("L", (33, 91), 128)])
    text = judge.text_embeddings(["a photo of a fox", ""])
    assert image.shape == (6, text.shape[1])
    assert torch.allclose(torch.cat([image, text]).norm(dim=-1), torch.ones(8), atol=1e-5)


def test_a_subject_is_more_like_itself_than_like_another(judge: Judge) -> None:
    for one, other in (("mascot", "teapot"), ("teapot", "mascot")):
        same = judge.image_similarity(pictures(one), pictures(f"{one}/held_out"))
        different = judge.image_similarity(pictures(one), pictures(f"{other}/held_out"))
        assert same > different + 0.1


def test_a_picture_fits_the_prompt_that_names_its_background(judge: Judge) -> None:
    red, green = (Image.new("RGB", (64, 64), colour) for colour in ((214, 40, 40), (50, 160, 60)))
    prompts = ["a photo of a circle on a red background", "a photo of a circle on a green background"]
    assert (
        judge.prompt_similarity([red, green], prompts) > judge.prompt_similarity([green, red], prompts) + 0.1
    )


def test_a_base_without_towers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="image_encoder"):
        Judge.load(tmp_path)
