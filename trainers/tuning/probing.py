"""A trial of layers over quantised ones: some libraries take an adapter and answer without it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from pipelines.errors import ConfigError
from pipelines.methods import Tuning
from trainers.tuning.layers import Tuned


def is_quantised(module: nn.Module) -> bool:
    """Whether a layer's weight is packed in fewer bits by one of the libraries."""
    weight = getattr(module, "weight", None)
    if weight is None:
        return False
    return type(weight.data) is not torch.Tensor or not weight.is_floating_point() or _packed(module)


def _packed(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and tuple(module.weight.shape) != (
        module.out_features,
        module.in_features,
    )


def check_quantised(tuned: Iterable[Tuned], tuning: Tuning) -> None:
    """Try each kind of layer over a quantised one: it must answer, take gradients, and change the answer.

    Raises: ConfigError for what doesn't.
    """
    tried: set[tuple[type, type, type]] = set()
    for one in tuned:
        module = one.seat.module
        if not is_quantised(module):
            continue
        weight = module.weight
        kind = (type(one.layer), type(module), type(weight.data))
        if kind in tried:
            continue
        tried.add(kind)
        if problem := _problem(one):
            raise ConfigError(
                f"{tuning.label} doesn't train on layers quantised as {type(module).__name__} "
                f"({type(weight.data).__name__}): {problem}; choose method 'lora', or load the base whole"
            )


def _problem(one: Tuned) -> str | None:
    """Say what goes wrong in a trial of one layer, whose numbers are put back; None: nothing."""
    trained = one.trained()
    kept = {name: p.detach().clone() for name, p in trained.items()}
    module = one.seat.module
    width = int(module.in_features)  # type: ignore[arg-type]
    device = next(iter(trained.values())).device
    generator = torch.Generator().manual_seed(0)
    bias = getattr(module, "bias", None)
    dtype = bias.dtype if isinstance(bias, torch.Tensor) else torch.get_default_dtype()
    try:
        inputs = torch.randn((1, 4, width), generator=generator).to(device, dtype)
        with torch.no_grad():
            before = module(inputs)
            for parameter in trained.values():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.add_(noise * 0.1)
        after = one.layer(inputs)
        after.float().square().sum().backward()
        if torch.equal(after.detach(), before):
            return "its change is dropped silently"
        if any(parameter.grad is None for parameter in trained.values()):
            return "it has no gradients"
    except Exception as error:  # the libraries raise of every kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return reason[:120].rstrip(".")
    finally:
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(kept[name])
                parameter.grad = None
    return None
