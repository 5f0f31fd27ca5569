"""Where figures come from: the machine, the versions and the time that belong to every measurement.

Nothing here names a person, a host or a folder, so that what it returns can be published.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("pigment-studio", "torch", "diffusers", "transformers", "peft")
_EXTENSIONS = ("avx2", "avx512f", "amx_tile")


def machine() -> dict[str, Any]:
    """The processor and its extensions, cores for this process, memory in GiB, system, load average."""
    found: dict[str, Any] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    if hasattr(os, "sched_getaffinity"):
        found["cores"] = len(os.sched_getaffinity(0))
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if hasattr(os, "getloadavg"):
        found["load_average"] = round(os.getloadavg()[0], 2)
    if Path("/proc/cpuinfo").is_file():
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first)}
        found["processor"] = about.get("model name", found["processor"])
        found["extensions"] = [flag for flag in _EXTENSIONS if flag in about.get("flags", "").split()]
    return {**found, "system": platform.system()}


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Python's version and those of the `LIBRARIES` that are installed, and of some more."""
    found = {"python": platform.python_version()}
    for name in (*LIBRARIES, *more):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@dataclass(kw_only=True)
class Clock:
    """Wall and CPU seconds of named stages: all threads, and child processes that have ended."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Keep how long the block took, also when it fails."""
        wall, cpu = time.perf_counter(), sum(os.times()[:4])
        try:
            yield
        finally:
            self.wall[name] = round(time.perf_counter() - wall, 2)
            self.cpu[name] = round(sum(os.times()[:4]) - cpu, 2)
