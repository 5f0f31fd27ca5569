"""Where numbers stopped being numbers: a step that went wrong is done once more, and watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainers.evidence.record import Onset
from trainers.inversion import PREFIX

if TYPE_CHECKING:
    from trainers.batches import Batch
    from trainers.stepping.readings import Reading
    from trainers.tuning import Injection

Forward = Callable[["Batch"], torch.Tensor]
"""batch → what is minimised, a scalar, with its graph."""

_INSIDE = (".base_layer", ".lora_", ".default", ".parametrizations")
"""What the names of parts of an adapted layer have behind the layer's own."""


def find_onset(injection: Injection, reading: Reading, batches: Sequence[Batch], forward: Forward) -> Onset:
    """Say where the step of `reading` went wrong: in what was learned before, forward, or backward.

    batches: the step's, on the device; later ones where those are gone. The step hasn't been taken, so that
    it goes wrong in the same place again; where it doesn't, what the run reported is all there is to say.
    Gradients are added to, so the run can't go on after it.
    """
    for name, value in injection.parameters.items():
        if not value.isfinite().all():
            return _onset(reading, _seat(name), "update", f"{{where}} had become {_kind(value)} before it")
    for batch in batches:
        if (place := _unsound(batch)) is not None:
            return _onset(reading, place, "forward", "{where} were none when they came")
    modules = list(_modules(injection))
    with injection.learning(reading.step - 1):
        for batch in batches:
            if (found := _watched(injection, modules, batch, forward)) is not None:
                return _onset(reading, *found)
    broken = sorted(name for name, value in reading.losses.items() if not _finite(value))
    where, phase = ("loss", "forward") if broken else ("gradient", "backward")
    why = "its {where} was none, which didn't come again when the step was repeated"
    return _onset(reading, where, phase, why, repeated=False)


def after_update(reading: Reading, where: str) -> Onset:
    """Say what the step of `reading` left that is no number: `where`, see `RunState.unsound`.

    Loss and gradients were sound, so that going on from before would come to it again.
    """
    return _onset(reading, where, "update", "it left {where} that are none")


def layer_of(name: str) -> str:
    """The layer's name of a module in it, as the base has it."""
    for inside in _INSIDE:
        name = name.split(inside, 1)[0]
    return name


def _seat(parameter: str) -> str:
    """The name of the layer that a parameter of the adapter is of; a learned word's stays as it is."""
    return parameter if parameter.startswith(PREFIX) else parameter.rpartition(".")[0]


def _onset(reading: Reading, where: str, phase: str, why: str, repeated: bool = True) -> Onset:
    words = f"The numbers broke at step {reading.step}: {why.format(where=where)}."
    return Onset(step=reading.step, where=where, phase=phase, words=words, repeated=repeated)


def _unsound(batch: Batch) -> str | None:
    """Name what of a batch isn't finite, or None."""
    for name in ("latents", "noise", "mask"):
        value = getattr(batch, name)
        if value is not None and not value.isfinite().all():
            return {"latents": "the pictures' latents", "noise": "the noise", "mask": "the masks"}[name]
    return None


def _modules(injection: Injection) -> Iterator[tuple[str, nn.Module]]:
    """Every module that computes predictions, by name, from the base's parts inwards."""
    base = injection.base
    for component, part in {"unet": base.unet, **base.text_encoders()}.items():
        for name, module in part.named_modules():
            yield layer_of(f"{component}.{name}".rstrip(".")), module


def _watched(
    injection: Injection, modules: Iterable[tuple[str, nn.Module]], batch: Batch, forward: Forward
) -> tuple[str, str, str] | None:
    """Do a batch forward and backward; return (where, phase, why) of what first wasn't finite, or None."""
    ahead: list[tuple[str, torch.Tensor]] = []
    back: list[tuple[str, torch.Tensor]] = []
    with _hooks(injection, modules, ahead, back):
        loss = forward(batch)
        if ahead:
            return ahead[0][0], "forward", f"the answer of {{where}} was the first with {_kind(ahead[0][1])}"
        if not loss.isfinite().all():
            return "loss", "forward", "each layer's answer was sound, but the error of the prediction wasn't"
        loss.backward()
    if not back:
        return None
    return (
        back[0][0],
        "backward",
        f"on the way back the gradient at {{where}} was the first with {_kind(back[0][1])}",
    )


@contextmanager
def _hooks(
    injection: Injection,
    modules: Iterable[tuple[str, nn.Module]],
    ahead: list[tuple[str, torch.Tensor]],
    back: list[tuple[str, torch.Tensor]],
) -> Iterator[None]:
    """Note in `ahead` which module's answer isn't finite, and in `back` which gradient, as they come."""

    def note(found: list[tuple[str, torch.Tensor]], name: str, value: torch.Tensor) -> None:
        if not value.isfinite().all():
            found.append((name, value.detach()))

    def answered(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, answer: Any) -> None:
            for value in _tensors(answer):
                note(ahead, name, value)
                if value.requires_grad:
                    value.register_hook(partial(note, back, name))

        return hook

    with ExitStack() as held:
        for name, module in modules:
            held.callback(module.register_forward_hook(answered(name)).remove)
        for name, parameter in injection.parameters.items():
            if parameter.requires_grad:
                held.callback(parameter.register_hook(partial(note, back, _seat(name))).remove)
        yield


def _tensors(answer: Any) -> Iterator[torch.Tensor]:
    """Every floating tensor of what a module answers."""
    if isinstance(answer, torch.Tensor):
        if answer.is_floating_point():
            yield answer
    elif isinstance(answer, Mapping):
        for value in answer.values():
            yield from _tensors(value)
    elif isinstance(answer, (list, tuple)):
        for value in answer:
            yield from _tensors(value)


def _kind(value: torch.Tensor) -> str:
    """ "infinity", for numbers that grew out of their range, or "NaN"."""
    return "infinity" if value.isinf().any() and not value.isnan().any() else "NaN"


def _finite(value: float) -> bool:
    return bool(torch.tensor(value).isfinite())
