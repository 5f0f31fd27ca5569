"""The offline judge: unit vectors, any size of picture, and what it tells apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.base import ASSETS
from pipelines.errors import BaseError, StudioError
from trainers.base.corpus import compose
from trainers.base.glyphs import find_font
from trainers.base.subjects import SUBJECTS
from trainers.evidence.similarity import Judge

try:
    find_font()
    HAS_FONT = True
except StudioError:
    HAS_FONT = False


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


@pytest.mark.skipif(not HAS_FONT, reason="Noto Color Emoji isn't installed")
def test_a_subject_is_more_like_itself_on_another_background_than_like_others(judge: Judge) -> None:
    rng = np.random.default_rng(0)
    chosen = [SUBJECTS[i] for i in rng.choice(len(SUBJECTS), 60, replace=False)]
    sides = [
        judge.image_embeddings(
            [Image.fromarray((compose(subject, rng).pixels * 255).astype(np.uint8)) for subject in chosen]
        )
        for _ in range(2)
    ]
    cosine = sides[0] @ sides[1].T
    same = cosine.diag().mean()
    others = (cosine.sum() - cosine.diag().sum()) / (60 * 59)
    assert same > others + 0.05


def test_a_picture_fits_the_prompt_that_names_its_background(judge: Judge) -> None:
    red, green = (Image.new("RGB", (64, 64), colour) for colour in ((214, 40, 40), (50, 160, 60)))
    prompts = ["a photo of a circle on a red background", "a photo of a circle on a green background"]
    assert (
        judge.prompt_similarity([red, green], prompts) > judge.prompt_similarity([green, red], prompts) + 0.1
    )


def test_a_base_without_towers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="image_encoder"):
        Judge.load(tmp_path)
