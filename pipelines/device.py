"""The device, the precision and how a base is put there: chosen once, said aloud.

Attention is diffusers' default (PyTorch's fused kernel): on a CPU in fp32 its plain processor took
the same time in inference and training at 16×16 and 32×32 latents, and more at 64×64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipelines.attention import ATTENTION, check_attention, failure
from pipelines.errors import ConfigError, nearest
from pipelines.placement import (
    GIB,
    Card,
    Offload,
    Placement,
    choose_attention,
    choose_channels_last,
    choose_offload,
    choose_slicing,
    choose_tile,
    part_bytes,
    staying_bytes,
)
from pipelines.quantised import QUANTISED, check_quantiser

__all__ = ["DTYPES", "Device", "Placement", "choose_device"]

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

_UNKNOWN_TILE = 512


@dataclass(frozen=True)
class Device:
    """Where a base runs, in which precision, and how it is put there (see `pipelines.preparing`).

    attention: a key of ATTENTION. vae_tile: side in pixels of the largest square that the VAE takes whole;
    None for any. quantise: a key of QUANTISED, or None. memory: bytes of the device, None where they aren't
    known. notes: what was chosen otherwise than wanted, in words. vae_fp32: whether the VAE runs in fp32
    whatever the precision.
    """

    device: torch.device
    dtype: torch.dtype
    attention: str = "sdpa"
    channels_last: bool = False
    vae_tile: int | None = None
    vae_slicing: bool = False
    offload: Offload = "none"
    quantise: str | None = None
    memory: int | None = None
    notes: tuple[str, ...] = ()
    vae_fp32: bool = False

    @property
    def vae_dtype(self) -> torch.dtype:
        """The VAE's precision."""
        return torch.float32 if self.vae_fp32 else self.dtype

    def home(self, part: str) -> torch.device:
        """Where the weights of a part ("unet", "vae", a text encoder's name) stay between uses."""
        away = self.offload == "blocks" or (self.offload == "parts" and part != "unet")
        return torch.device("cpu") if away else self.device

    def landing(self, part: str) -> torch.device:
        """Where a loader puts a part: its home, but a UNet that is to be quantised off the device first."""
        return torch.device("cpu") if self.quantise is not None and part == "unet" else self.home(part)

    def describe(self) -> str:
        """Say device, precision and every choice in one line, for the log and the page."""
        precision = next((name for name, dtype in DTYPES.items() if dtype == self.dtype), str(self.dtype))
        how = [f"attention {self.attention}"]
        how += ["channels last"] if self.channels_last else []
        how += [f"VAE in tiles above {self.vae_tile} px"] if self.vae_tile is not None else []
        how += ["VAE in fp32"] if self.vae_fp32 and self.dtype != torch.float32 else []
        how += ["VAE one picture at a time"] if self.vae_slicing else []
        how += [f"offload {self.offload}"] if self.offload != "none" else []
        how += [f"UNet in {self.quantise}"] if self.quantise is not None else []
        memory = "" if self.memory is None else f", {self.memory / GIB:.1f} GiB"
        said = "".join(f" ({note})" for note in self.notes)
        return f"{self._name()}{memory}, {precision}; {', '.join(how)}{said}"

    def as_data(self) -> dict[str, Any]:
        """What of it a picture's bits depend on, but for tiles of very large ones; JSON-able."""
        precision = next((name for name, dtype in DTYPES.items() if dtype == self.dtype), str(self.dtype))
        return {
            "device": self._name(), "precision": precision, "attention": self.attention,
            "channels_last": self.channels_last, "vae_fp32": self.vae_fp32, "quantise": self.quantise,
        }  # fmt: skip

    def _name(self) -> str:
        kind = self.device.type
        if kind == "cuda":
            return f"{torch.cuda.get_device_name(self.device)} ({'ROCm' if torch.version.hip else 'CUDA'})"
        if kind == "xpu":
            return f"{torch.xpu.get_device_name(self.device)} (XPU)"
        if kind == "cpu":
            threads = torch.get_num_threads()
            return f"CPU, {threads} thread{'s' if threads != 1 else ''}"
        return "Apple GPU (MPS)" if kind == "mps" else kind


def choose_device(
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    placement: Placement | None = None,
    parameters: Mapping[str, int] | None = None,
    *,
    vae_overflows: bool = False,
) -> Device:
    """Choose device, precision, and how a base is put there.

    device: "cpu", "cuda", "cuda:1", "mps", "xpu"; None takes the first of CUDA (or ROCm, which goes by that
    name), MPS, XPU, CPU that is there. dtype: "fp32", "fp16", "bf16" or a torch dtype; None is fp32 on a
    CPU, bf16 on a CUDA or Intel card that has it, else fp16. placement: what is asked for beyond. parameters:
    how many numbers each part of the base holds ("unet", "vae", text encoders); without them nothing is
    offloaded unless asked for. vae_overflows: whether the base's VAE leaves fp16's range.

    Raises: ConfigError for a name that isn't known, and for what isn't there or doesn't run here.
    """
    wanted = placement or Placement()
    chosen = _device(device)
    kind = _dtype(chosen, dtype)
    card = card_of(chosen, kind)
    if wanted.quantise is not None:
        check_quantiser(wanted.quantise, chosen, kind)
    bits = None if wanted.quantise is None else QUANTISED[wanted.quantise].bits
    parts = part_bytes(parameters or {}, card, bits)
    attention, notes = _attention(wanted, card, chosen, kind)
    offload = wanted.offload if wanted.offload is not None else choose_offload(card, parts)
    fp32 = vae_overflows and kind == torch.float16
    tile = choose_tile(replace(card, bits=32) if fp32 else card, staying_bytes(parts, offload))
    if wanted.vae_tiling is not None:
        tile = (tile or _UNKNOWN_TILE) if wanted.vae_tiling else None
    return Device(
        chosen,
        kind,
        attention=attention,
        channels_last=_or(wanted.channels_last, choose_channels_last(card)),
        vae_tile=tile,
        vae_slicing=_or(wanted.vae_slicing, choose_slicing(card)),
        offload=offload,
        quantise=wanted.quantise,
        memory=card.memory,
        notes=notes,
        vae_fp32=fp32,
    )


def card_of(device: torch.device, dtype: torch.dtype) -> Card:
    """What the rules go by, of a device that is there; a limit set for this process counts as its memory."""
    kind, memory, capability = device.type, None, None
    if kind == "cuda":
        share = torch.cuda.get_per_process_memory_fraction(device)
        memory = int(torch.cuda.get_device_properties(device).total_memory * share)
        kind = "rocm" if torch.version.hip else "cuda"
        capability = None if torch.version.hip else torch.cuda.get_device_capability(device)
    elif kind == "xpu":
        memory = int(torch.xpu.get_device_properties(device).total_memory)
    else:
        import psutil  # type: ignore[import-untyped]

        memory = int(psutil.virtual_memory().total)
    return Card(kind, memory, bits=torch.finfo(dtype).bits, capability=capability)


def _attention(
    wanted: Placement, card: Card, device: torch.device, dtype: torch.dtype
) -> tuple[str, tuple[str, ...]]:
    """The kernel asked for, or the one chosen if it works; and what to say of it."""
    if wanted.attention is not None:
        check_attention(wanted.attention, device, dtype)
        return wanted.attention, ()
    first = choose_attention(card)
    reason = failure(first, device, dtype)
    if reason is None:
        return first, ()
    return "sdpa", (f"{ATTENTION[first].label} would be tried first here, but: {reason}",)


def _or(asked: bool | None, chosen: bool) -> bool:
    return chosen if asked is None else asked


def _device(name: str | None) -> torch.device:
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "xpu": hasattr(torch, "xpu") and torch.xpu.is_available(),
        "cpu": True,
    }
    if name is None:
        return torch.device(next(kind for kind, there in present.items() if there))
    kind = name.split(":")[0]
    if kind not in present:
        raise ConfigError(f"unknown device {name!r}{nearest(kind, present)}")
    if not present[kind]:
        there = ", ".join(k for k, yes in present.items() if yes)
        raise ConfigError(f"device {name!r} isn't there; this machine has {there}")
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} isn't a device name; write for instance 'cuda:0'") from None
    if kind == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} isn't there; this machine has {torch.cuda.device_count()} CUDA cards"
        )
    return chosen


def _dtype(device: torch.device, asked: str | torch.dtype | None) -> torch.dtype:
    if asked is None:
        return _default_dtype(device)
    if isinstance(asked, torch.dtype):
        return asked
    if asked not in DTYPES:
        raise ConfigError(f"unknown precision {asked!r}{nearest(asked, DTYPES)}")
    return DTYPES[asked]


def _default_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    if device.type == "xpu" and torch.xpu.is_bf16_supported():
        return torch.bfloat16
    return torch.float16
