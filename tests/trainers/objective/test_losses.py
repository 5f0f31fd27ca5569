"""Losses by hand, and over masks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from trainers.objective import HUBER_SCHEDULES, LOSSES, Levels, masked_mean, sample_losses
from trainers.settings import ObjectiveConfig
from trainers.settings import objective as settings

ALL = torch.arange(4)


def losses_of(error: float, levels: Levels, **fields: Any) -> torch.Tensor:
    """Loss of each of the four levels where every number is off by `error`."""
    predicted = torch.full((4, 2, 2, 2), error)
    return sample_losses(predicted, torch.zeros_like(predicted), None, levels, ALL, ObjectiveConfig(**fields))


def test_names_in_settings_are_the_tables_keys() -> None:
    assert list(LOSSES) == list(settings.LOSSES)
    choices = ObjectiveConfig.model_fields["huber_schedule"].annotation.__args__  # type: ignore[union-attr]
    assert set(HUBER_SCHEDULES) == set(choices)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"loss": "mse"}, 9.0),
        ({"loss": "huber", "huber_schedule": "constant", "huber_c": 1.0}, 2 * (math.sqrt(10) - 1)),
        ({"loss": "huber", "huber_schedule": "constant", "huber_c": 0.5}, math.sqrt(9.25) - 0.5),
        ({"loss": "smooth_l1", "huber_schedule": "constant", "huber_c": 0.5}, 2 * (math.sqrt(9.25) - 0.5)),
        ({"loss": "log_cosh"}, 2 * math.log(math.cosh(3))),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_losses_by_hand(levels: Levels, fields: dict[str, Any], expected: float, sign: int) -> None:
    torch.testing.assert_close(losses_of(3.0 * sign, levels, **fields), torch.full((4,), expected))


def test_the_huber_corner_follows_its_schedule(levels: Levels) -> None:
    def corner(c: float, error: float = 3.0) -> float:
        return 2 * c * (math.sqrt(error**2 + c**2) - c)

    exponential = losses_of(3.0, levels, loss="huber", huber_schedule="exponential", huber_c=0.01)
    # t / T of 0, 1/4, 1/2, 3/4
    expected = [corner(c) for c in (1.0, 10**-0.5, 0.1, 10**-1.5)]
    torch.testing.assert_close(exponential, torch.tensor(expected))
    snr = losses_of(3.0, levels, loss="huber", huber_schedule="snr", huber_c=0.1)
    # σ = √((1 − ᾱ) / ᾱ) of 1/3, 1, 2, 3
    expected = [corner(0.9 / (1 + sigma) ** 2 + 0.1) for sigma in (1 / 3, 1.0, 2.0, 3.0)]
    torch.testing.assert_close(snr, torch.tensor(expected))


def test_the_snr_schedule_ends_at_its_corner_in_pure_noise() -> None:
    objective = ObjectiveConfig(loss="huber", huber_c=0.2)
    error = torch.full((1, 1, 1, 1), 3.0)
    found = sample_losses(
        error, 0 * error, None, Levels(torch.tensor([0.0]), "epsilon"), torch.tensor([0]), objective
    )
    torch.testing.assert_close(found, torch.tensor([0.4 * (math.sqrt(9.04) - 0.2)]))


@pytest.mark.parametrize("loss", list(LOSSES))
def test_large_errors_stay_finite_and_small_ones_have_slopes(levels: Levels, loss: str) -> None:
    assert losses_of(1e4, levels, loss=loss).isfinite().all()
    error = torch.zeros(4, 1, 1, 1, requires_grad=True)
    sample_losses(
        error, torch.zeros_like(error), None, levels, ALL, ObjectiveConfig(loss=loss)
    ).sum().backward()
    assert error.grad is not None and torch.equal(error.grad, torch.zeros_like(error))
    assert (losses_of(1e-2, levels, loss=loss) > 0).all()


def test_a_mask_says_what_counts() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(3, 5, 2, 2)
    mask = torch.stack(
        [
            torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
            torch.tensor([[0.5, 0.5], [0.0, 1.0]]),
            torch.zeros(2, 2),
        ]
    )[:, None]
    torch.testing.assert_close(masked_mean(values, mask), torch.tensor([1.0, 5.5 / 2, 0.0]))
    torch.testing.assert_close(masked_mean(values, None), torch.full((3,), 2.5))


def test_sample_losses_take_the_mask(levels: Levels) -> None:
    predicted = torch.zeros(4, 2, 2, 2)
    predicted[:, :, 0] = 2.0
    mask = torch.zeros(4, 1, 2, 2)
    mask[:, :, 0] = 0.5
    found = sample_losses(predicted, torch.zeros_like(predicted), mask, levels, ALL, ObjectiveConfig())
    torch.testing.assert_close(found, torch.full((4,), 4.0))
