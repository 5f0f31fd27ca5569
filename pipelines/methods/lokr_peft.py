"""LoKr as PEFT holds it: PEFT derives the halves' sizes from a few fields, so these must be found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from pipelines.methods.peft_config import common_and_patterns

if TYPE_CHECKING:
    from pipelines.adapter import AnyFactors


@dataclass(frozen=True)
class _Sizes:
    """A module's halves: (a·b outputs, c·d inputs), the rank of a factored half (0: none), what is full."""

    a: int
    b: int
    c: int
    d: int | None  # None where the second half is flattened with an unknown kernel
    rank: int
    first_full: bool
    second_full: bool
    core: bool


def split(size: int, factor: int) -> tuple[int, int]:
    """Return the two factors of `size` that LyCORIS and PEFT choose for `decompose_factor`, -1: near √.

    Source: `factorization` of LyCORIS; https://arxiv.org/abs/2309.14859, section 3.3.
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    limit = size if factor == -1 else factor
    small, large = 1, size
    while small < large:
        candidate = next(n for n in range(small + 1, size + 1) if size % n == 0)
        if candidate + size // candidate > small + large or candidate > limit:
            break
        small, large = candidate, size // candidate
    return min(small, large), max(small, large)


def _sizes(factors: AnyFactors) -> _Sizes:
    p = factors.parts
    first_full, second_full, core = "lokr_w1" in p, "lokr_w2" in p, "lokr_t2" in p
    a, c = p["lokr_w1"].shape if first_full else (p["lokr_w1_a"].shape[0], p["lokr_w1_b"].shape[1])
    b: int
    d: int | None
    if second_full:
        b, d = p["lokr_w2"].shape[:2]
    elif core:
        b, d = p["lokr_w2_a"].shape[1], p["lokr_w2_b"].shape[1]
    else:
        # A flattened (r, d·kh·kw) is a linear layer's or a convolution's: without the base, no telling.
        right = p["lokr_w2_b"]
        b, d = p["lokr_w2_a"].shape[0], right.shape[1] if right.ndim > 2 else None
    rank = next((int(p[n].shape[0]) for n in ("lokr_w1_b", "lokr_w2_b") if n in p), 0)
    return _Sizes(int(a), int(b), int(c), None if d is None else int(d), rank, first_full, second_full, core)


def _candidates(found: Mapping[str, _Sizes]) -> Iterator[int]:
    yield -1
    yield from sorted({side for sizes in found.values() for side in (sizes.a, sizes.c)})


def _holds(sizes: _Sizes, factor: int) -> bool:
    if split(sizes.a * sizes.b, factor) != (sizes.a, sizes.b):
        return False
    # A flattened half of a convolution: its input side is checked by PEFT's loader alone.
    return sizes.d is None or split(sizes.c * sizes.d, factor) == (sizes.c, sizes.d)


def _factor(found: Mapping[str, _Sizes]) -> int:
    for factor in _candidates(found):
        if all(_holds(sizes, factor) for sizes in found.values()):
            return factor
    raise AdapterError(
        "PEFT splits the sides of all modules by one factor, this LoKr's sizes fit none; write it as LoRA"
    )


def _rank(sizes: _Sizes) -> int:
    """The r by which PEFT keeps the second half full; a factored one states its own."""
    return sizes.rank or max(1, -(-max(sizes.b, sizes.d or 1) // 2))


def lokr_for_peft(factors: Mapping[str, AnyFactors]) -> dict[str, AnyFactors]:
    """State two full halves with the rank that makes PEFT keep them full, and the alpha to match."""
    from dataclasses import replace

    from pipelines.adapter import Factors
    from pipelines.methods.lokr import lokr_scale

    ready: dict[str, AnyFactors] = {}
    for path, factor in factors.items():
        sizes = _sizes(factor)
        assert isinstance(factor, Factors)
        parts = dict(factor.parts)
        if not sizes.second_full and parts["lokr_w2_b"].ndim > 2:
            parts["lokr_w2_b"] = parts["lokr_w2_b"].flatten(1)
        rank = _rank(sizes)
        alpha = factor.alpha if sizes.rank else lokr_scale(factor) * rank
        ready[path] = replace(factor, parts=parts, alpha=alpha, options={"rank": rank})
    return ready


def lokr_fields(factors: Mapping[str, AnyFactors]) -> dict[str, Any]:
    """Return PEFT's fields. Raises: AdapterError where no configuration gives these sizes."""
    found = {path: _sizes(factor) for path, factor in factors.items()}
    rank, ranks = common_and_patterns({path: int(f.options["rank"]) for path, f in factors.items()})
    alpha, alphas = common_and_patterns({path: f.alpha for path, f in factors.items()})
    split_both = any(not sizes.first_full for sizes in found.values())
    for sizes in found.values():
        r = sizes.rank or _rank(sizes)
        kept_full = not split_both or r >= max(sizes.a, sizes.c) / 2
        if sizes.first_full != kept_full:
            raise AdapterError(
                "PEFT factors the first half of LoKr's modules by size, this adapter does otherwise; "
                "write it as LoRA"
            )
    return {
        "r": rank,
        "rank_pattern": ranks,
        "alpha": alpha,
        "alpha_pattern": alphas,
        "decompose_both": split_both,
        "decompose_factor": _factor(found),
        "use_effective_conv2d": any(sizes.core for sizes in found.values()),
    }
