"""The device and the precision: chosen once, said aloud.

Attention is diffusers' default (PyTorch's fused kernel): on a CPU in fp32 its plain processor took
the same time in inference and training at 16×16 and 32×32 latents, and more at 64×64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipelines.errors import ConfigError, nearest

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Device:
    """Where a base runs and in which precision."""

    device: torch.device
    dtype: torch.dtype

    def describe(self) -> str:
        """Say device, precision and threads in one line, for the log and the page."""
        precision = next((name for name, dtype in DTYPES.items() if dtype == self.dtype), str(self.dtype))
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {precision}"
        if self.device.type == "cpu":
            threads = torch.get_num_threads()
            return f"CPU, {threads} thread{'s' if threads != 1 else ''}, {precision}"
        return f"{self.device.type}, {precision}"


def choose_device(device: str | None = None, dtype: str | torch.dtype | None = None) -> Device:
    """Choose device and precision.

    device: "cpu", "cuda", "cuda:1", "mps", "xpu"; None takes the first of CUDA, MPS, XPU, CPU that
    is there. dtype: "fp32", "fp16", "bf16" or a torch dtype; None is fp32 on a CPU, bf16 on a CUDA
    card that has it, else fp16.

    Raises: ConfigError for a name that isn't known or a device that isn't there.
    """
    chosen = _device(device)
    if dtype is None:
        return Device(chosen, _default_dtype(chosen))
    if isinstance(dtype, torch.dtype):
        return Device(chosen, dtype)
    if dtype not in DTYPES:
        raise ConfigError(f"unknown precision {dtype!r}{nearest(dtype, DTYPES)}")
    return Device(chosen, DTYPES[dtype])


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


def _default_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float16
