"""Noise: what is added to it, and how much."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from trainers.objective import draw_noise, perturbed
from trainers.settings import ObjectiveConfig

SHAPE = (2, 4, 8, 8)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_plain_noise_is_the_generators() -> None:
    assert torch.equal(draw_noise(SHAPE, seeded(), ObjectiveConfig()), torch.randn(SHAPE, generator=seeded()))


def test_an_offset_moves_whole_channels() -> None:
    found = draw_noise(SHAPE, seeded(), ObjectiveConfig(noise_offset=0.5))
    generator = seeded()
    plain, whole = (torch.randn(size, generator=generator) for size in (SHAPE, (2, 4, 1, 1)))
    torch.testing.assert_close(found, plain + 0.5 * whole)


def test_a_pyramid_by_hand() -> None:
    found = draw_noise(SHAPE, seeded(), ObjectiveConfig(pyramid_levels=2, pyramid_discount=0.3))
    generator = seeded()
    fine, half, quarter = (torch.randn((2, 4, side, side), generator=generator) for side in (8, 4, 2))
    expected = fine
    for strength, coarse in ((0.3, half), (0.09, quarter)):
        expected = expected + strength * functional.interpolate(coarse, size=(8, 8), mode="bilinear")
    torch.testing.assert_close(found, expected / expected.std(dim=(1, 2, 3), keepdim=True))


def test_a_pyramid_ends_where_a_side_is_one_position() -> None:
    ends, longer = (
        draw_noise((1, 2, 4, 16), seeded(), ObjectiveConfig(pyramid_levels=count)) for count in (2, 10)
    )
    assert torch.equal(ends, longer)
    torch.testing.assert_close(longer.std(), torch.tensor(1.0))


def test_a_sample_of_a_pyramid_has_its_own_scale() -> None:
    both = draw_noise(SHAPE, seeded(), ObjectiveConfig(pyramid_levels=3))
    torch.testing.assert_close(both.std(dim=(1, 2, 3)), torch.ones(2))


def test_perturbation_is_further_noise_on_the_input_only() -> None:
    noise = torch.ones(SHAPE)
    assert perturbed(noise, seeded(), ObjectiveConfig()) is noise
    found = perturbed(noise, seeded(), ObjectiveConfig(input_perturbation=0.1))
    torch.testing.assert_close(found, 1.0 + 0.1 * torch.randn(SHAPE, generator=seeded()))
    assert torch.equal(noise, torch.ones(SHAPE))


def test_what_is_off_draws_nothing() -> None:
    generator = seeded()
    perturbed(torch.ones(SHAPE), generator, ObjectiveConfig())
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_a_discount_without_a_pyramid_is_refused() -> None:
    with pytest.raises(ValueError, match="set pyramid_levels"):
        ObjectiveConfig(pyramid_discount=0.9)
