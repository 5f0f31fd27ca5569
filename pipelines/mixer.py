"""Several adapters at chosen weights, written into a base: W = W₀ + Σ wᵢ·ΔWᵢ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import nn

from pipelines.adapter import Adapter
from pipelines.base import Base
from pipelines.errors import AdapterError, nearest

MIN_WEIGHT, MAX_WEIGHT = -2.0, 3.0

Weight = float | tuple[float, float]
"""One weight for everything, or (UNet, text encoders)."""


@dataclass(frozen=True, eq=False)
class _Stack:
    """Modules of one component and shape that the same adapters reach, as one batch.

    base, mixed: (n, out, in); `mixed` is what the modules' parameters are views of.
    up: (n, out, R) with alpha / rank in it, down: (n, R, in), both fp32; R is the sum of the ranks.
    owners: per column of R, the index into `adapters`.
    """

    component: str
    layers: tuple[nn.Linear | nn.Conv2d, ...]
    adapters: tuple[str, ...]
    owners: torch.Tensor
    base: torch.Tensor
    mixed: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor

    def write(self, weights: Mapping[str, float]) -> None:
        """Recompute `mixed` whole from `base`; columns of adapters at zero take no part."""
        scales = torch.tensor([weights[name] for name in self.adapters], dtype=torch.float32)
        if not scales.any():
            self.mixed.copy_(self.base)
            return
        columns = scales.to(self.up.device)[self.owners]  # (R,)
        active = columns != 0
        up, down = self.up, self.down
        if not bool(active.all()):
            up, down, columns = up[:, :, active], down[:, active], columns[active]
        scaled = up * columns
        if self.mixed.dtype == torch.float32:
            torch.baddbmm(self.base, scaled, down, out=self.mixed)
        else:  # the sum in fp32, rounded once
            self.mixed.copy_(torch.baddbmm(self.base.float(), scaled, down))


class Mixer:
    """Holds adapters against one base and writes their weighted sum into it, in place.

    The base's weights are kept; each `set` recomputes from them, so that moves don't add up errors,
    and at all zero the base is there again bit for bit. Only modules that some adapter reaches are
    copied; layers of equal shape are written as one batched product. As a context manager it
    restores the base at the end.

    While a mixer holds adapters, nothing else may change the base's weights; a second mixer that
    tries is refused.
    """

    def __init__(self, base: Base) -> None:
        self.base = base
        self._adapters: dict[str, Adapter] = {}
        self._weights: dict[str, tuple[float, float]] = {}
        self._stacks: list[_Stack] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters held, in the order they came."""
        return tuple(self._adapters)

    @property
    def weights(self) -> dict[str, tuple[float, float]]:
        """The (UNet, text encoder) weights now written, by adapter name."""
        return dict(self._weights)

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The adapters held, by name."""
        return dict(self._adapters)

    def add(self, name: str, adapter: Adapter) -> None:
        """Take in an adapter at weight 0; an adapter of the same name is replaced, at weight 0 too.

        Raises: AdapterError when it doesn't fit the base; nothing changes then.
        """
        if self.base.holder not in (None, self):
            raise AdapterError(f"another mixer holds base {self.base.ref!r}; restore it first")
        adapter.check(self.base)
        self._rebuild({**self._adapters, name: adapter}, {**self._weights, name: (0.0, 0.0)})

    def remove(self, name: str) -> None:
        """Let go of an adapter; the others keep their weights. Raises: AdapterError if unknown."""
        self._known([name])
        kept = {key: value for key, value in self._adapters.items() if key != name}
        self._rebuild(kept, {key: value for key, value in self._weights.items() if key != name})

    def set(self, weights: Mapping[str, Weight]) -> None:
        """Write the mix. An adapter that isn't named gets 0.

        weights: by name, one number or (UNet, text encoders), each from −2 to 3.
        Raises: AdapterError for an unknown name or a weight out of range; nothing changes then.
        """
        self._known(weights)
        pairs = {name: _pair(name, weight) for name, weight in weights.items()}
        self._weights = {name: pairs.get(name, (0.0, 0.0)) for name in self._adapters}
        self._write()

    def restore(self) -> None:
        """Give the base back as it was, bit for bit, and let go of every adapter."""
        if self._adapters:
            self._rebuild({}, {})

    def at(self, step: int, total: int) -> None:
        """Write the UNet's weights of a denoising step; these don't follow the steps."""

    def rest(self) -> None:
        """Write the weights as they are outside of denoising; nothing to do."""

    def __enter__(self) -> Mixer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def _known(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._adapters:
                raise AdapterError(f"no adapter {name!r} in the mix{nearest(name, self._adapters)}")

    def _write(self) -> None:
        with torch.no_grad():
            for stack in self._stacks:
                side = 0 if stack.component == "unet" else 1
                stack.write({name: pair[side] for name, pair in self._weights.items()})

    def _rebuild(self, adapters: dict[str, Adapter], weights: dict[str, tuple[float, float]]) -> None:
        """Restore the base, stack the modules that `adapters` reach, and write `weights`.

        The new stacks are made before the old ones are let go, so a failure (memory) changes nothing.
        """
        kept = {
            layer: stack.base[index] for stack in self._stacks for index, layer in enumerate(stack.layers)
        }
        stacks = _stacks(self.base, adapters, kept)
        reached = {layer for stack in stacks for layer in stack.layers}
        with torch.no_grad():
            for layer, original in kept.items():
                if layer not in reached:
                    layer.weight.data = original.reshape(layer.weight.shape).clone()
            for stack in stacks:
                for index, layer in enumerate(stack.layers):
                    layer.weight.data = stack.mixed[index].view(layer.weight.shape)
        self._adapters, self._weights, self._stacks = adapters, weights, stacks
        self.base.holder = self if adapters else None
        self._write()


def _stacks(
    base: Base, adapters: Mapping[str, Adapter], kept: Mapping[nn.Linear | nn.Conv2d, torch.Tensor]
) -> list[_Stack]:
    """Group the reached modules by component, shape and the adapters (with ranks) that reach them.

    kept: the original weights of modules that are already in a mix, as (out, in) matrices.
    """
    modules = base.modules()
    groups: dict[tuple[str, tuple[int, int], tuple[tuple[str, int], ...]], list[str]] = {}
    for module, layer in modules.items():
        owners = tuple((name, a.factors[module].rank) for name, a in adapters.items() if module in a.factors)
        if owners:
            matrix = (int(layer.weight.shape[0]), layer.weight[0].numel())
            groups.setdefault((module.split(".", 1)[0], matrix, owners), []).append(module)
    stacks = []
    for (component, _, owners), members in groups.items():
        layers = tuple(modules[module] for module in members)
        weights = [kept.get(layer, layer.weight.detach().flatten(1)) for layer in layers]
        original = torch.stack(weights)  # (n, out, in)
        ups, downs = [], []
        for module in members:
            pairs = [adapters[name].factors[module].matrices() for name, _ in owners]
            ups.append(torch.cat([up for up, _ in pairs], dim=1))  # (out, R)
            downs.append(torch.cat([down for _, down in pairs], dim=0))  # (R, in)
        columns = [index for index, (_, rank) in enumerate(owners) for _ in range(rank)]
        stacks.append(
            _Stack(
                component=component,
                layers=layers,
                adapters=tuple(name for name, _ in owners),
                owners=torch.tensor(columns, device=base.device),
                base=original,
                mixed=original.clone(),
                up=torch.stack(ups).to(base.device),
                down=torch.stack(downs).to(base.device),
            )
        )
    return stacks


def _pair(name: str, weight: Weight) -> tuple[float, float]:
    """Return (UNet, text encoder) weights within bounds. Raises: AdapterError."""
    parts = weight if isinstance(weight, tuple) else (weight, weight)
    if len(parts) != 2 or not all(isinstance(part, int | float) for part in parts):
        raise AdapterError(f"weight of {name!r} is {weight!r}; expected a number or (UNet, text encoder)")
    for part in parts:
        if not math.isfinite(part) or not MIN_WEIGHT <= part <= MAX_WEIGHT:
            raise AdapterError(
                f"weight of {name!r} is {part:g}; choose from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}"
            )
    return float(parts[0]), float(parts[1])
