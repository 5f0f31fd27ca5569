"""The adapter into the base's components, out again, and into an `Adapter`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from pipelines.adapter import Adapter, AnyFactors, LowRank
from pipelines.base import Base
from pipelines.errors import StudioError
from pipelines.methods import TUNED_AS, TUNINGS
from pipelines.methods.own_layer import OwnLayer
from trainers.inversion import PREFIX, Words
from trainers.settings import AdapterConfig, OptimizerConfig
from trainers.tuning import dropout
from trainers.tuning.allocation import Allocation, pruned
from trainers.tuning.layers import Tuned, put_in, take_out
from trainers.tuning.low_rank import Lending
from trainers.tuning.probing import check_quantised, remembered
from trainers.tuning.rates import groups
from trainers.tuning.starts import REWRITING, Start, check_starts, start_from_activations
from trainers.tuning.targets import seats

Forwards = Sequence[Callable[[], object]]


class Injection:
    """An adapter in training inside a base; `eject` takes it out.

    tuned: the layers by canonical module name. parameters: what is trained, fp32, by module name, a dot and
    the part's; of learned words by "tokens.<text encoder>.<word>". words: the learned words, or None.
    notes: what people should know of what was left out.
    """

    def __init__(self, base: Base, config: AdapterConfig) -> None:
        self.base, self.config = base, config
        self.tuning, self.method = TUNINGS[config.method], TUNED_AS[config.method]
        self.tuned: dict[str, Tuned] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        self.words: Words | None = None
        self.notes: tuple[str, ...] = ()
        self._starts: dict[str, Start] = {}
        self._allocations: list[Allocation] = []
        self._dropout: dropout.Randomness | None = None
        self._lending = Lending(())
        self._undo = ExitStack()

    def _put_in(self, seed: int, word: str, forwards: Forwards, quick: bool) -> None:
        """Everything that `inject` does; what was done so far is undone by `eject`."""
        found, notes = seats(self.base, self.config) if self.tuning.sits_on else ([], [])
        self.notes = tuple(notes)
        check_starts(found)
        self._undo.callback(take_out, self.base, found)
        learned = {p: p.requires_grad for seat in found for p in seat.module.parameters()}
        self._undo.callback(lambda: [p.requires_grad_(flag) for p, flag in learned.items()])
        for seat in found:
            self._undo.callback(remembered(seat.module))
        rewritten = [seat for seat in found if seat.size.init in REWRITING]
        whole: dict[str, torch.Tensor] = {}
        for seat in rewritten:  # PEFT may write into what it finds
            weight: Any = seat.module.weight
            whole[seat.name] = weight.data
            weight.data = weight.data.clone()
            self._undo.callback(setattr, weight, "data", whole[seat.name])
        # PEFT and our layers draw their initial values from the global generators, which are given back.
        cards = [self.base.device] if self.base.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cards):
            torch.manual_seed(seed)
            for one in put_in(self.base, self.tuning, self.method, found, quick):
                self.tuned[one.seat.name] = one
                one.layer.eval()
                if isinstance(one.layer, OwnLayer):
                    self._undo.callback(one.layer.restore)
                self.parameters |= {f"{one.seat.name}.{part}": p for part, p in one.trained().items()}
        check_quantised(self.base, self.tuned.values(), self.tuning)
        self._starts = {name: Start(self.tuned[name], whole[name]) for name in whole}
        if self.config.initialisation == "eva":
            start_from_activations(list(self.tuned.values()), forwards)
        if self.tuning.allocates_rank:
            components = dict.fromkeys(one.seat.component for one in self.tuned.values())
            self._allocations = [Allocation(self._of(component)) for component in components]
        self._lending = Lending(one.layer for one in self.tuned.values())
        if self.config.dropout or self.config.module_dropout:
            self._dropout = dropout.Randomness(seed, self.base.device)
        if self.tuning.tokens:
            self.words = Words(self.base, word, self.config, seed)
            self.words.install()
            self._undo.callback(self.words.remove)
            self.parameters |= self.words.parameters

    def _of(self, component: str) -> list[Tuned]:
        return [one for one in self.tuned.values() if one.seat.component == component]

    def eject(self) -> None:
        """Take the adapter out: the base's own layers stand where they stood, bit for bit."""
        self._undo.close()

    @property
    def text_is_trained(self) -> bool:
        """Whether any text encoder, or a word, carries part of the adapter."""
        return any(not name.startswith("unet.") for name in self.parameters)

    def groups(self, config: OptimizerConfig, scale: float = 1.0) -> list[dict[str, Any]]:
        """The optimizer's parameter groups; see `rates.groups`."""
        return groups(self.tuned, self.words, self.tuning, self.config, config, scale)

    @contextmanager
    def learning(self, step: int = 0, rank: int = 0) -> Iterator[None]:
        """Drop out, where the config asks for it, with random numbers of the adapter's own.

        Goes round the forward and the backward pass of a step; everywhere else nothing is dropped. step,
        rank: of the process: they decide the numbers.
        """
        with ExitStack() as held:
            held.enter_context(self._lending.lent())
            if self._dropout is not None:
                layers = [one.layer for one in self.tuned.values()]
                held.enter_context(self._dropout.dropping(layers, step, rank))
            yield

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Let the base predict without the adapter for a while."""
        learn = {p: p.requires_grad for p in self.parameters.values()}
        for one in self.tuned.values():
            one.enable(False)
        for start in self._starts.values():
            start.show_whole(True)
        try:
            with self.words.aside() if self.words is not None else ExitStack():
                yield
        finally:
            for start in self._starts.values():
                start.show_whole(False)
            for one in self.tuned.values():
                one.enable(True)
            for parameter, flag in learn.items():
                parameter.requires_grad_(flag)

    def penalty(self) -> torch.Tensor | None:
        """What the method adds to the loss, or None."""
        if not self._allocations:
            return None
        return torch.stack([allocation.penalty() for allocation in self._allocations]).mean()

    def after_step(self, step: int, total: int) -> None:
        """Do what the method does after each optimizer step, before the gradients are cleared.

        step: from 1 to `total`.
        """
        if self._dropout is not None:
            self._dropout.check_used()
        for allocation in self._allocations:
            allocation.after_step(step, total)
        for one in self.tuned.values():
            if isinstance(one.layer, OwnLayer):
                one.layer.after_step(step, total)

    def pruned(self) -> dict[str, torch.Tensor]:
        """Return by parameter which numbers are nothing from now on, bool of its shape."""
        return {name: gone for one in self._allocations for name, gone in one.pruned().items()}

    def _more(self) -> dict[str, torch.Tensor]:
        """Numbers beside the parameters that decide how a run goes on; tensors of the adapter's own."""
        found: dict[str, torch.Tensor] = {}
        seen: set[int] = set()
        for name, one in self.tuned.items():
            more = one.layer.extra() if isinstance(one.layer, OwnLayer) else one.fixed()
            for part, value in more.items():
                if value.data_ptr() not in seen or not value.numel():  # shared between layers: once
                    found[f"{name}.extra.{part}"] = value
                    seen.add(value.data_ptr())
        for name, start in self._starts.items():
            found |= {f"{name}.{part}": value for part, value in start.state().items()}
        for allocation in self._allocations:
            found |= allocation.state()
        return found

    def state(self) -> dict[str, torch.Tensor]:
        """Every number that a resume needs, copied, by names that never change."""
        values = {**self.parameters, **self._more()}
        return {name: value.detach().clone().contiguous() for name, value in values.items()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write back what `state` returned. Raises: StudioError where a name or shape differs."""
        more = self._more()
        known = {**self.parameters, **more}
        if set(tensors) != set(known):
            odd = sorted(set(tensors) ^ set(known))
            raise StudioError(
                f"checkpoint has other adapter values than this run ({len(odd)}, e.g. {odd[0]}); start afresh"
            )
        for name, value in known.items():
            if tensors[name].shape != value.shape:
                raise StudioError(f"checkpoint has another shape of {name}; start afresh")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])
            for name, one in self.tuned.items():
                begin = f"{name}.extra."
                own = {key.removeprefix(begin): tensors[key] for key in more if key.startswith(begin)}
                if isinstance(one.layer, OwnLayer):
                    one.layer.load_extra(own)
                else:
                    fixed = one.fixed()
                    for part, value in own.items():
                        fixed[part].copy_(value)
            for name, start in self._starts.items():
                start.load({part: tensors[f"{name}.{part}"] for part in start.state()})
        for allocation in self._allocations:
            allocation.load(tensors)

    def collect(
        self, name: str, triggers: Sequence[str] = (), metadata: Mapping[str, str] | None = None
    ) -> Adapter:
        """Copy what was trained into an Adapter."""
        return Adapter(
            name=name,
            factors={module: self._factors(one) for module, one in self.tuned.items()},
            tokens=self.words.tokens() if self.words is not None else {},
            family=self.base.family.id,
            method=self.method.id,
            triggers=tuple(triggers),
            metadata=dict(metadata or {}),
        )

    def _factors(self, one: Tuned) -> AnyFactors:
        if self._allocations:
            parts = pruned({name: part.detach() for name, part in one.parts.items()})
            return Tuned(seat=one.seat, layer=one.layer, parts=parts, stated=one.stated).factors(self.method)
        found = one.factors(self.method)
        start = self._starts.get(one.seat.name)
        if start is not None:
            assert isinstance(found, LowRank)
            return start.factors(found)
        return found

    def describe(self) -> str:
        """In a few words what is trained, for instance "LoRA on 78 layers, 0.35 M numbers"."""
        count = sum(parameter.numel() for parameter in self.parameters.values())
        numbers = f"{count / 1e6:.2f} M" if count >= 10_000 else str(count)
        where = f" on {len(self.tuned)} layers" if self.tuned else ""
        return f"{self.tuning.label}{where}, {numbers} numbers"


def inject(
    base: Base,
    config: AdapterConfig,
    seed: int = 0,
    *,
    word: str = "",
    forwards: Forwards = (),
    quick: bool = True,
) -> Injection:
    """Put a fresh adapter into `base`; it starts as the identity.

    seed: of the initial values. word: the word that is learned, for tunings with tokens. forwards: run
    some batches through the base, for EVA's start. quick: layers in one piece in the place of PEFT's.

    Raises: ConfigError where the base has no layers for it, or they don't take it; the base is as it was.
    """
    injection = Injection(base, config)
    try:
        injection._put_in(seed, word, forwards, quick)
    except BaseException:
        injection.eject()
        raise
    return injection


@contextmanager
def injected(
    base: Base,
    config: AdapterConfig,
    seed: int = 0,
    *,
    word: str = "",
    forwards: Forwards = (),
    quick: bool = True,
) -> Iterator[Injection]:
    """`inject`, and `eject` whatever happens."""
    injection = inject(base, config, seed, word=word, forwards=forwards, quick=quick)
    try:
        yield injection
    finally:
        injection.eject()


@contextmanager
def disabled(injection: Injection) -> Iterator[None]:
    """Let the base predict without the adapter for a while."""
    with injection.disabled():
        yield


__all__ = ["PREFIX", "Injection", "disabled", "inject", "injected"]
