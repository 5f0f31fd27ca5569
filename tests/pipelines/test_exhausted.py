"""What full memories and failed devices say is told apart from all else."""

from __future__ import annotations

import pytest
import torch

from pipelines.exhausted import device_lost, first_line, lost_line, out_of_memory

FULL = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
]
LOST = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors"),
    RuntimeError("CUDA error: unspecified launch failure\nmore"),
]
OTHERS = [RuntimeError("shapes don't match"), ValueError("CUDA error"), OSError("out of memory")]


@pytest.mark.parametrize("error", [*FULL, *LOST, *OTHERS], ids=repr)
def test_they_are_told_apart(error: Exception) -> None:
    assert out_of_memory(error) == (error in FULL)
    assert device_lost(error) == (error in LOST)


def test_the_line_is_one() -> None:
    line = lost_line(LOST[0])
    assert "\n" not in line and "illegal memory access" in line and "driver" in line
    assert first_line(MemoryError()) == "MemoryError"
