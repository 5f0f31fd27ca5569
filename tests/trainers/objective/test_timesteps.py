"""Which noise levels are drawn: quantiles by hand, spread over the batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from trainers.objective import TIMESTEPS, Levels, draw_timesteps
from trainers.settings import ObjectiveConfig
from trainers.settings import objective as settings

LEVELS = Levels(torch.linspace(0.99, 0.01, 1000), "epsilon")


def quantiles(*shares: float, **fields: Any) -> list[float]:
    """t / T below which so much lies."""
    objective = ObjectiveConfig(**fields)
    return TIMESTEPS[objective.timestep_sampling](torch.tensor(shares).double(), objective).tolist()


def test_names_in_settings_are_the_tables_keys() -> None:
    assert list(TIMESTEPS) == list(settings.TIMESTEPS)


def test_logit_normal_by_hand() -> None:
    found = quantiles(0.5, 0.8413447, timestep_sampling="logit_normal", logit_mean=-1.0, logit_std=2.0)
    assert found == pytest.approx([1 / (1 + math.e), 1 / (1 + math.exp(-1.0))], abs=1e-6)


@pytest.mark.parametrize("slope", [4.0, -7.0])
def test_sigmoid_is_the_inverse_of_its_integral(slope: float) -> None:
    found = quantiles(0.1, 0.6, timestep_sampling="sigmoid", sigmoid_slope=slope, sigmoid_middle=0.3)
    place = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    density = 1 / (1 + torch.exp(-slope * (place - 0.3)))
    for share, reached in zip((0.1, 0.6), found, strict=True):
        assert density[place <= reached].sum() / density.sum() == pytest.approx(share, abs=1e-4)


def test_beta_by_hand() -> None:
    # the distribution function of Beta(2, 1) is x², that of Beta(1, 3) is 1 − (1 − x)³
    assert quantiles(0.25, 0.81, timestep_sampling="beta", beta_a=2.0) == pytest.approx([0.5, 0.9])
    found = quantiles(0.875, timestep_sampling="beta", beta_a=1.0, beta_b=3.0)
    assert found == pytest.approx([0.5])


@pytest.mark.parametrize("sampling", list(TIMESTEPS))
def test_a_batch_is_spread_over_the_distribution(sampling: str) -> None:
    objective = ObjectiveConfig(timestep_sampling=sampling)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_timesteps(4, LEVELS, objective, generator) for _ in range(500)])  # (500, 4)
    assert drawn.dtype == torch.int64 and drawn.min() >= 0 and drawn.max() <= 999
    # one of each quarter of the distribution in every batch, and each place sees all quarters alike
    borders = torch.tensor(quantiles(0.25, 0.5, 0.75, timestep_sampling=sampling)) * 1000
    below = (drawn.sort(dim=1).values[:, :, None] < borders).sum(dim=2)
    expected = torch.tensor([3, 2, 1, 0])
    assert (below == expected).float().mean() > 0.99
    centre = drawn.float().mean()
    assert torch.allclose(drawn.float().mean(dim=0), centre, atol=45)


@pytest.mark.parametrize("sampling", list(TIMESTEPS))
def test_a_range_holds_for_every_row(sampling: str) -> None:
    objective = ObjectiveConfig(timestep_sampling=sampling, timestep_min=0.2, timestep_max=0.3)
    drawn = draw_timesteps(1000, LEVELS, objective, torch.Generator().manual_seed(0))
    assert 200 <= drawn.min() < 225 and 285 < drawn.max() <= 299
    assert ((drawn == 200) | (drawn == 299)).float().mean() < 0.1


def test_a_range_that_is_narrower_than_a_level_is_that_level() -> None:
    objective = ObjectiveConfig(timestep_min=0.5, timestep_max=0.5001)
    drawn = draw_timesteps(5, LEVELS, objective, torch.Generator().manual_seed(0))
    assert drawn.tolist() == [500] * 5


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"snr_gamma": 3.0}, "snr_gamma has no effect with weighting 'constant'.*'min_snr', 'soft_min_snr'"),
        ({"weighting": "min_snr", "p2_k": 2.0}, "p2_k has no effect with weighting 'min_snr'"),
        ({"huber_c": 0.2}, "huber_c has no effect with loss 'mse'"),
        ({"loss": "log_cosh", "huber_schedule": "constant"}, "huber_schedule has no effect"),
        ({"logit_std": 2.0}, "logit_std has no effect with timestep_sampling 'uniform'"),
        ({"timestep_sampling": "beta", "sigmoid_slope": 2.0}, "sigmoid_slope has no effect"),
        ({"timestep_sampling": "sigmoid", "sigmoid_slope": 0.0}, "is flat"),
        ({"timestep_min": 0.6, "timestep_max": 0.4}, "timestep_min 0.6 isn't below timestep_max 0.4"),
    ],
)
def test_what_would_have_no_effect_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ObjectiveConfig(**fields)


def test_a_config_of_every_row_is_read_back() -> None:
    for sampling in settings.TIMESTEPS:
        config = ObjectiveConfig(
            timestep_sampling=sampling, weighting="p2", p2_k=2.0, loss="huber", huber_c=0.3
        )
        assert ObjectiveConfig.model_validate(config.model_dump()) == config
