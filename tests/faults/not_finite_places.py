"""Where a number that is none is put into a running training, by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest import MonkeyPatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch


@dataclass
class Spoiled:
    """A number put into a run at `step`. happened: whether it was. before: what was learned before that step
    was taken, by name; now: the parameters themselves."""

    step: int
    value: float
    happened: bool = False
    before: dict[str, torch.Tensor] = field(default_factory=dict)
    now: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def into(self, tensor: torch.Tensor | None) -> None:
        """Put it into the first place of a tensor."""
        if tensor is not None and tensor.numel():
            tensor.detach().reshape(-1)[:1].fill_(self.value)
            self.happened = True

    def changed(self) -> list[str]:
        """What the step has changed of what was learned."""
        return [name for name, one in self.before.items() if not bool((one == self.now[name]).all())]


@dataclass(frozen=True)
class Place:
    """One kind of place.

    put: patches our code so that it happens. first: the variant of `not_finite_runs.VARIANTS` that it is
    tried on first. late: how many steps later it may be noticed. before: whether the step isn't taken at all.
    only: whether no other variant has it.
    """

    put: Callable[[MonkeyPatch, Spoiled], None]
    first: str = "lora, adamw"
    late: int = 0
    before: bool = True
    only: bool = False


def _told(patch: MonkeyPatch, spoiled: Spoiled) -> None:
    """The loss as it is told alone; its gradients are sound."""
    from trainers.stepping import Stepper

    real = Stepper.learn

    def learn(self: Stepper, batch: Any, step: int) -> Any:
        loss, each = real(self, batch, step)
        if step + 1 != spoiled.step:
            return loss, each
        spoiled.happened = True
        return loss * spoiled.value, each

    patch.setattr(Stepper, "learn", learn)


def _of_batch(name: str) -> Callable[[MonkeyPatch, Spoiled], None]:
    """A tensor of the step's batch: latents, noise, what a sample counts."""

    def put(patch: MonkeyPatch, spoiled: Spoiled) -> None:
        from trainers.stepping import Stepper

        real = Stepper.learn

        def learn(self: Stepper, batch: Any, step: int) -> Any:
            if step + 1 == spoiled.step:
                value = getattr(batch, name).clone()
                spoiled.into(value)
                batch = replace(batch, **{name: value})
            return real(self, batch, step)

        patch.setattr(Stepper, "learn", learn)

    return put


def _drawn(patch: MonkeyPatch, spoiled: Spoiled) -> None:
    """Latents as they come from the cache, so that the step's repetition sees them too."""
    from trainers import loop

    real, calls = loop.draw_step, [0]

    def draw(*given: Any) -> Any:
        batches = real(*given)
        calls[0] += 1
        if calls[0] == spoiled.step:
            for batch in batches:
                spoiled.into(batch.latents)
        return batches

    patch.setattr(loop, "draw_step", draw)


def _gradient(patch: MonkeyPatch, spoiled: Spoiled) -> None:
    from trainers.stepping import Stepper

    real = Stepper.learn

    def learn(self: Stepper, batch: Any, step: int) -> Any:
        found = real(self, batch, step)
        if step + 1 == spoiled.step:
            grads = (one.grad for one in self.gradients.parameters if one.grad is not None)
            spoiled.into(next(grads, None))
        return found

    patch.setattr(Stepper, "learn", learn)


def _after_step(find: Callable[[Any], torch.Tensor | None]) -> Callable[[MonkeyPatch, Spoiled], None]:
    """What a step has changed, when it is taken. find: the tensor, of the stepper."""

    def put(patch: MonkeyPatch, spoiled: Spoiled) -> None:
        from trainers.stepping import Stepper

        real, calls = Stepper.take, [0]

        def take(self: Stepper, losses: Any) -> Any:
            found = real(self, losses)
            calls[0] += 1
            if calls[0] == spoiled.step:
                spoiled.into(find(self))
            return found

        patch.setattr(Stepper, "take", take)

    return put


def _weight(stepper: Any) -> torch.Tensor | None:
    learning = (one for one in stepper._injection.parameters.values() if one.requires_grad)
    return next((one.data for one in learning), None)


def _state(stepper: Any) -> torch.Tensor | None:
    """The first large tensor that the optimizer keeps for what learns."""
    for kept in stepper._optimizer.state.values():
        for value in kept.values():
            if hasattr(value, "is_floating_point") and value.is_floating_point() and value.numel() > 1:
                found: torch.Tensor = value
                return found
    return None


def _average(patch: MonkeyPatch, spoiled: Spoiled) -> None:
    """The moving average that stands in for the weights."""
    from trainers.averages import Averages

    real, calls = Averages.after_step, [0]

    def after_step(self: Averages, *given: Any) -> None:
        real(self, *given)
        calls[0] += 1
        if calls[0] == spoiled.step:
            spoiled.into(next(iter(self._moving.values()), None))

    patch.setattr(Averages, "after_step", after_step)


def _caption(patch: MonkeyPatch, spoiled: Spoiled) -> None:
    """A caption's embedding."""
    from trainers.learning import Captions

    real, calls = Captions.ask, [0]

    def ask(self: Captions, batch: Any) -> Any:
        asked = real(self, batch)
        calls[0] += 1
        if calls[0] != spoiled.step or "hidden" not in asked[0].tensors:
            return asked
        hidden = asked[0].tensors["hidden"].clone()
        spoiled.into(hidden)
        return [replace(asked[0], tensors={**asked[0].tensors, "hidden": hidden}), *asked[1:]]

    patch.setattr(Captions, "ask", ask)


PLACES: dict[str, Place] = {
    "the weights": Place(_after_step(_weight), late=1, before=False),
    "a gradient": Place(_gradient),
    "the loss as it is told": Place(_told, first="prodigy"),
    "the optimizer's state": Place(_after_step(_state), first="schedule-free", late=2, before=False),
    "latents": Place(_drawn, first="words"),
    "the average": Place(_average, first="dora, average", late=1, before=False, only=True),
    "the loss": Place(_of_batch("share"), first="fp16"),
    "noise": Place(_of_batch("noise"), first="bf16"),
    "a caption": Place(_caption, first="unet alone", only=True),
}
"""By name; where weights, what an optimizer keeps or averages break, the step itself was sound."""


def _watch(patch: MonkeyPatch, spoiled: Spoiled) -> None:
    """Keep what was learned before the step is taken."""
    from trainers.stepping import Stepper

    real, calls = Stepper.take, [0]

    def take(self: Stepper, losses: Any) -> Any:
        calls[0] += 1
        if calls[0] == spoiled.step:
            spoiled.now = self._injection.parameters
            spoiled.before = {name: one.detach().clone() for name, one in spoiled.now.items()}
        return real(self, losses)

    patch.setattr(Stepper, "take", take)


@contextmanager
def put(place: str, step: int, value: float) -> Iterator[Spoiled]:
    """Let it happen at a step, while this lasts."""
    spoiled = Spoiled(step, value)
    with MonkeyPatch.context() as patch:
        PLACES[place].put(patch, spoiled)
        _watch(patch, spoiled)
        yield spoiled
