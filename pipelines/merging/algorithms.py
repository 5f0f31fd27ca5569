"""The merge algorithms, one row each: pure tensor functions on ΔW.

`deltas` is (K, out, in…): ΔW of K adapters for one module, at weight 1; `weights` is (K,), of any
sign. None of them touches factors: adding scaled factors gives wᵢ² or cross terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, nearest

if TYPE_CHECKING:
    import torch

    MergeFunction = Callable[..., torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One setting of a merge, as a form or a command offers it.

    kind: "share" (a float), "choice", or "int". low, high: bounds, both allowed; None: unbounded.
    default: None where it may be left out.
    """

    name: str
    label: str
    help: str
    kind: str
    default: float | int | str | None
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def checked(self, value: Any) -> float | int | str:
        """Return a value within bounds. Raises: ConfigError."""
        if self.kind == "choice":
            if value not in self.choices:
                raise ConfigError(f"{self.name} is {value!r}; choose one of {', '.join(self.choices)}")
            return str(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (self.kind == "int" and int(value) != value):
            raise ConfigError(f"{self.name} is {value!r}; give a {'whole ' * (self.kind == 'int')}number")
        if not (self.low is None or value >= self.low) or not (self.high is None or value <= self.high):
            upper = "" if self.high is None else f" to {self.high:g}"
            raise ConfigError(f"{self.name} is {value:g}; give a number from {self.low:g}{upper}")
        return int(value) if self.kind == "int" else float(value)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """One merge algorithm.

    id, label, paper: its key in MERGES, its name for people, where it was published. variant: which of
    the readings in use is meant here. combine(deltas, weights, **parameters): the merged ΔW.
    parameters: what `combine` takes besides, and `rank` and `seed`, which `merge_adapters` sees to.
    additive: whether the result is Σ wᵢΔWᵢ, so that it can be had from the adapters' factors.
    keeps_factors: whether it is those factors side by side, and nothing else.
    """

    id: str
    label: str
    paper: str
    variant: str
    combine: MergeFunction
    parameters: tuple[Parameter, ...] = ()
    additive: bool = False
    keeps_factors: bool = False

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return every parameter's value: the given ones that aren't None, else the defaults.

        Raises: ConfigError for one that this algorithm doesn't take, or out of bounds.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        stated = {name: value for name, value in given.items() if value is not None}
        for name in stated:
            if name not in known:
                taken = ", ".join(known) or "no parameters"
                raise ConfigError(f"merge method {self.id!r} takes no {name}; it takes {taken}")
        values = {name: parameter.default for name, parameter in known.items()}
        return values | {name: known[name].checked(value) for name, value in stated.items()}


def merge_row(method: str) -> Merge:
    """Return the row of MERGES. Raises: ConfigError for an unknown name."""
    if method not in MERGES:
        raise ConfigError(f"unknown merge method {method!r}{nearest(method, MERGES)}")
    return MERGES[method]


def linear(deltas: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return Σ wᵢΔWᵢ.

    Source: task arithmetic, Ilharco et al. 2022, https://arxiv.org/abs/2212.04089, section 2.
    """
    return _weighted(deltas, weights).sum(dim=0)


def ties(
    deltas: torch.Tensor, weights: torch.Tensor, *, density: float, majority_sign: str = "total"
) -> torch.Tensor:
    """Trim each ΔW, weight it, elect a sign per entry, and average what agrees with it.

    density: share of each ΔW's entries kept, the largest ones. majority_sign: see `disjoint_mean`.
    The average is over the adapters that agree, so K equal adapters give one adapter, not K.

    Source: Yadav et al. 2023, https://arxiv.org/abs/2306.01708, algorithm 1. The paper has one λ for
    all; here each has its weight, and signs are elected after weighting: a negative weight votes for
    the opposite sign, a large one counts for more. (PEFT elects before weighting.)
    """
    return disjoint_mean(_weighted(trim(deltas, density), weights), majority_sign)


def dare_linear(
    deltas: torch.Tensor, weights: torch.Tensor, *, density: float, generator: torch.Generator
) -> torch.Tensor:
    """Return Σ wᵢ · (ΔWᵢ with a random share dropped, the rest scaled up).

    Source: Yu et al. 2023, https://arxiv.org/abs/2311.03099, section 3.2.
    """
    return linear(drop(deltas, density, generator), weights)


def dare_ties(
    deltas: torch.Tensor,
    weights: torch.Tensor,
    *,
    density: float,
    majority_sign: str = "total",
    generator: torch.Generator,
) -> torch.Tensor:
    """As `ties`, with random dropping and scaling up in the place of trimming.

    Source: Yu et al. 2023, https://arxiv.org/abs/2311.03099, sections 3.2 and 4.
    """
    return disjoint_mean(_weighted(drop(deltas, density, generator), weights), majority_sign)


def magnitude_prune(deltas: torch.Tensor, weights: torch.Tensor, *, density: float) -> torch.Tensor:
    """Return Σ wᵢ · (ΔWᵢ without its smallest entries); what is left isn't scaled up.

    Source: Han et al. 2015, https://arxiv.org/abs/1506.02626, applied to ΔW as TIES' first step.
    """
    return linear(trim(deltas, density), weights)


def trim(deltas: torch.Tensor, density: float) -> torch.Tensor:
    """Keep the `density` share of each ΔW's entries that are largest in magnitude (at least one entry)."""
    import torch

    flat = deltas.flatten(1)  # (K, n)
    count = max(1, int(density * flat.shape[1]))
    if count >= flat.shape[1]:
        return deltas
    kept = flat.abs().topk(count, dim=1).indices
    mask = torch.zeros_like(flat).scatter_(1, kept, 1.0)
    return (flat * mask).reshape(deltas.shape)


def drop(deltas: torch.Tensor, density: float, generator: torch.Generator) -> torch.Tensor:
    """Keep each entry with probability `density` and divide by it, so that the expectation stays.

    generator: on the CPU, so that a seed means the same on every device.
    """
    import torch

    if density >= 1:
        return deltas
    chances = torch.rand(deltas.shape, generator=generator)
    return deltas * (chances < density).to(deltas) / density


def disjoint_mean(weighted: torch.Tensor, majority_sign: str) -> torch.Tensor:
    """Average, entry by entry, what has the majority's sign; zeros have no vote and no share.

    weighted: (K, out, in…). majority_sign: "total" elects the sign of the sum, "frequency" that of
    most entries. A tie goes to plus, as in PEFT.
    """
    import torch

    signs = weighted.sign()
    votes = weighted.sum(dim=0) if majority_sign == "total" else signs.sum(dim=0)
    agreeing = signs == torch.where(votes >= 0, 1.0, -1.0)
    return (weighted * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1)


def _weighted(deltas: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return deltas * weights.to(deltas).reshape(-1, *(1 for _ in deltas.shape[1:]))


_DENSITY = Parameter(
    name="density",
    label="Density",
    help="Share of each adapter's entries that is kept.",
    kind="share",
    default=0.5,
    low=1e-6,
    high=1.0,
)
_SIGN = Parameter(
    name="majority_sign",
    label="Majority sign",
    help="How the sign of an entry is elected: by the sum of the values, or by their number.",
    kind="choice",
    default="total",
    choices=("total", "frequency"),
)
_SEED = Parameter(
    name="seed", label="Seed", help="Of the random dropping.", kind="int", default=0, low=0, high=2**53 - 1
)
_RANK = Parameter(
    name="rank",
    label="Largest rank",
    help="Of the result's modules; empty: as much as it takes to be exact.",
    kind="int",
    default=None,
    low=1,
)
_RANK_NEEDED = Parameter(
    name="rank", label="Rank", help="Of the result's modules.", kind="int", default=16, low=1
)

MERGES: dict[str, Merge] = {
    row.id: row
    for row in (
        Merge(
            id="cat",
            label="Concatenation (exact)",
            paper="https://arxiv.org/abs/2106.09685",
            variant="Σ wᵢΔWᵢ exactly: the factors side by side, the rank is the sum of the ranks; "
            "needs methods with factors",
            combine=linear,
            additive=True,
            keeps_factors=True,
        ),
        Merge(
            id="linear",
            label="Linear",
            paper="https://arxiv.org/abs/2212.04089",
            variant="Σ wᵢΔWᵢ of any methods, in the fewest ranks that are numerically exact; on ΔW, not "
            "on the factors as PEFT's 'linear'",
            combine=linear,
            parameters=(_RANK,),
            additive=True,
        ),
        Merge(
            id="svd",
            label="SVD",
            paper="https://doi.org/10.1007/BF02288367",
            variant="Σ wᵢΔWᵢ cut to a rank by SVD: the nearest in the Frobenius norm, module by module",
            combine=linear,
            parameters=(_RANK_NEEDED,),
            additive=True,
        ),
        Merge(
            id="ties",
            label="TIES",
            paper="https://arxiv.org/abs/2306.01708",
            variant="trimmed per module, signs elected after weighting, mean over those that agree",
            combine=ties,
            parameters=(_DENSITY, _SIGN, _RANK),
        ),
        Merge(
            id="dare_linear",
            label="DARE",
            paper="https://arxiv.org/abs/2311.03099",
            variant="entries of ΔW dropped with probability 1 − density, the rest divided by density, "
            "then Σ wᵢΔWᵢ",
            combine=dare_linear,
            parameters=(_DENSITY, _SEED, _RANK),
        ),
        Merge(
            id="dare_ties",
            label="DARE-TIES",
            paper="https://arxiv.org/abs/2311.03099",
            variant="dropped and scaled up as DARE, then signs elected after weighting, mean over those "
            "that agree",
            combine=dare_ties,
            parameters=(_DENSITY, _SIGN, _SEED, _RANK),
        ),
        Merge(
            id="magnitude_prune",
            label="Magnitude pruning",
            paper="https://arxiv.org/abs/1506.02626",
            variant="the smallest entries of each ΔW set to 0 per module, nothing scaled up, then Σ wᵢΔWᵢ",
            combine=magnitude_prune,
            parameters=(_DENSITY, _RANK),
        ),
    )
}
