"""Clock a training in a process of its own: when its first optimizer step ended, and each one after it.

`python train_clock.py FIGURES STEPS CAP SCRIPT …` runs another project's script, unmodified and as
`__main__`, with a hook behind every `torch.optim.Optimizer.step`; after STEPS of them it writes FIGURES
(JSON) and ends the process, so nothing that comes after the last step is measured. CAP: bytes of a CUDA card
that it may use, 0 for all. This file imports nothing of Pigment, so that a Python without it can run it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import runpy
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any


class Clock:
    """Takes the time of each optimizer step, and of the process what it held at the most.

    file: where the figures are written. steps: how many are taken, then the process ends. Times are
    `time.monotonic` (seconds), which all processes of a machine share.
    """

    def __init__(self, file: Path, steps: int) -> None:
        self._file, self._steps = file, steps
        self._times: list[float] = []
        self._cpu: list[float] = []
        self._events: list[Any] = []
        self._held: dict[str, int] = {}
        self.about: dict[str, Any] = {}

    def tick(self) -> None:
        """Note the end of a step. The first one is waited for on the device, as is the last."""
        import torch

        on_card = torch.cuda.is_available() and torch.cuda.is_initialized()
        if on_card and not self._times:
            torch.cuda.synchronize()
        if on_card:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        self._times.append(time.monotonic())
        self._cpu.append(time.process_time())
        if len(self._times) >= self._steps:
            self._write(on_card)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def hold(self) -> None:
        """Note what the process held at the most so far; for one that is about to count that anew itself."""
        import torch

        now = {"resident_bytes": _resident()}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            now["peak_bytes"] = torch.cuda.max_memory_allocated()
            now["reserved_bytes"] = torch.cuda.max_memory_reserved()
        self._held = {name: max(value, self._held.get(name, 0)) for name, value in now.items()}

    def _write(self, on_card: bool) -> None:
        import torch

        found: dict[str, Any] = {**self.about, "times": self._times, "cpu": self._cpu}
        if on_card:
            torch.cuda.synchronize()
            first = self._events[0]
            begin = self._times[0]
            found["times"] = [begin + first.elapsed_time(event) / 1e3 for event in self._events]
        self.hold()
        found.update(self._held)
        found.setdefault("peak_bytes", found["resident_bytes"])
        found["threads"] = torch.get_num_threads()
        found["device"] = torch.cuda.get_device_name() if on_card else "cpu"
        self._file.write_text(json.dumps(found), encoding="utf-8")


def cap(bytes_: int) -> None:
    """Use no more than so many bytes of a CUDA card; 0: all of it."""
    import torch

    if bytes_ and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, bytes_ / total))


def describe(optimizer: Any) -> dict[str, Any]:
    """What an optimizer is given: how many numbers, in which dtypes."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        "trained": sum(p.numel() for p in parameters),
        "trained_dtype": "+".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters})),
        "optimizer": type(optimizer).__name__,
    }


def _resident() -> int:
    """The most memory that this process held, in bytes.

    `getrusage` counts what the parent held before this program began; Linux' status doesn't.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def stand_in(package: str) -> None:
    """Register the stand-in for a package that is missing here."""
    if importlib.util.find_spec(package) is not None:
        return
    file = Path(__file__).parent / "stand_ins" / f"{package}.py"
    spec = importlib.util.spec_from_file_location(f"stand_in_{package}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.register()


def main() -> None:
    """Run the script that the command line names."""
    figures, steps, limit, script, *arguments = sys.argv[1:]
    # What Python would have done for the script: its folder first, not this file's, and its own arguments.
    sys.path[0] = str(Path(script).resolve().parent)
    sys.argv = [script, *arguments]
    from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

    clock = Clock(Path(figures), int(steps))

    def tick(optimizer: Optimizer, *_: Any) -> None:
        if not clock.about:
            clock.about = describe(optimizer)
        clock.tick()

    register_optimizer_step_post_hook(tick)
    cap(int(limit))
    stand_in("torchvision")
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
