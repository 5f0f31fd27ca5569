"""An adapter at rest: what it keeps per module, its learned tokens, and what is known about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from pipelines.methods import METHODS
from pipelines.methods.tensors import UNFIT, bias_misfit
from pipelines.places import places, weight_shape

if TYPE_CHECKING:
    import torch

    from pipelines.base import Base


@dataclass(frozen=True, eq=False)
class LowRank:
    """ΔW of one module as two factors: plain LoRA, the form that every tool reads.

    down: (r, in) of a linear layer, (r, in, kh, kw) of a convolution.
    up: (out, r), or (out, r, 1, 1). alpha: the scale is alpha / r.
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    method = "lora"
    has_delta = True
    on_attention = False

    @property
    def parts(self) -> dict[str, torch.Tensor]:
        """Its tensors by part name."""
        return {"down": self.down, "up": self.up}

    @property
    def options(self) -> dict[str, Any]:
        """What the method needs to know besides: nothing."""
        return {}

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

    def delta(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return ΔW = (alpha / r) · up · down, fp32, of `weight_shape`; `weight` isn't needed.

        Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685, equation 3.
        """
        up, down = self.matrices()
        return (up @ down).reshape(self.weight_shape)

    def bias_delta(self, bias: torch.Tensor) -> torch.Tensor | None:
        """LoRA leaves biases alone: None."""
        return None

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Say why it can't belong to a weight of `shape`, or None.

        A 1×1 convolution's factors may be stored as a linear layer's, and the other way round.
        """
        if _without_ones(self.weight_shape) == _without_ones(shape):
            return None
        return f"it is {self.weight_shape} and the base has {shape}"

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
        return _unsound(self.parts, self.alpha)


@dataclass(frozen=True, eq=False, kw_only=True)
class Factors:
    """What any other method keeps for one module.

    method: a key of METHODS. parts: its tensors by part name (see `Method.parts`). alpha: as the file
    states it. options: what the method needs besides, JSON-able.
    """

    method: str
    parts: Mapping[str, torch.Tensor]
    alpha: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The size that people know the method by; 0 where it has none.

        Raises: AdapterError for shapes or options out of a file that can't be.
        """
        try:
            return METHODS[self.method].rank(self)
        except UNFIT:
            said = f"{METHODS[self.method].label} with options {str(dict(self.options))[:80]!r}"
            raise AdapterError(f"{said} and tensors that don't belong together; fetch it again") from None

    @property
    def weight_shape(self) -> tuple[int, ...] | None:
        """Shape of the weight that ΔW is added to, or None where only the base tells."""
        return METHODS[self.method].shape(self)

    @property
    def has_delta(self) -> bool:
        """Whether it changes a weight at all (see `Method.delta`)."""
        return METHODS[self.method].delta is not None

    @property
    def on_attention(self) -> bool:
        """Whether it sits on a whole self-attention and not on a layer with a weight."""
        return METHODS[self.method].on_attention

    def matrices(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return fp32 (out, r) and (r, in·kh·kw) whose product is ΔW, or None where there are none."""
        matrices = METHODS[self.method].matrices
        return None if matrices is None else matrices(self)

    def delta(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return ΔW, fp32, of the weight's shape.

        weight: the base's own; some methods can't do without (`Method.needs_weight`).
        Raises: AdapterError where it is needed and missing, and for methods without ΔW.
        """
        row = METHODS[self.method]
        if row.delta is None:
            raise AdapterError(f"{row.no_delta} and have no ΔW; mix them as they are")
        if weight is None and row.needs_weight:
            raise AdapterError(f"ΔW of {row.label} depends on the base's weights; give a base")
        return row.delta(self, weight)

    def bias_delta(self, bias: torch.Tensor) -> torch.Tensor | None:
        """Return what is added to the module's bias, fp32 (out,); None where it is left alone."""
        change = METHODS[self.method].bias_delta
        return None if change is None else change(self, bias)

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Say why it can't belong to a weight of `shape`, or None."""
        row = METHODS[self.method]
        if row.misfit is not None:
            return row.misfit(self, shape) or bias_misfit(self, shape)
        found = self.weight_shape
        return None if found == shape else f"it is {found} and the base has {shape}"

    def problem(self) -> str | None:
        """Say what is wrong with the parts by themselves, or None: missing ones, finiteness."""
        row = METHODS[self.method]
        if lacking := row.required - self.parts.keys():
            return f"it has no {sorted(lacking)[0]}"
        if any(part.numel() == 0 for part in self.parts.values()):
            return "its factors are empty"
        return _unsound(self.parts, self.alpha)


AnyFactors = LowRank | Factors
"""What an adapter keeps for one module, whatever its method."""


def _unsound(parts: Mapping[str, torch.Tensor], alpha: float) -> str | None:
    """Say what is wrong with the numbers of tensors and an alpha, or None."""
    for part in parts.values():
        if not part.is_floating_point():
            return f"its numbers are {part.dtype}, expected floating point"
    if not (all(bool(part.isfinite().all()) for part in parts.values()) and abs(alpha) < float("inf")):
        return "it holds numbers that aren't finite (NaN or infinity)"
    return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapter:
    """What training learned, ready to be mixed or written.

    name: for people, no path. family: a key of FAMILIES. method: a key of METHODS, the commonest of its
    modules. factors: by canonical module name, `unet.<diffusers path>` or `text_encoder.<path without
    text_model.>`. tokens: learned words (textual inversion): token → text encoder → (n, width) vectors.
    triggers: the words that call it. metadata: strings by key, carried through files.
    sha256: of the file it was read from; None for one that was never written.
    """

    name: str
    factors: Mapping[str, AnyFactors] = field(default_factory=dict)
    tokens: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
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
    def alpha(self) -> float:
        """The commonest alpha of its modules; 0 for an adapter without modules."""
        alphas = Counter(factor.alpha for factor in self.factors.values())
        return alphas.most_common(1)[0][0] if alphas else 0.0

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of its modules, sorted."""
        return tuple(sorted({factor.method for factor in self.factors.values()}))

    @property
    def components(self) -> tuple[str, ...]:
        """The components it reaches, sorted: of "text_encoder", "text_encoder_2", "unet"."""
        reached = {module.split(".", 1)[0] for module in self.factors}
        return tuple(sorted(reached.union(*self.tokens.values())))

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
        if not self.factors and not self.tokens:
            raise AdapterError(f"adapter {self.name!r} is empty; expected at least one module")
        modules = places(base)
        total = len(self.factors)
        missing = [name for name, own in self.factors.items() if name not in modules[own.on_attention]]
        if missing:
            raise AdapterError(
                f"adapter {self.name!r} doesn't fit base {base.ref!r}: {len(missing)} of {total} modules "
                f"aren't in it, for instance {missing[0]}; choose the base it was made for"
            )
        self.check_factors()
        misfits = {
            name: why
            for name, factor in self.factors.items()
            if (why := factor.misfit(weight_shape(modules[factor.on_attention][name])))
        }
        if misfits:
            first, why = next(iter(misfits.items()))
            raise AdapterError(
                f"adapter {self.name!r} doesn't fit base {base.ref!r}: {len(misfits)} of {total} modules "
                f"have another shape, for instance {first}: {why}; choose the base it was made for"
            )
        self._check_tokens(base)

    def _check_tokens(self, base: Base) -> None:
        for token, vectors in self.tokens.items():
            for component, vector in vectors.items():
                encoder = base.text_encoders().get(component)
                width = None if encoder is None else int(encoder.config.hidden_size)
                if width is None or vector.ndim != 2 or vector.shape[1] != width:
                    raise AdapterError(
                        f"adapter {self.name!r} doesn't fit base {base.ref!r}: the vectors of {token!r} for "
                        f"{component} are {shape_text(vector)}, expected n×{width}; choose the base it was "
                        "made for"
                    )

    def check_factors(self) -> None:
        """Make sure that the factors are sound by themselves. Raises: AdapterError naming the module."""
        for name, factor in self.factors.items():
            if problem := factor.problem():
                raise AdapterError(f"adapter {self.name!r} is damaged at {name}: {problem}; fetch it again")
        for token, vectors in self.tokens.items():
            if not vectors or (problem := _unsound(vectors, 1.0)):
                raise AdapterError(
                    f"adapter {self.name!r} is damaged at token {token!r}: "
                    f"{problem if vectors else 'it is empty'}; fetch it again"
                )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A weight's shape without the kernel of a 1×1 convolution."""
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape


def shape_text(tensor: torch.Tensor) -> str:
    """A tensor's shape for messages, for instance "8×192"."""
    return "×".join(str(size) for size in tensor.shape)
