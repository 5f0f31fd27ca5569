"""How near plain LoRA comes to the ΔW that was asked for, per module and in all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.errors import AdapterError


@dataclass(frozen=True, kw_only=True)
class ModuleFit:
    """One module of the result.

    rank: of its factors. distance: ‖asked for − got‖_F. size: ‖asked for‖_F. exact: False where the
    randomised SVD was used (see `lowrank.LARGE_SIDE`).
    """

    rank: int
    distance: float
    size: float
    exact: bool = True

    @property
    def error(self) -> float:
        """The relative Frobenius error; infinity where something came of nothing."""
        return _relative(self.distance, self.size)


@dataclass(frozen=True, kw_only=True)
class LoraReport:
    """What came of making plain LoRA.

    what: what was done, in words. against: what `error` is measured against. modules: by canonical
    name. left_out: what the result can't hold, by module: "bias" or "norm weight". notes: other figures,
    for people and JSON.
    """

    what: str
    against: str = "ΔW"
    modules: Mapping[str, ModuleFit] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def error(self) -> float:
        """The relative Frobenius error of all modules together."""
        distance = math.hypot(*(fit.distance for fit in self.modules.values()))
        return _relative(distance, math.hypot(*(fit.size for fit in self.modules.values())))

    @property
    def worst(self) -> tuple[str, float]:
        """The module with the largest error, and the error; ("", 0) without modules."""
        errors = {module: fit.error for module, fit in self.modules.items()}
        return max(errors.items(), key=lambda item: item[1], default=("", 0.0))

    @property
    def ranks(self) -> tuple[int, int]:
        """The smallest and the largest rank; (0, 0) without modules."""
        ranks = [fit.rank for fit in self.modules.values()]
        return (min(ranks), max(ranks)) if ranks else (0, 0)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON; infinity becomes the text "inf"."""
        return {
            "what": self.what,
            "against": self.against,
            "error": _json(self.error),
            "rank_min": self.ranks[0],
            "rank_max": self.ranks[1],
            "approximate_modules": sum(not fit.exact for fit in self.modules.values()),
            "modules": {
                module: {"rank": fit.rank, "error": _json(fit.error), "size": fit.size}
                for module, fit in self.modules.items()
            },
            "left_out": dict(self.left_out),
            **self.notes,
        }

    def as_text(self) -> str:
        """Return the report for people, one finding a line."""
        low, high = self.ranks
        module, error = self.worst
        lines = [
            self.what,
            f"{len(self.modules)} modules, rank {low}" + (f" to {high}" if high != low else ""),
            f"error against {self.against}: {self.error:.1e} in all, {error:.1e} in the worst module"
            + (f" ({module})" if module else ""),
        ]
        if approximate := sum(not fit.exact for fit in self.modules.values()):
            lines.append(f"{approximate} large modules by randomised SVD; their error is as measured")
        lines += [f"{name.replace('_', ' ')}: {_text(value)}" for name, value in self.notes.items()]
        if self.left_out:
            first = ", ".join(f"{module} ({why})" for module, why in list(self.left_out.items())[:3])
            more = f" and {len(self.left_out) - 3} more" if len(self.left_out) > 3 else ""
            lines.append(f"left out, plain LoRA can't hold it: {first}{more}")
        return "\n".join(lines)


def refuse_left_out(left_out: Mapping[str, str], allowed: bool) -> None:
    """Raise AdapterError where plain LoRA would lose something and the caller didn't allow it."""
    if left_out and not allowed:
        module, why = next(iter(left_out.items()))
        raise AdapterError(
            f"plain LoRA can't hold {len(left_out)} of the changes, for instance the {why} of {module}; "
            "allow them to be left out, or keep the adapters apart in a mix"
        )


def _relative(distance: float, size: float) -> float:
    if size == 0:
        return 0.0 if distance == 0 else math.inf
    return distance / size


def _json(value: float) -> float | str:
    return "inf" if math.isinf(value) else value


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
