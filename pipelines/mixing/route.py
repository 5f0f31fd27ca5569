"""Which way a mix takes: written into the weights, or added by the layers."""

from __future__ import annotations

from typing import Literal

import torch

from pipelines.base import Base
from pipelines.errors import AdapterError, nearest
from pipelines.mixing.slots import Contributions, Product, plain

Route = Literal["auto", "fused", "unfused"]
ROUTES: tuple[Route, ...] = ("auto", "fused", "unfused")


def check_route(route: str) -> None:
    """Raises: AdapterError unless `route` is one of ROUTES."""
    if route not in ROUTES:
        raise AdapterError(f"unknown route {route!r}{nearest(route, ROUTES)}")


def choose_route(
    base: Base, asked: Route, found: Contributions, kept: set[tuple[str, str]]
) -> tuple[Route, str]:
    """Return "fused" or "unfused" for what adapters add to a base, and the reason in words.

    kept: the keys of slots whose own values are kept already.
    """
    if asked != "auto":
        return asked, "it was asked for"
    quantised = [slot for slot, _ in found.values() if not plain(slot.parameter)]
    if quantised:
        kind = type(quantised[0].parameter.data).__name__
        return (
            "unfused",
            f"the base is quantised ({quantised[0].module} is {kind}, {quantised[0].parameter.dtype})",
        )
    for device, needed in _needed_bytes(found, kept).items():
        free = free_bytes(device)
        if free is not None and needed > free:
            return "unfused", f"a copy of the weights needs {_text(needed)} and {_text(free)} are free"
    return "fused", "the weights are plain and their copy fits"


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where it doesn't tell."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type == "cpu":
        import psutil  # type: ignore[import-untyped]

        return int(psutil.virtual_memory().available)
    return None


def _needed_bytes(found: Contributions, kept: set[tuple[str, str]]) -> dict[torch.device, int]:
    """Bytes of the copies and factors, by where the weights are: those that are offloaded are copied there.

    While they are made, the largest stack is there once more.
    """
    total: dict[torch.device, int] = {}
    stacks: dict[torch.device, dict[tuple[int, int], int]] = {}
    for slot, parts in found.values():
        device, own = slot.parameter.device, slot.parameter.nbytes
        needed = sum(
            part.up.nbytes + part.down.nbytes if isinstance(part, Product) else part.nbytes
            for part in parts.values()
        )
        if slot.key not in kept:
            needed += own
            shapes = stacks.setdefault(device, {})
            shapes[slot.matrix] = shapes.get(slot.matrix, 0) + own
        total[device] = total.get(device, 0) + needed
    return {device: size + max(stacks.get(device, {}).values(), default=0) for device, size in total.items()}


def _text(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**27 else f"{count / 2**20:.1f} MiB"
