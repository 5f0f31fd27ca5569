"""Weights of noise levels, by hand and against diffusers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from trainers.objective import PREDICTIONS, WEIGHTINGS, Levels, weights
from trainers.settings import ObjectiveConfig
from trainers.settings import objective as settings

ALL = torch.arange(4)


def test_names_in_settings_are_the_tables_keys() -> None:
    assert list(WEIGHTINGS) == list(settings.WEIGHTINGS)


@pytest.mark.parametrize(
    ("fields", "prediction_type", "expected"),
    [
        ({"weighting": "min_snr"}, "epsilon", [5 / 9, 1, 1, 1]),
        ({"weighting": "min_snr"}, "v_prediction", [5 / 10, 1 / 2, 0.25 / 1.25, (1 / 9) / (10 / 9)]),
        ({"weighting": "min_snr"}, "sample", [5, 1, 0.25, 1 / 9]),
        ({"weighting": "min_snr", "snr_gamma": 0.5}, "sample", [0.5, 0.5, 0.25, 1 / 9]),
        ({"weighting": "soft_min_snr"}, "epsilon", [5 / 14, 5 / 6, 5 / 5.25, 5 / (5 + 1 / 9)]),
        ({"weighting": "soft_min_snr", "snr_gamma": 4.0}, "sample", [36 / 13, 4 / 5, 1 / 4.25, 4 / 37]),
        ({"weighting": "debiased"}, "epsilon", [1 / 3, 1, 2, 3]),
        ({"weighting": "debiased"}, "sample", [3, 1, 1 / 2, 1 / 3]),
        ({"weighting": "debiased"}, "v_prediction", [3 / 10, 1 / 2, 0.5 / 1.25, 3 / 10]),
        ({"weighting": "p2"}, "epsilon", [1 / 10, 1 / 2, 1 / 1.25, 9 / 10]),
        ({"weighting": "p2", "p2_k": 3.0, "p2_gamma": 2.0}, "epsilon", [1 / 144, 1 / 16, 3.25**-2, 81 / 784]),
        ({"weighting": "p2"}, "v_prediction", [9 / 100, 1 / 4, 0.2 / 1.25, 0.09]),
    ],
)  # fmt: skip
def test_weights_by_hand(
    levels: Levels, fields: dict[str, Any], prediction_type: str, expected: list[float]
) -> None:
    found = weights(replace(levels, prediction_type=prediction_type), ALL, ObjectiveConfig(**fields))
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("prediction_type", list(PREDICTIONS))
def test_constant_weights_are_one_whatever_is_predicted(levels: Levels, prediction_type: str) -> None:
    found = weights(replace(levels, prediction_type=prediction_type), ALL, ObjectiveConfig())
    assert torch.equal(found, torch.ones(4))


def test_min_snr_is_that_of_diffusers_examples(levels: Levels) -> None:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    scheduler = DDPMScheduler()
    timesteps = torch.arange(0, 1000, 37)
    snr = compute_snr(scheduler, timesteps)
    expected = snr.clamp(max=5.0) / (snr + 1)
    own = Levels(scheduler.alphas_cumprod, "v_prediction")
    found = weights(own, timesteps, ObjectiveConfig(weighting="min_snr"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", list(PREDICTIONS))
@pytest.mark.parametrize("weighting", list(WEIGHTINGS))
def test_pure_noise_and_clean_pictures_have_finite_weights(weighting: str, prediction_type: str) -> None:
    ends = Levels(torch.tensor([1.0, 0.0]), prediction_type)
    found = weights(ends, torch.tensor([0, 1]), ObjectiveConfig(weighting=weighting))
    assert found.isfinite().all() and (found >= 0).all()
