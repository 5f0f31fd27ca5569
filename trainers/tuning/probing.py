"""A trial of layers over quantised ones: some libraries take an adapter and answer without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipelines.base import Base
from pipelines.errors import ConfigError
from pipelines.methods import Tuning

if TYPE_CHECKING:
    from trainers.tuning.layers import Tuned


def is_quantised(module: nn.Module) -> bool:
    """Whether a linear layer's weight is packed in fewer bits by one of the libraries."""
    if not isinstance(module, nn.Linear):
        return False
    weight = module.weight
    packed = tuple(weight.shape) != (module.out_features, module.in_features)
    return packed or type(weight.data) is not torch.Tensor or not weight.is_floating_point()


def remembered(module: nn.Module) -> Callable[[], None]:
    """Return what puts the scales of a bitsandbytes layer of 8 bits back; of any other layer: nothing.

    It keeps them beside its weight, where PEFT's DoRA loses them once the layer has been used.
    """
    layer: Any = module
    state, weight = getattr(layer, "state", None), getattr(layer, "weight", None)
    if state is None or weight is None or not hasattr(weight, "SCB"):
        return lambda: None
    data, beside, inner = weight.data, dict(vars(weight)), dict(vars(state))

    def put_back() -> None:
        layer.weight = weight
        weight.data = data
        vars(weight).update(beside)
        vars(state).update(inner)

    return put_back


def check_quantised(base: Base, tuned: Iterable[Tuned], tuning: Tuning) -> None:
    """Try each kind of quantised layer, and of layer over one.

    The former must pass gradients on to what comes before it; the latter must answer, take gradients, and
    change the answer. Raises: ConfigError for what doesn't.
    """
    ours = [one for one in tuned if is_quantised(one.seat.module)]
    modules = [module for part in base.family.components for module in base.component(part).modules()]
    for label, module in {_label(m): m for m in modules if is_quantised(m)}.items():
        if not _passes_gradients(module):
            raise ConfigError(
                f"nothing can be trained on a base quantised as {label}: it passes no gradients on; choose "
                "another quantisation, or load the base whole"
            )
    for (label, _), one in {(_label(one.seat.module), type(one.layer)): one for one in ours}.items():
        if problem := _problem(one):
            raise ConfigError(
                f"{tuning.label} doesn't train on layers quantised as {label}: {problem}; choose method "
                "'lora', or load the base whole"
            )


def _label(module: nn.Module) -> str:
    weight: Any = module.weight
    return f"{type(module).__name__} ({type(weight.data).__name__})"


def _inputs(module: nn.Module) -> torch.Tensor:
    """Random inputs for a layer, (1, 4, in), where it is and in its precision."""
    layer: Any = module
    dtype = getattr(layer, "compute_dtype", None)
    dtype = layer.bias.dtype if layer.bias is not None else dtype or torch.get_default_dtype()
    values = torch.randn((1, 4, layer.in_features), generator=torch.Generator().manual_seed(0))
    return values.to(layer.weight.device, dtype)


def _passes_gradients(module: nn.Module) -> bool:
    inputs = _inputs(module).requires_grad_(True)
    try:
        with torch.enable_grad():
            torch.autograd.grad(module(inputs).float().sum(), inputs)
    except RuntimeError:  # nothing leads back, or an operation has no derivative
        return False
    return True


def _problem(one: Tuned) -> str | None:
    """Say what goes wrong in a trial of one layer, whose numbers are put back; None: nothing."""
    trained = one.trained()
    kept = {name: p.detach().clone() for name, p in trained.items()}
    generator = torch.Generator().manual_seed(1)
    try:
        inputs = _inputs(one.seat.module)
        with torch.no_grad():
            before = one.seat.module(inputs)
            for parameter in trained.values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))
        with torch.enable_grad():
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
