"""Timing two ways of doing the same in turn, and counting the memory that tensors hold."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch


def timed(calls: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Milliseconds of each call, without Python's collector in between.

    On CUDA by events on the device, waited for once at the end.
    """
    gc.collect()
    gc.disable()
    try:
        return _timed(calls, device)
    finally:
        gc.enable()


def _timed(calls: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    if device.type != "cuda":
        taken = []
        for call in calls:
            begin = time.perf_counter()
            call()
            taken.append((time.perf_counter() - begin) * 1e3)
        return taken
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]
    torch.cuda.synchronize(device)
    events[0].record()
    for call, event in zip(calls, events[1:], strict=True):
        call()
        event.record()
    torch.cuda.synchronize(device)
    return [first.elapsed_time(second) for first, second in pairwise(events)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of `values` don't exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def shares(count: int, rounds: int) -> list[int]:
    """`count` split over `rounds` as evenly as can be."""
    return [count // rounds + (index < count % rounds) for index in range(rounds)]


def held_bytes(device: torch.device) -> int:
    """Bytes of all tensors that live, on CUDA of those on the card."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)
    found = [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found}
    return sum(storages.values())
