"""`pigment train` in a process of its own, clocked by its "step" events; see `trainers.bench.train_clock`.

`python -m trainers.bench.train_pigment FIGURES STEPS CAP CONFIG` runs the command as people do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers import events
from trainers.bench.train_clock import Clock, cap, describe

if TYPE_CHECKING:
    import torch


def main() -> int:
    """Run the training of a config; returns the command's exit code where it ends before STEPS."""
    figures, steps, limit, config = sys.argv[1:]
    clock = Clock(Path(figures), int(steps))
    cap(int(limit))
    append = events.append
    notes: list[str] = []

    def listen(folder: Path, event: events.TrainEvent) -> None:
        append(folder, event)
        if event.kind == "step":
            clock.about["notes"] = notes
            clock.tick()
        elif event.kind == "warning":
            notes.append(event.message)
        elif event.data.get("stage") == "prepare":
            note_before_peak(clock.hold)
        elif event.data.get("stage") == "inject":
            _describe_at_first_step(clock)

    events.append = listen
    from trainers.__main__ import main as train

    return train([config])


def note_before_peak(note: Callable[[], object]) -> None:
    """Call `note` before a run's own gauge forgets what the process held at the most until then.

    Scripts of others count from their start: with what they load, and what they encode ahead.
    """
    from trainers import memory

    begin = memory.Peak.__init__

    def noted(self: memory.Peak, device: torch.device) -> None:
        note()
        begin(self, device)

    memory.Peak.__init__ = noted  # type: ignore[method-assign]


def _describe_at_first_step(clock: Clock) -> None:
    """Note what the optimizer is given when it takes its first step."""
    from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

    def note(optimizer: Optimizer, *_: Any) -> None:
        handle.remove()
        clock.about.update(describe(optimizer))

    handle = register_optimizer_step_post_hook(note)


if __name__ == "__main__":
    sys.exit(main())
