"""What a row of TUNINGS is made of: one way to train what a row of METHODS keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

    from pipelines.methods.own_layer import OwnLayer


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a module's share of an adapter is, and how it starts.

    rank: the method's own size (columns, block side, frequencies). alpha: the scale is alpha / rank.
    dropout: share of inputs (or of what the method drops instead) left out in training, [0, 1).
    module_dropout: share of steps in which the whole module's change is left out, [0, 1).
    init: one of the tuning's `initialisations`.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    module_dropout: float = 0.0
    init: str = "default"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """One way to train. It belongs to the row of METHODS in whose `tunings` it stands, which keeps it.

    id, label, paper: its key in TUNINGS, its name for people, where it was published.
    summary: in one line, what it is good for.
    peft_config(size, target modules): a configuration of PEFT's tuner, which starts as the identity;
    layer(module, size): an own layer put in a module's place. One of the two is given, or `tokens`.
    low_rank(size): where PEFT's layer answers no more than base(x) + alpha/rank · up(down(x)), that alpha;
    layers in one piece can then stand in the place of PEFT's.
    sits_on: kinds of module it can sit on, of KINDS.
    components: "unet", "text" or both. endings: of the names of the modules that it takes out of the
    targets; empty: any. suits(module): whether it has anything to learn there; a module where it hasn't is
    left out. misfit(module, size): why it can't sit on a module of that shape, or None; it's refused then.
    uses: which fields of Size mean something. by_block: whether modules may differ in rank and alpha.
    initialisations: what `Size.init` may be. rank_multiple: what the rank must be a multiple of.
    decays: whether weight decay pulls it towards no change, and so makes sense; no_decay: the trained parts
    where it doesn't although it does elsewhere. allocates_rank: whether ranks are given out in training, by
    importance. learning_rate: good for models of the published sizes. tokens: whether it learns words too.
    replayable: whether every step does the same operations, so that they can be recorded.
    """

    id: str
    label: str
    paper: str
    summary: str
    peft_config: Callable[[Size, Sequence[str]], PeftConfig] | None = None
    layer: Callable[[nn.Module, Size], OwnLayer] | None = None
    low_rank: Callable[[Size], float] | None = None
    sits_on: tuple[str, ...] = ("linear", "conv")
    components: tuple[str, ...] = ("unet", "text")
    endings: tuple[str, ...] = ()
    suits: Callable[[nn.Module], bool] | None = None
    misfit: Callable[[nn.Module, Size], str | None] | None = None
    uses: frozenset[str] = frozenset({"rank", "alpha", "dropout"})
    by_block: bool = True
    initialisations: tuple[str, ...] = ("default",)
    rank_multiple: int = 1
    decays: bool = True
    no_decay: tuple[str, ...] = ()
    allocates_rank: bool = False
    learning_rate: float = 1e-4
    tokens: bool = False
    replayable: bool = True


KINDS = ("linear", "conv", "pointwise", "norm", "attention")
"""Kinds of module: linear layers, convolutions of any kernel, those of kernel 1 alone, normalisations, and
whole attention modules of a text encoder (`self_attn`)."""


def tuned(
    make: Callable[[int, float, Sequence[str], float], PeftConfig] | None,
) -> Callable[[Size, Sequence[str]], PeftConfig]:
    """Make a tuning's `peft_config` of a row's."""
    assert make is not None

    def config(size: Size, targets: Sequence[str]) -> PeftConfig:
        return make(size.rank, size.alpha, targets, size.dropout)

    return config


def sides(module: nn.Module) -> tuple[int, int]:
    """Return a module's outputs and the inputs of one of them, (out, in) or (out, in·kh·kw)."""
    layer: Any = module
    if hasattr(layer, "in_features"):
        return int(layer.out_features), int(layer.in_features)
    return int(layer.weight.shape[0]), int(layer.weight[0].numel())


def divides(what: str, size: int, **numbers: int) -> str | None:
    """Say which of `numbers` (by what they count) `size` doesn't divide, or None."""
    for name, number in numbers.items():
        if number % size:
            near = [n for n in range(1, size + 1) if number % n == 0]
            return f"{what} of {size} doesn't divide its {number} {name}; {near[-1]} would"
    return None
