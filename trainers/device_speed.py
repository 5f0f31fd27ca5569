"""How fast a device is, for estimates: `python -m trainers.device_speed [DEVICE]` prints it as JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch

from pipelines.device import choose_device

_SIDE = {"cpu": 512}
_USUAL = 4096
_SECONDS = 0.3


def measure(asked: str | None = None) -> dict[str, Any]:
    """Measure products in the precision that bases are used in there.

    asked: as `run.device` names it; None: the fastest there is. Returns: kind, name, flops and one (FLOP/s,
    the latter of one thread, on a card the same), memory (bytes in all).

    Raises: ConfigError for a device that isn't there.
    """
    chosen = choose_device(asked)
    device, dtype = chosen.device, chosen.dtype
    side = _SIDE.get(device.type, _USUAL)
    factor = torch.ones(side, side, device=device, dtype=dtype)
    _wait(factor @ factor)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < _SECONDS:
        _wait(factor @ factor)
        count += 1
    flops = 2 * side**3 * count / (time.perf_counter() - begin)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    name, memory = _about(device)
    return {"kind": device.type, "name": name, "flops": flops, "one": flops / threads, "memory": memory}


def _wait(product: torch.Tensor) -> None:
    """Let a device finish: reading a number waits for it."""
    product[0, 0].item()


def _about(device: torch.device) -> tuple[str, int]:
    if device.type == "cuda":
        says = torch.cuda.get_device_properties(device)
        return str(says.name), int(says.total_memory)
    import psutil  # type: ignore[import-untyped]

    return "this CPU" if device.type == "cpu" else "this graphics chip", int(psutil.virtual_memory().total)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1] or None if len(sys.argv) > 1 else None)))
