"""Measures on embeddings, held against what a hand works out."""

from __future__ import annotations

import math

import pytest
import torch

from trainers.evidence.diversity import diversity, drift
from trainers.evidence.fidelity import image_similarity, prompt_similarity, structure_similarity

HALF = math.sqrt(0.5)
DRAWN = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.8, 0.0]])
REFERENCES = torch.tensor([[1.0, 0.0, 0.0], [HALF, HALF, 0.0]])


@pytest.mark.parametrize("measure", [image_similarity, structure_similarity])
def test_likeness_is_the_mean_cosine_of_all_pairs(measure: object) -> None:
    by_hand = (1 + HALF + 0 + HALF + 0.6 + 1.4 * HALF) / 6
    assert measure(DRAWN, REFERENCES) == pytest.approx(by_hand)  # type: ignore[operator]


def test_each_picture_is_held_against_its_own_prompt() -> None:
    prompts = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.8, 0.6, 0.0]])
    assert prompt_similarity(DRAWN, prompts) == pytest.approx((1 + 0 + 0.96) / 3)


def test_diversity_is_the_mean_distance_between_pictures_of_one_prompt() -> None:
    assert diversity(DRAWN, ["a", "a", "a"]) == pytest.approx(((1 - 0) + (1 - 0.6) + (1 - 0.8)) / 3)
    assert diversity(DRAWN, ["a", "b", "a"]) == pytest.approx(1 - 0.6)  # alone in its prompt: left out
    two = torch.cat([DRAWN[:2], DRAWN[2:], DRAWN[2:]])
    assert diversity(two, ["a", "a", "b", "b"]) == pytest.approx((1 + 0) / 2)
    assert diversity(DRAWN, ["a", "b", "c"]) is None


def test_drift_is_the_mean_distance_of_pairs() -> None:
    assert drift(DRAWN, DRAWN) == pytest.approx(0, abs=1e-6)
    assert drift(DRAWN[:2], DRAWN[[2, 2]]) == pytest.approx(1 - (0.6 + 0.8) / 2)
