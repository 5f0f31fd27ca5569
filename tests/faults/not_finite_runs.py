"""Small trainings into which a number that is none is put, and what may be left of them."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.ground import ground, tiny_training

if TYPE_CHECKING:
    from trainers.config import TrainConfig
    from trainers.events import TrainEvent

STEPS, EVERY = 6, 2
"""Steps of a run, and between two of its checkpoints."""
BAD = {"NaN": float("nan"), "+Inf": float("inf"), "-Inf": float("-inf")}

VARIANTS: dict[str, dict[str, Any]] = {
    "lora, adamw": {},
    "lora, adamw, plain steps": {"without": ("flat", "graph", "layers")},
    "bf16": {"mixed_precision": "bf16"},
    "fp16": {"mixed_precision": "fp16"},
    "dora, average": {"method": "dora", "ema_decay": 0.9},
    "prodigy": {"optimizer": "prodigy"},
    "schedule-free": {"optimizer": "schedule_free_adamw"},
    "lion, accumulated": {"optimizer": "lion", "accumulate": 2},
    "adafactor, lokr": {"optimizer": "adafactor", "method": "lokr"},
    "words": {"method": "pivotal"},
    "unet alone": {"text_targets": "none"},
    "no clipping": {"max_grad_norm": 1000.0},
    "measured": {"evaluate_every": EVERY, "measured_on": ("held_out",)},
}
"""Ways of learning, by name: settings that differ from the usual ones."""


def config_in(folder: Path, **fields: Any) -> TrainConfig:
    """A training of `STEPS` steps in `folder`/run, with a cache that all share; fields by name."""
    usual: dict[str, Any] = {
        "rank": 2, "alpha": 2.0, "cache": ground() / "cache", "steps": STEPS, "checkpoint_every": EVERY,
        "preview_every": 0, "evaluate_every": 0, "samples": 0, "report": False,
    }  # fmt: skip
    return tiny_training(folder, **{**usual, **fields})


@dataclass
class Run:
    """What became of a training. step: the last one that it told of. error: what it ended with."""

    config: TrainConfig
    step: int = 0
    sha256: str = ""
    warnings: list[str] = field(default_factory=list)
    error: Exception | None = None

    @classmethod
    def of(cls, config: TrainConfig) -> Run:
        """Train, or go on, to the end."""
        from trainers.loop import train

        run = cls(config)
        try:
            run._follow(train(config))
        except Exception as error:
            run.error = error
        return run

    def _follow(self, events: Iterator[TrainEvent]) -> None:
        for event in events:
            if event.kind == "step":
                self.step = event.step
            elif event.kind == "warning":
                self.warnings.append(event.message)
            elif event.kind == "done":
                self.sha256 = event.data["sha256"]

    @property
    def folder(self) -> Path:
        """Its folder."""
        return Path(self.config.run.output)


@functools.cache
def undisturbed(variant: str) -> str:
    """The hash of what a variant comes to where nothing happens to it."""
    with tempfile.TemporaryDirectory(prefix="pigment-faults-") as folder:
        run = Run.of(config_in(Path(folder), **VARIANTS[variant]))
        assert run.error is None and run.sha256, run.error
        return run.sha256


def unsound_files(*folders: Path) -> list[str]:
    """What in folders holds a number that is none: safetensors, and JSON."""
    return [f"{path.name}: {found}" for folder in folders for path, found in _looked(folder)]


def _looked(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.suffix == ".safetensors" and (name := _unsound_tensor(path)):
            yield path, name
        if path.suffix in (".json", ".jsonl") and (word := _unsound_word(path)):
            yield path, word


def _unsound_tensor(path: Path) -> str:
    from safetensors.torch import load

    tensors: Mapping[str, Any] = load(path.read_bytes())
    return next((n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()), "")


def _unsound_word(path: Path) -> str:
    """The first number in JSON that is none; Python writes it, and nobody else can read it."""
    found: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else (None,):
        json.loads(path.read_text(encoding="utf-8") if line is None else line, parse_constant=found.append)
    return found[0] if found else ""


def step_said(error: Exception) -> int:
    """The step that an error names; 0 where it names none."""
    found = re.search(r"step (\d+)", str(error))
    return int(found[1]) if found else 0


def in_one_line(error: Exception | None) -> str | None:
    """What is wrong with an error as people get it; None: nothing."""
    from pipelines.errors import StudioError

    if error is None:
        return "no error came"
    if not isinstance(error, StudioError):
        return f"{type(error).__name__} came, not one of ours: {str(error)[:200]}"
    if "\n" in str(error) or len(str(error)) > 500:
        return f"more than a line: {str(error)[:300]!r}"
    return None
