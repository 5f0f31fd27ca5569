"""Low-rank algebra: exact where it says so, the best of its rank elsewhere, and the error is true."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines import lowrank
from pipelines.errors import ConfigError
from pipelines.lowrank import (
    EXACTLY,
    RankRule,
    concatenate,
    low_rank,
    product_norm,
    product_svd,
    rank_rule,
    svd,
    tail_energy,
    truncate,
    truncate_product,
)


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _error(matrix: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> float:
    return float((matrix - up @ down).norm() / matrix.norm())


SHAPES = [(12, 9), (9, 12), (40, 6), (6, 40), (1, 7), (7, 1), (1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_svd_is_torchs(shape: tuple[int, int]) -> None:
    matrix = _draw(*shape)
    left, sigma, right = svd(matrix)
    assert torch.allclose(sigma, torch.linalg.svdvals(matrix.double()), atol=1e-10)
    assert torch.allclose((left * sigma) @ right, matrix.double(), atol=1e-10)
    eye = torch.eye(len(sigma), dtype=torch.float64)
    assert torch.allclose(left.T @ left, eye, atol=1e-10)
    assert torch.allclose(right @ right.T, eye, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 20])
def test_a_product_is_taken_apart_without_forming_it(shape: tuple[int, int], rank: int) -> None:
    up, down = _draw(shape[0], rank), _draw(rank, shape[1], seed=1)
    left, sigma, right = product_svd(up, down)
    assert torch.allclose((left * sigma) @ right, up.double() @ down.double(), atol=1e-9)
    assert len(sigma) == min(*shape, rank)
    assert product_norm(up, down) == pytest.approx(float((up.double() @ down.double()).norm()), rel=1e-9)


def test_a_truncation_is_the_best_of_its_rank_and_says_its_error() -> None:
    matrix = _draw(12, 9)
    values = torch.linalg.svdvals(matrix.double())
    for rank in range(1, 10):
        cut = truncate(matrix, RankRule(rank=rank))
        assert cut.rank == rank
        assert cut.exact
        assert cut.error == pytest.approx(float(values[rank:].norm() / values.norm()), abs=1e-7)
        assert _error(matrix, cut.up, cut.down) == pytest.approx(cut.error, abs=1e-6)


def test_the_singular_values_are_shared_by_both_factors() -> None:
    cut = truncate(_draw(12, 9), RankRule(rank=4))
    assert torch.allclose(cut.up.norm(dim=0), cut.down.norm(dim=1), rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_rank_of_the_full_rank_or_more_is_exact(shape: tuple[int, int]) -> None:
    matrix = _draw(*shape)
    for rule in (EXACTLY, RankRule(rank=min(shape)), RankRule(rank=99), RankRule(energy=1.0)):
        cut = truncate(matrix, rule)
        assert cut.rank == min(shape)
        assert _error(matrix, cut.up, cut.down) < 1e-6
        assert cut.error < 1e-6


def test_exact_finds_the_rank_that_is_there() -> None:
    up, down = _draw(30, 5), _draw(5, 20, seed=1)
    assert truncate(up @ down).rank == 5
    assert truncate_product(up, down).rank == 5
    padded = truncate_product(torch.cat([up, up], dim=1), torch.cat([down, -down], dim=0))
    assert padded.rank == 1  # the sum is zero
    assert float((padded.up @ padded.down).norm()) < 1e-5
    twice = truncate_product(torch.cat([up, up], dim=1), torch.cat([down, down], dim=0))
    assert twice.rank == 5
    assert _error(2 * up @ down, twice.up, twice.down) < 1e-6


@pytest.mark.parametrize("rule", [EXACTLY, RankRule(rank=3), RankRule(energy=0.9), RankRule(error=0.1)])
def test_a_matrix_of_zeros_keeps_one_rank_of_zeros(rule: RankRule) -> None:
    cut = truncate(torch.zeros(6, 5), rule)
    assert cut.error == 0
    assert cut.rank == (3 if rule.rank else 1)
    assert not (cut.up @ cut.down).any()


@pytest.mark.parametrize("share", [0.3, 0.9, 0.98, 0.9999])
def test_energy_keeps_the_fewest_that_hold_that_share(share: float) -> None:
    matrix = _draw(20, 15)
    cut = truncate(matrix, RankRule(energy=share))
    kept = 1 - tail_energy(svd(matrix)[1])
    assert kept[cut.rank] >= share > kept[cut.rank - 1]
    assert cut.error**2 <= 1 - share + 1e-12


@pytest.mark.parametrize("allowed", [0.5, 0.1, 0.01])
def test_error_keeps_the_fewest_that_err_no_more(allowed: float) -> None:
    matrix = _draw(20, 15)
    cut = truncate(matrix, RankRule(error=allowed))
    assert cut.error <= allowed
    assert cut.rank == 1 or truncate(matrix, RankRule(rank=cut.rank - 1)).error > allowed
    assert _error(matrix, cut.up, cut.down) <= allowed + 1e-6


def test_rules_together_and_in_words() -> None:
    matrix = _draw(20, 15)
    assert truncate(matrix, RankRule(energy=0.9999, rank=4)).rank == 4
    assert truncate(matrix, RankRule(energy=0.1, rank=14)).rank < 14
    both = truncate(matrix, RankRule(energy=0.5, error=0.01))
    assert both.rank == truncate(matrix, RankRule(error=0.01)).rank
    assert rank_rule(8) == RankRule(rank=8)
    assert rank_rule(None) == EXACTLY
    texts = [rule.as_text() for rule in (EXACTLY, RankRule(rank=8), RankRule(energy=0.98, error=0.1, rank=3))]
    assert texts == ["exact", "rank 8", "energy 0.98, error 0.1, rank at most 3"]


@pytest.mark.parametrize(
    "fields",
    [
        {"rank": 0},
        {"rank": -1},
        {"rank": 1.5},
        {"energy": 0.0},
        {"energy": 1.1},
        {"energy": math.nan},
        {"error": -0.1},
        {"error": 1.0},
    ],
)
def test_rules_out_of_bounds_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="was asked for; give"):
        RankRule(**fields)  # type: ignore[arg-type]


def test_concatenation_is_the_weighted_sum() -> None:
    factors = [(_draw(8, r, seed=r), _draw(r, 6, seed=r + 50)) for r in (1, 2, 5)]
    weights = [0.5, -2.0, 0.0]
    up, down = concatenate(factors, weights)
    assert up.shape == (8, 8)
    expected = sum(w * u.double() @ d.double() for w, (u, d) in zip(weights, factors, strict=True))
    assert torch.allclose(up.double() @ down.double(), torch.as_tensor(expected), atol=1e-6)
    plain = concatenate(factors)
    assert torch.allclose(plain[0] @ plain[1], torch.stack([u @ d for u, d in factors]).sum(0), atol=1e-5)


def test_norms_of_differences_dont_cancel() -> None:
    up, down = _draw(50, 4).double(), _draw(4, 40, seed=1).double()
    near = up + 1e-9 * _draw(50, 4, seed=2)
    measured = product_norm(*concatenate([(up, down), (near, down)], [1.0, -1.0]))
    assert measured == pytest.approx(float(((up - near) @ down).norm()), rel=1e-4)


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3, 3), (8, 6, 1, 1), (1, 1)])
def test_factors_take_the_weights_shape(shape: tuple[int, ...]) -> None:
    weight = _draw(*shape)
    cut = truncate(weight.flatten(1))
    factor = low_rank(cut.up, cut.down, shape)
    assert factor.problem() is None
    assert factor.weight_shape == shape
    assert factor.alpha == factor.rank
    assert torch.allclose(factor.delta(), weight, atol=1e-5)


def test_large_matrices_go_the_randomised_way_alike_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowrank, "LARGE_SIDE", 39)
    matrix = _draw(60, 4) @ _draw(4, 40, seed=1) + 1e-3 * _draw(60, 40, seed=2)
    state = torch.get_rng_state()
    first, second = truncate(matrix, RankRule(rank=4)), truncate(matrix, RankRule(rank=4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.up, second.up)
    assert not first.exact
    monkeypatch.setattr(lowrank, "LARGE_SIDE", 40)
    best = truncate(matrix, RankRule(rank=4))
    assert best.exact
    assert first.error == pytest.approx(best.error, rel=0.05)
    assert _error(matrix, first.up, first.down) == pytest.approx(first.error, rel=1e-3)
    monkeypatch.setattr(lowrank, "LARGE_SIDE", 39)
    assert truncate(matrix, RankRule(rank=6)).exact  # more than an eighth of the side
    assert truncate(matrix, RankRule(rank=4, energy=0.5)).exact  # the energy needs all values
