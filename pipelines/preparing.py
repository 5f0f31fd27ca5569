"""A loaded base put on the machine the way that was chosen for it, and taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from pipelines.attention import put_attention
from pipelines.errors import ConfigError
from pipelines.offload import Offload
from pipelines.quantised import QUANTISED, quantise

if TYPE_CHECKING:
    from pipelines.base import Base
    from pipelines.device import Device


@dataclass(eq=False)
class _Prepared:
    """What was done to a base. undo: in the order it was done. quantised: stays whatever comes next."""

    undo: list[Callable[[], None]] = field(default_factory=list)
    offload: Offload | None = None
    quantised: str | None = None


_PREPARED: WeakKeyDictionary[Base, _Prepared] = WeakKeyDictionary()


def prepare(base: Base, device: Device) -> None:
    """Put a base where and how `device` says: quantised, channels last, attention, VAE, offload.

    A second call undoes the first one, except that quantised layers stay so. Its parts may be anywhere
    when this is called; they are best loaded to `device.landing(part)`.

    Raises: ConfigError while a mix is in the base, for quantising it twice in different ways, and for
    quantised layers that can't be offloaded.
    """
    if base.holder is not None:
        raise ConfigError("a mix is in the base; restore its mixer, then choose where the base runs")
    _check(base, device)
    restore(base)
    state = _PREPARED.setdefault(base, _Prepared())
    if device.quantise is not None and state.quantised is None:
        quantise(base.unet, device.quantise, device.device, device.home("unet"))
        state.quantised = device.quantise
    for name, part in _parts(base).items():
        _move(part, device.home(name))
    base.device = device.device
    if base.vae.dtype != device.vae_dtype:  # diffusers warns of any cast, even to the same
        base.vae.to(device.vae_dtype)
    if device.channels_last:
        state.undo += [lay_convolutions(base.unet, True), lay_convolutions(base.vae, True)]
    state.undo += [put_attention(base.unet, device.attention), _put_vae(base, device)]
    if device.offload != "none":
        state.offload = _offload(base, device)


def restore(base: Base) -> None:
    """Undo `prepare`: everything on the base's device, as it was loaded, but for quantised layers.

    Raises: ConfigError while a mix is in the base.
    """
    if base.holder is not None:
        raise ConfigError("a mix is in the base; restore its mixer, then choose where the base runs")
    state = _PREPARED.get(base)
    if state is None:
        return
    if state.offload is not None:
        state.offload.remove()
        state.offload = None
        for part in _parts(base).values():
            _move(part, base.device)
    for undo in reversed(state.undo):
        undo()
    state.undo = []


def offloaded(base: Base) -> Offload | None:
    """The offload that a base is under, with its counts of bytes; None without one."""
    state = _PREPARED.get(base)
    return None if state is None else state.offload


def _check(base: Base, device: Device) -> None:
    state = _PREPARED.get(base)
    before = None if state is None else state.quantised
    if before is not None and device.quantise != before:
        asked = "not" if device.quantise is None else f"in {device.quantise!r}"
        raise ConfigError(f"the base is held in {before!r} and asked for {asked}; load it again")
    if device.quantise is not None and device.offload == "blocks" and not QUANTISED[device.quantise].moves:
        movable = ", ".join(name for name, row in QUANTISED.items() if row.moves)
        raise ConfigError(
            f"layers in {device.quantise!r} can't visit the device block by block; choose offload 'parts' "
            f"or one of {movable}"
        )


def _parts(base: Base) -> dict[str, nn.Module]:
    return {name: base.component(name) for name in (*base.family.components, "vae")}


def _move(part: nn.Module, home: torch.device) -> None:
    """Move a part unless it's there; "cuda" is the current card."""
    if any(p.device.type != home.type or home.index not in (None, p.device.index) for p in part.parameters()):
        part.to(home)


def lay_convolutions(module: nn.Module, last: bool) -> Callable[[], None]:
    """Lay the convolutions' weights out with channels last, or first; returns what undoes it."""
    convolutions = [m.weight for m in module.modules() if isinstance(m, nn.Conv2d)]
    before = [not weight.is_contiguous() for weight in convolutions]

    def lay(weight: torch.Tensor, last: bool) -> None:
        how = torch.channels_last if last else torch.contiguous_format
        weight.data = weight.data.clone(memory_format=how)

    def undo() -> None:
        for weight, was_last in zip(convolutions, before, strict=True):
            lay(weight, was_last)

    for weight in convolutions:
        lay(weight, last)
    return undo


_VAE_SETTINGS = ("use_tiling", "use_slicing", "tile_sample_min_size", "tile_latent_min_size")


def _put_vae(base: Base, device: Device) -> Callable[[], None]:
    """Set tiling and slicing; returns what gives the settings from before."""
    vae: Any = base.vae
    before = {name: getattr(vae, name) for name in _VAE_SETTINGS}
    vae.use_slicing, vae.use_tiling = device.vae_slicing, device.vae_tile is not None
    if device.vae_tile is not None:
        latent = max(1, device.vae_tile // base.vae_scale_factor)
        vae.tile_latent_min_size = latent
        vae.tile_sample_min_size = latent * base.vae_scale_factor

    def undo() -> None:
        for name, value in before.items():
            setattr(vae, name, value)

    return undo


def _offload(base: Base, device: Device) -> Offload:
    made = Offload(device.device)
    for component in base.text_encoders():
        made.add_whole(base.component(component))
    made.add_blocks(base.vae)  # encoder and decoder are called by themselves
    if device.offload == "blocks":
        made.add_blocks(base.unet)
    return made
