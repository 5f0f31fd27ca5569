"""An adapter at rest: low-rank factors per module, and what is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines.errors import AdapterError

if TYPE_CHECKING:
    import torch

    from pipelines.base import Base


@dataclass(frozen=True, eq=False)
class LowRank:
    """ΔW of one module as two factors.

    down: (r, in) of a linear layer, (r, in, kh, kw) of a convolution.
    up: (out, r), or (out, r, 1, 1). alpha: the scale is alpha / r.
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Rows of `down`."""
        return int(self.down.shape[0])

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight that ΔW is added to: (out, in) or (out, in, kh, kw)."""
        return (int(self.up.shape[0]), *(int(size) for size in self.down.shape[1:]))

    def matrices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return fp32 (out, r) with the scale in it, and fp32 (r, in·kh·kw): ΔW is their product."""
        import torch

        scale = self.alpha / self.rank
        up = self.up.detach().to(torch.float32).reshape(self.up.shape[0], self.rank) * scale
        return up, self.down.detach().to(torch.float32).reshape(self.rank, -1)

    def delta(self) -> torch.Tensor:
        """Return ΔW = (alpha / r) · up · down, fp32, of `weight_shape`.

        Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685, equation 3.
        """
        up, down = self.matrices()
        return (up @ down).reshape(self.weight_shape)

    def with_alpha(self, alpha: float) -> LowRank:
        """Return the same ΔW stated with another alpha (not 0), the difference folded into `up` (fp32)."""
        if alpha == self.alpha:
            return self
        import torch

        return LowRank(down=self.down, up=self.up.to(torch.float32) * (self.alpha / alpha), alpha=alpha)

    def problem(self) -> str | None:
        """Say what is wrong with the factors by themselves, or None: shapes, alpha, finiteness."""
        if self.down.ndim not in (2, 4) or self.up.ndim not in (2, 4):
            return f"its factors have {self.down.ndim} and {self.up.ndim} dimensions, expected 2 or 4"
        if self.rank < 1 or self.down.numel() == 0 or self.up.numel() == 0:
            return "its factors are empty"
        if self.up.shape[1] != self.rank or any(size != 1 for size in self.up.shape[2:]):
            return f"its factors don't fit together: down {shape_text(self.down)}, up {shape_text(self.up)}"
        if not (self.down.is_floating_point() and self.up.is_floating_point()):
            return f"its numbers are {self.down.dtype}, expected floating point"
        if not (self.down.isfinite().all() and self.up.isfinite().all() and abs(self.alpha) < float("inf")):
            return "it holds numbers that aren't finite (NaN or infinity)"
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapter:
    """What training learned, ready to be mixed or written.

    name: for people, no path. family: a key of FAMILIES. method: a key of METHODS.
    factors: by canonical module name, `unet.<diffusers path>` or `text_encoder.<path without
    text_model.>`. triggers: the words that call it. metadata: strings by key, carried through files.
    sha256: of the file it was read from; None for one that was never written.
    """

    name: str
    factors: Mapping[str, LowRank]
    family: str = "sd15"
    method: str = "lora"
    triggers: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    sha256: str | None = None

    @property
    def rank(self) -> int:
        """The largest rank of any module; 0 for an adapter without modules."""
        return max((factor.rank for factor in self.factors.values()), default=0)

    @property
    def components(self) -> tuple[str, ...]:
        """The components it reaches, sorted: of "text_encoder", "unet"."""
        return tuple(sorted({module.split(".", 1)[0] for module in self.factors}))

    def check(self, base: Base) -> None:
        """Make sure that every module exists in `base`, fits its shape, and is finite.

        Touches nothing. Raises: AdapterError that names the first module that doesn't fit, and how
        many there are.
        """
        if self.family != base.family.id:
            raise AdapterError(
                f"adapter {self.name!r} is for {self.family}, base {base.ref!r} is {base.family.id}; "
                f"choose a {self.family} base"
            )
        if not self.factors:
            raise AdapterError(f"adapter {self.name!r} is empty; expected at least one module")
        modules = base.modules()
        total = len(self.factors)
        missing = [name for name in self.factors if name not in modules]
        if missing:
            raise AdapterError(
                f"adapter {self.name!r} doesn't fit base {base.ref!r}: {len(missing)} of {total} modules "
                f"aren't in it, for instance {missing[0]}; choose the base it was made for"
            )
        shapes = {name: tuple(modules[name].weight.shape) for name in self.factors}
        other = [name for name, factor in self.factors.items() if factor.weight_shape != shapes[name]]
        if other:
            first = other[0]
            raise AdapterError(
                f"adapter {self.name!r} doesn't fit base {base.ref!r}: {len(other)} of {total} modules have "
                f"another shape, for instance {first} is {self.factors[first].weight_shape} and the base "
                f"has {shapes[first]}; choose the base it was made for"
            )
        self.check_factors()

    def check_factors(self) -> None:
        """Make sure that the factors are sound by themselves. Raises: AdapterError naming the module."""
        for name, factor in self.factors.items():
            if problem := factor.problem():
                raise AdapterError(f"adapter {self.name!r} is damaged at {name}: {problem}; fetch it again")


def shape_text(tensor: torch.Tensor) -> str:
    """A tensor's shape for messages, for instance "8×192"."""
    return "×".join(str(size) for size in tensor.shape)
