"""Methods whose ΔW comes out of PEFT's own layer: a holder with one linear layer is adapted and merged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from pipelines.methods.method import Method, Part
from pipelines.methods.peft_config import common_and_patterns, pattern_value, shared_value
from pipelines.methods.tensors import base_weight, misfit
from pipelines.methods.tuning import Tuning

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from pipelines.adapter import AnyFactors


@dataclass(frozen=True, kw_only=True)
class Tuner:
    """What a row needs to know of one of PEFT's tuners.

    config_class: the name of its configuration in `peft`. parts: its tensors. fields: fields of the
    configuration that decide ΔW, kept in `Factors.options` with these defaults. sizes(parts): fields that
    the tensors themselves tell. patterns: field → the table of `adapter_config.json` that overrides it
    per module. settled: further fields, which say nothing about ΔW once the tensors are there.
    bias: whether the layer's bias changes too.
    """

    config_class: str
    parts: tuple[Part, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    sizes: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda parts: {}
    patterns: Mapping[str, str] = field(default_factory=dict)
    settled: tuple[str, ...] = ()
    bias: bool = False

    def arguments(self, factors: AnyFactors) -> dict[str, Any]:
        """Return the configuration's fields for one module."""
        stated = {name: factors.options.get(name, default) for name, default in self.fields.items()}
        return {**stated, **self.sizes(factors.parts)}

    def together(self, factors: Mapping[str, AnyFactors]) -> dict[str, Any]:
        """Return the fields for all modules, by path. Raises: AdapterError where one needs two values."""
        each = {path: self.arguments(factor) for path, factor in factors.items()}
        found: dict[str, Any] = {}
        for name in next(iter(each.values())):
            values = {path: arguments[name] for path, arguments in each.items()}
            if name in self.patterns:
                found[name], found[self.patterns[name]] = common_and_patterns(values)
            else:
                found[name] = shared_value(values, name)
        return found


def merged(
    tuner: Tuner, factors: AnyFactors, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return weight and bias of a linear layer after PEFT has merged the factors into it, fp32.

    Raises: ValueError in PEFT's words where it can't be done.
    """
    import peft
    import torch
    from torch import nn

    if weight.ndim != 2:
        raise ValueError(f"it sits on linear layers only, the base has {tuple(weight.shape)}")
    arguments = tuner.arguments(factors)
    for name, value in arguments.items():
        # Sizes out of a file: PEFT would allocate them before it compares them with the tensors.
        if isinstance(value, int) and not name.endswith("seed") and value > max(weight.numel(), 4096):
            raise ValueError(f"{name} is {value}")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    holder = nn.ModuleDict({"layer": layer})
    state = {
        f"layer.{part.peft}": factors.parts[part.name] for part in tuner.parts if part.name in factors.parts
    }
    try:
        # PEFT draws its first numbers from the global generator, which is nobody else's business.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            make = getattr(peft, tuner.config_class)
            config = make(target_modules=["layer"], **arguments)
            peft.inject_adapter_in_model(config, holder)
            result = peft.set_peft_model_state_dict(holder, state)
            adapted: Any = holder["layer"]
            adapted.merge()
    except (ValueError, RuntimeError, TypeError, KeyError, IndexError, AttributeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"PEFT refuses it: {reason[-1].strip()[:60]}") from None
    if result.unexpected_keys:
        raise ValueError(f"PEFT has no place for {result.unexpected_keys[0]}")
    own = adapted.get_base_layer()
    return own.weight.detach(), None if own.bias is None else own.bias.detach()


def row_through_peft(
    tuner: Tuner,
    *,
    id: str,
    label: str,
    paper: str,
    peft_type: str,
    peft_config: Callable[[int, float, Sequence[str], float], PeftConfig],
    rank: Callable[[AnyFactors], int] = lambda factors: 0,
    tunings: tuple[Tuning, ...] = (),
) -> Method:
    """Make the row of a method whose ΔW is what PEFT's merge adds. Linear layers only."""

    def delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
        base = base_weight(weight)
        if base.is_meta:
            base = base.new_zeros(base.shape, device="cpu")  # a trial of shapes, see `misfit`
        return (merged(tuner, factors, base.cpu(), None)[0] - base.cpu()).to(base.device)

    def bias_delta(factors: AnyFactors, bias: torch.Tensor) -> torch.Tensor | None:
        own = base_weight(bias)
        own = own.new_zeros(own.shape, device="cpu") if own.is_meta else own.cpu()  # as in `delta`
        changed = merged(tuner, factors, own.new_zeros(own.shape[0], 1), own)[1]
        return None if changed is None else (changed - own).to(bias.device)

    def from_peft(
        config: Mapping[str, Any], path: str, parts: Mapping[str, torch.Tensor]
    ) -> tuple[float, dict[str, Any]]:
        options = {}
        for name, default in tuner.fields.items():
            value = pattern_value(config.get(tuner.patterns.get(name, "")), path, config.get(name, default))
            if not isinstance(value, str | int | float | bool | None):
                raise AdapterError(
                    f"adapter_config.json has {name} = {str(value)[:40]!r}; expected one value"
                )
            options[name] = value
        return 1.0, options

    return Method(
        id=id,
        label=label,
        paper=paper,
        parts=tuner.parts,
        formats=("peft", "pigment"),
        delta=delta,
        bias_delta=bias_delta if tuner.bias else None,
        shape=lambda factors: None,
        rank=rank,
        misfit=misfit,
        needs_weight=True,
        peft_type=peft_type,
        peft_config=peft_config,
        peft_fields=tuner.together,
        peft_reads=(*tuner.fields, *tuner.patterns.values(), *tuner.settled),
        from_peft=from_peft,
        linear_only=True,
        tunings=tunings,
    )
