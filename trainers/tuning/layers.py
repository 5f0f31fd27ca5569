"""Putting PEFT's layers and our own in the modules' places, and finding what they train."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from pipelines.adapter import AnyFactors, Factors, LowRank
from pipelines.base import Base
from pipelines.errors import ConfigError, StudioError
from pipelines.methods import Method, Tuning
from pipelines.methods.own_layer import OwnLayer
from pipelines.uncompiled import peft_uncompiled
from trainers.tuning.low_rank import LowRankLayer, fits, fresh_layer
from trainers.tuning.targets import Seat
from trainers.tuning.together import put_together

NAME = "default"
"""PEFT's name of the one adapter."""
_STARTED_BY_PEFT = ("pissa", "olora")


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuned:
    """A seat with what stands in its place now.

    parts: PEFT's tensors by Pigment's part names, trained or not; of own layers those of low rank alone.
    stated: PEFT's configuration, as it would be saved; empty for own layers.
    """

    seat: Seat
    layer: nn.Module
    parts: Mapping[str, torch.Tensor] = field(default_factory=dict)
    stated: Mapping[str, Any] = field(default_factory=dict)

    def trained(self) -> dict[str, nn.Parameter]:
        """What the optimizer changes, by name within the module."""
        if isinstance(self.layer, OwnLayer):
            return self.layer.trained()
        return {name: part for name, part in self.parts.items() if isinstance(part, nn.Parameter)}

    def fixed(self) -> dict[str, torch.Tensor]:
        """What belongs to the adapter without being trained, by name within the module."""
        return {name: part for name, part in self.parts.items() if not isinstance(part, nn.Parameter)}

    @property
    def scale(self) -> float:
        """What the product of two factors is multiplied by."""
        if isinstance(self.layer, LowRankLayer):
            return self.layer.scale
        return float(self.layer.scaling[NAME])  # type: ignore[index]

    def enable(self, enabled: bool) -> None:
        """Switch the change on or off."""
        if isinstance(self.layer, OwnLayer):
            self.layer.enabled = enabled
        else:
            self.layer.enable_adapters(enabled)  # type: ignore[operator]

    def factors(self, method: Method) -> AnyFactors:
        """A copy of what was trained, as the method keeps it."""
        if isinstance(self.layer, OwnLayer):
            return self.layer.factors(method.id)
        parts = {name: part.detach().cpu().clone() for name, part in self.parts.items()}
        assert method.from_peft is not None
        alpha, options = method.from_peft(self.stated, self.seat.path, parts)
        if method.parts_from_peft is not None:
            parts = method.parts_from_peft(parts, options)
            options = {name: value for name, value in options.items() if name not in parts}
        if method.id == LowRank.method:
            return LowRank(down=parts["down"], up=parts["up"], alpha=alpha)
        return Factors(method=method.id, parts=parts, alpha=alpha, options=options)


def put_in(
    base: Base, tuning: Tuning, method: Method, seats: Sequence[Seat], quick: bool = True
) -> list[Tuned]:
    """Put a fresh layer in the place of every seat's module; initial values come from torch's generator.

    quick: with layers in one piece in the place of PEFT's, where they do the same.

    Raises: ConfigError where PEFT or a layer of our own can't sit there.
    """
    if not seats:
        return []
    if tuning.layer is not None:
        return [_put_own(base, tuning, seat) for seat in seats]
    quick = quick and tuning.low_rank is not None
    tuned: list[Tuned] = []
    for group in _alike(seats):
        if quick and group[0].size.init not in _STARTED_BY_PEFT and all(fits(seat.module) for seat in group):
            made = [_put_low_rank(base, tuning, seat) for seat in group]
            put_together(base, made)
            tuned += made
            continue
        found = _put_group(base, tuning, method, group)
        tuned += [_in_one_piece(base, tuning, one) if quick else one for one in found]
    order = {seat.name: index for index, seat in enumerate(seats)}
    return sorted(tuned, key=lambda one: order[one.seat.name])


def take_out(base: Base, seats: Sequence[Seat]) -> None:
    """Put the base's own modules back where they stood."""
    for seat in seats:
        parent, _, leaf = seat.path.rpartition(".")
        setattr(base.component(seat.component).get_submodule(parent), leaf, seat.module)
    for component in base.family.components:
        # What PEFT notes down on the model itself.
        base.component(component).__dict__.pop("peft_config", None)


def _alike(seats: Sequence[Seat]) -> Iterator[list[Seat]]:
    """Seats of one component and size together: they share a configuration."""
    groups: dict[tuple[str, Any], list[Seat]] = {}
    for seat in seats:
        groups.setdefault((seat.component, seat.size), []).append(seat)
    yield from groups.values()


def _put_own(base: Base, tuning: Tuning, seat: Seat) -> Tuned:
    assert tuning.layer is not None
    layer = tuning.layer(seat.module, seat.size)
    _place(base, seat, layer)
    return Tuned(seat=seat, layer=layer)


def _put_low_rank(base: Base, tuning: Tuning, seat: Seat) -> Tuned:
    assert tuning.low_rank is not None
    layer = fresh_layer(seat.module, seat.size.rank, tuning.low_rank(seat.size), seat.size.dropout)
    _place(base, seat, layer)
    return Tuned(seat=seat, layer=layer, parts=layer.trained())


def _in_one_piece(base: Base, tuning: Tuning, one: Tuned) -> Tuned:
    """Let a layer in one piece take PEFT's parameters over, where it can stand there."""
    assert tuning.low_rank is not None
    seat, trained = one.seat, one.trained()
    if not fits(seat.module) or set(trained) != {"down", "up"}:
        return one
    layer = LowRankLayer(
        seat.module, trained["down"], trained["up"],
        alpha=tuning.low_rank(seat.size), dropout=seat.size.dropout,
    )  # fmt: skip
    _place(base, seat, layer)
    return Tuned(seat=seat, layer=layer, parts=trained)


def _place(base: Base, seat: Seat, layer: nn.Module) -> None:
    parent, _, leaf = seat.path.rpartition(".")
    setattr(base.component(seat.component).get_submodule(parent), leaf, layer)


def _put_group(base: Base, tuning: Tuning, method: Method, group: Sequence[Seat]) -> Iterator[Tuned]:
    """Put PEFT's layers on seats of one component and size."""
    assert tuning.peft_config is not None
    first, paths = group[0], [seat.path for seat in group]
    config: Any = tuning.peft_config(first.size, paths)
    # Exact names: PEFT takes a list for endings, which may reach further.
    config.target_modules = "|".join(re.escape(path) for path in paths)
    _put_peft(base.component(first.component), config, tuning)
    stated = config.to_dict()
    for seat in group:
        layer: Any = base.component(seat.component).get_submodule(seat.path)
        for name in layer.other_param_names:
            # AdaLoRA's own rank becomes something to train where PEFT casts it for a base of 16 bits.
            if isinstance(numbers := getattr(layer, name, None), nn.ParameterDict):
                numbers.requires_grad_(False)
        yield Tuned(seat=seat, layer=layer, parts=_parts(layer, method), stated=stated)


def _put_peft(component: nn.Module, config: Any, tuning: Tuning) -> None:
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    peft_uncompiled()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Not through `inject_adapter_in_model`, which refuses what shares tensors between layers (VeRA).
            with _said_to_be_quantised(component):
                PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](component, config, adapter_name=NAME)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{tuning.label} can't sit on these layers: {reason[:160].rstrip('.')}; choose other targets, "
            "another rank or another method"
        ) from error


@contextmanager
def _said_to_be_quantised(component: nn.Module) -> Iterator[None]:
    """Let PEFT find a quantiser on the model where it asks for torchao's, which merging alone would use.

    Layers quantised where they stand leave none there, and PEFT then refuses them (OFT's, in 0.21).
    """
    if hasattr(component, "hf_quantizer"):
        yield
        return
    settings = SimpleNamespace(get_apply_tensor_subclass=_no_merging)
    component.__dict__["hf_quantizer"] = SimpleNamespace(quantization_config=settings)
    try:
        yield
    finally:
        del component.__dict__["hf_quantizer"]


def _no_merging() -> None:
    raise NotImplementedError("nothing is merged into quantised layers")


def _parts(layer: nn.Module, method: Method) -> dict[str, torch.Tensor]:
    """A PEFT layer's tensors by part name, in fp32, the trained ones as the parameters they are."""
    found: dict[str, torch.Tensor] = {}
    for part in method.parts:
        head, _, rest = part.peft.partition(".")
        holder: Any = getattr(layer, head, None) if head else None
        if holder is None or NAME not in holder:
            continue
        element = holder[NAME]
        value = getattr(element, rest or "weight", None) if isinstance(element, nn.Module) else element
        if value is None:
            continue
        if value.dtype != torch.float32:
            if isinstance(value, nn.Parameter):
                value.data = value.data.float()
            else:
                value = holder[NAME] = value.float()
        found[part.name] = value.detach() if not value.requires_grad else value
    trained = {id(p) for p in layer.parameters() if p.requires_grad}
    if trained != {id(value) for value in found.values() if value.requires_grad}:
        raise StudioError(
            f"{method.label} trains tensors of PEFT's that Pigment doesn't keep; update Pigment"
        )
    return found
