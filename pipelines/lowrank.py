"""Matrices as products of two thin ones: truncated SVD, exact concatenation, choosing the rank.

Pure tensor functions. A weight of a convolution counts as the matrix (out, in·kh·kw). Everything is
computed in fp64, so that what a report calls exact is exact to the fp32 of its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipelines.adapter import LowRank
from pipelines.errors import ConfigError

EXACT = 1e-6
"""Relative Frobenius error up to which a truncation counts as exact: the rounding of an fp32 matrix."""

LARGE_SIDE = 1024
"""Matrices whose shorter side is longer, at a fixed rank of at most an eighth of it, are factored by a
randomised SVD (a tenth of the time or less); everything else by the exact one."""

_ROUNDING = 1e-14
_RANDOM_ROUNDS, _RANDOM_SEED, _OVERSAMPLING = 6, 0, 16


@dataclass(frozen=True, kw_only=True)
class RankRule:
    """How many singular values a truncation keeps: the fewest that satisfy `energy` and `error`.

    rank: at most so many (the rank itself where nothing else is given); None: no limit. energy: share
    of Σσ² that is kept, (0, 1]. error: largest relative Frobenius error, [0, 1). None of the three:
    numerically exact (`EXACT`). One value is always kept.

    Raises: ConfigError for a value out of its bounds.
    """

    rank: int | None = None
    energy: float | None = None
    error: float | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and (isinstance(self.rank, bool) or int(self.rank) != self.rank):
            raise ConfigError(f"a rank of {self.rank!r} was asked for; give a whole number")
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"a rank of {self.rank} was asked for; give 1 or more")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ConfigError(f"an energy of {self.energy:g} was asked for; give a share above 0, up to 1")
        if self.error is not None and not 0 <= self.error < 1:
            raise ConfigError(f"an error of {self.error:g} was asked for; give one from 0 to below 1")

    def choose(self, values: torch.Tensor) -> int:
        """Return how many of the singular values (n,), in falling order, are kept: 1 … n."""
        tail = tail_energy(values)  # (n + 1,): the share of Σσ² beyond the first k
        bounds = []
        if self.energy is not None:
            # An energy of 1 means all that isn't rounding.
            bounds.append(max(1 - self.energy, EXACT**2))
        if self.error is not None:
            bounds.append(max(self.error, EXACT) ** 2)
        if not bounds and self.rank is None:
            bounds.append(EXACT**2)
        fewest = len(values)
        if bounds:
            fewest = int((tail <= min(bounds)).nonzero()[0])
        elif self.rank is not None:
            fewest = self.rank
        if self.rank is not None:
            fewest = min(fewest, self.rank)
        return max(1, min(fewest, len(values)))

    def as_text(self) -> str:
        """Say it for people and recipes: "rank 8", "energy 0.98, rank at most 32", "exact"."""
        parts = []
        if self.energy is not None:
            parts.append(f"energy {self.energy:g}")
        if self.error is not None:
            parts.append(f"error {self.error:g}")
        if self.rank is not None:
            parts.append(f"rank at most {self.rank}" if parts else f"rank {self.rank}")
        return ", ".join(parts) or "exact"


EXACTLY = RankRule()


def rank_rule(rule: RankRule | int | None) -> RankRule:
    """Return the rule that a rank, a rule or None (numerically exact) stands for."""
    return rule if isinstance(rule, RankRule) else RankRule(rank=rule)


@dataclass(frozen=True, eq=False, kw_only=True)
class Truncation:
    """A matrix cut to its leading singular vectors, as a product with balanced factors.

    up: (out, r), down: (r, in), fp32; each carries the square roots of the singular values.
    error: relative Frobenius error against the whole matrix, 0 for a matrix of zeros.
    exact: whether by the exact SVD; False by the randomised one, whose error is as measured.
    """

    up: torch.Tensor
    down: torch.Tensor
    error: float
    exact: bool = True

    @property
    def rank(self) -> int:
        """Columns of `up`."""
        return int(self.up.shape[1])


def truncate(matrix: torch.Tensor, rule: RankRule = EXACTLY) -> Truncation:
    """Cut a matrix (out, in) to the leading singular vectors that `rule` keeps.

    The best approximation of its rank in the Frobenius norm; for large matrices nearly the best, see
    `LARGE_SIDE` (Halko et al. 2011, https://arxiv.org/abs/0909.4061).
    Source: Eckart and Young 1936, https://doi.org/10.1007/BF02288367.
    """
    side = min(matrix.shape)
    fixed = rule.rank is not None and rule.energy is None and rule.error is None
    if fixed and side > LARGE_SIDE and rule.rank is not None and rule.rank * 8 <= side:
        return _truncate_large(matrix, rule.rank)
    return _cut(*svd(matrix), rule)


def truncate_product(up: torch.Tensor, down: torch.Tensor, rule: RankRule = EXACTLY) -> Truncation:
    """Cut up · down, (out, r) · (r, in), as `truncate` would, without forming the product."""
    return _cut(*product_svd(up, down), rule)


def svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U (out, n), σ (n,) falling, Vᵀ (n, in) in fp64, n = min(out, in)."""
    values = matrix.detach().double()
    out, inner = values.shape
    if inner > 2 * out:  # the triangle of a QR is as good and much smaller
        q, r = torch.linalg.qr(values.T)
        left, sigma, right = torch.linalg.svd(r.T, full_matrices=False)
        return left, sigma, right @ q.T
    if out > 2 * inner:
        q, r = torch.linalg.qr(values)
        left, sigma, right = torch.linalg.svd(r, full_matrices=False)
        return q @ left, sigma, right
    left, sigma, right = torch.linalg.svd(values, full_matrices=False)
    return left, sigma, right


def product_svd(up: torch.Tensor, down: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the SVD of up · down as `svd` does, n = min(out, r, in): QR of both sides, SVD of the core.

    What is only the rounding of a sum that cancels counts as 0.
    """
    if up.shape[1] >= min(up.shape[0], down.shape[1]):
        left, sigma, right = svd(up.double() @ down.double())
    else:
        before, core_left = torch.linalg.qr(up.detach().double())  # (out, r), (r, r)
        after, core_right = torch.linalg.qr(down.detach().double().T)  # (in, r), (r, r)
        left, sigma, right = torch.linalg.svd(core_left @ core_right.T, full_matrices=False)
        left, right = before @ left, right @ after.T
    rounding = _ROUNDING * torch.linalg.norm(up.double()) * torch.linalg.norm(down.double())
    return left, sigma * (sigma > rounding), right


def concatenate(
    factors: Sequence[tuple[torch.Tensor, torch.Tensor]], weights: Sequence[float] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (out, R), (R, in) whose product is Σ wᵢ · upᵢ · downᵢ exactly; R is the sum of the ranks.

    factors: at least one (up, down), all for one shape. weights: 1 each where None. A weight goes into
    `up` alone: in both factors it would count twice, and adding the factors would give cross terms.
    """
    scales = [1.0] * len(factors) if weights is None else weights
    ups = [up * scale for (up, _), scale in zip(factors, scales, strict=True)]
    return torch.cat(ups, dim=1), torch.cat([down for _, down in factors], dim=0)


def product_norm(up: torch.Tensor, down: torch.Tensor) -> float:
    """Return ‖up · down‖_F without forming the product, by QR: no cancellation, unlike traces."""
    if up.shape[1] >= min(up.shape[0], down.shape[1]):
        return float(torch.linalg.norm(up.double() @ down.double()))
    left = torch.linalg.qr(up.detach().double(), mode="r")[1]
    right = torch.linalg.qr(down.detach().double().T, mode="r")[1]
    return float(torch.linalg.norm(left @ right.T))


def tail_energy(values: torch.Tensor) -> torch.Tensor:
    """Return (n + 1,): the share of Σσ² that lies beyond the first k values, k = 0 … n; zeros for zeros."""
    energy = values.double() ** 2
    total = energy.sum()
    beyond = torch.cat([energy.flip(0).cumsum(0).flip(0), energy.new_zeros(1)])
    return beyond / total if total > 0 else torch.zeros_like(beyond)


def _relative(error: float, size: float) -> float:
    """Return error / size, both norms; 0 where both are 0, infinity where only `size` is."""
    if size == 0:
        return 0.0 if error == 0 else math.inf
    return error / size


def low_rank(up: torch.Tensor, down: torch.Tensor, weight_shape: Sequence[int]) -> LowRank:
    """Return plain LoRA of alpha = r for a weight (out, in) or (out, in, kh, kw).

    up: (out, r), down: (r, in·kh·kw); a convolution's down becomes (r, in, kh, kw), its up (out, r, 1, 1).
    """
    rank = int(down.shape[0])
    ones = (1,) * (len(weight_shape) - 2)
    return LowRank(
        down=down.to(torch.float32).reshape(rank, *weight_shape[1:]).contiguous(),
        up=up.to(torch.float32).reshape(weight_shape[0], rank, *ones).contiguous(),
        alpha=float(rank),
    )


def _cut(left: torch.Tensor, sigma: torch.Tensor, right: torch.Tensor, rule: RankRule) -> Truncation:
    """Keep what `rule` keeps of an SVD, balanced."""
    rank = rule.choose(sigma)
    root = sigma[:rank].sqrt()
    return Truncation(
        up=(left[:, :rank] * root).float(),
        down=(root[:, None] * right[:rank]).float(),
        error=math.sqrt(float(tail_energy(sigma)[rank])),
    )


def _truncate_large(matrix: torch.Tensor, rank: int) -> Truncation:
    """Cut a large matrix to `rank` by a randomised SVD; the caller's random state is left alone."""
    values = matrix.detach().float()
    devices = [values.device] if values.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_RANDOM_SEED)
        left, sigma, right = torch.svd_lowrank(values, q=rank + _OVERSAMPLING, niter=_RANDOM_ROUNDS)
    root = sigma[:rank].sqrt()
    up, down = left[:, :rank] * root, root[:, None] * right[:, :rank].T
    error = _relative(float(torch.linalg.norm(values - up @ down)), float(torch.linalg.norm(values)))
    return Truncation(up=up, down=down, error=error, exact=False)
