"""A run's folder: what lies in it, and whether a run may go on there.

config.json, events.jsonl (written by whoever reads the events), checkpoints/, previews/, evidence/,
candidates/ and at the end adapter.safetensors, evidence.json, evidence.png, report.html and bundle/.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, StudioError
from pipelines.files import make_folder, sweep_temporaries, write_atomic
from trainers.config import TrainConfig
from trainers.events import LOG_NAME
from trainers.evidence.record import CANDIDATES, EVIDENCE, PICTURE_NAME, RECORD_NAME, REPORT_NAME
from trainers.room import check_room
from trainers.settings import EvidenceConfig, RunConfig

CONFIG_NAME = "config.json"
ADAPTER_NAME = "adapter.safetensors"
LAST_FINITE = "last-finite.safetensors"
CHOICES_NAME = "choices.json"
CHECKPOINTS = "checkpoints"
PREVIEWS = "previews"
TENSORBOARD = "tensorboard"
BUNDLE = "bundle"

# What doesn't change the result, or only moves it to another place or machine.
_FREE_TO_CHANGE = {
    "run": (
        "output", "cache", "threads", "device", "listeners", "offload", "gradient_checkpointing",
        "keep_checkpoints", "checkpoint_every", "evaluate_every", "without",
        *(name for name in RunConfig.model_fields if name.startswith("preview_")),
    ),
    "data": ("instance_images", "class_images"),
    "evidence": tuple(name for name in EvidenceConfig.model_fields if name not in ("stop_early", "patience")),
}  # fmt: skip


def open_run(config: TrainConfig, resume: bool, resolution: int = 512, *, writes: bool = True) -> Path:
    """Make the run folder ready and write config.json; return the folder.

    resume: go on from what is there; else what a run left there is removed (nothing else is). resolution:
    side in pixels that is learned, by which room on the disk is asked for. writes: whether this is the
    process that writes; another one only looks whether the run may go on.

    Raises: ConfigError where another config has checkpoints there; StudioError where the folder can't be
    written or the disk has no room. Nothing is written then.
    """
    folder = config.run.output
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"run.output: {str(folder)!r} is a file, expected a folder; choose another")
    if resume:
        _check_same(config, folder)
    if not writes:
        return folder
    check_room(config, resolution)
    try:
        make_folder(folder)
        sweep_temporaries(folder)  # of a run that was killed: this process alone writes here
        if not resume:
            clear(folder)
        write_atomic(folder / CONFIG_NAME, [config.as_json().encode()])
    except OSError as error:
        raise StudioError(
            f"run folder {str(folder)!r} can't be written ({error.strerror}); choose another"
        ) from error
    return folder


def clear(folder: Path) -> None:
    """Remove what a run writes from its folder, and nothing else."""
    for name in (CONFIG_NAME, CHOICES_NAME, LOG_NAME, ADAPTER_NAME, LAST_FINITE, RECORD_NAME, PICTURE_NAME,
                 REPORT_NAME):  # fmt: skip
        (folder / name).unlink(missing_ok=True)
    for name in (CHECKPOINTS, PREVIEWS, TENSORBOARD, EVIDENCE, CANDIDATES, BUNDLE):
        shutil.rmtree(folder / name, ignore_errors=True)


def _check_same(config: TrainConfig, folder: Path) -> None:
    """Refuse to go on from checkpoints that another config made."""
    checkpoints = folder / CHECKPOINTS
    if not (checkpoints.is_dir() and any(checkpoints.iterdir())):
        return
    try:
        before: dict[str, Any] = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        difference = _first_difference(before, json.loads(config.as_json()))
    except (OSError, ValueError, AttributeError, TypeError):
        raise ConfigError(
            f"run folder {str(folder)!r} has checkpoints but no readable {CONFIG_NAME}; start afresh"
        ) from None
    if difference:
        raise ConfigError(
            f"run folder {str(folder)!r} holds a run with another config ({difference}); "
            f"start afresh or choose another folder"
        )


def _first_difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    for section, values in now.items():
        for name, value in values.items():
            if name in _FREE_TO_CHANGE.get(section, ()):
                continue
            old = before.get(section, {}).get(name, _default(section, name))
            if old != value:
                return f"{section}.{name} was {old!r}, now {value!r}"
    return None


def _default(section: str, name: str) -> Any:
    """A setting's default as JSON has it: what an older Pigment, which didn't know the setting, went by."""
    field = TrainConfig.model_fields[section].annotation.model_fields[name]  # type: ignore[union-attr]
    default = None if field.is_required() else field.default
    return list(default) if isinstance(default, tuple) else default
