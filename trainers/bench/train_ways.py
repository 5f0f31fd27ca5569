"""The ways to train that are measured against each other, as command lines of processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from pipelines.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
CLOCK = Path(__file__).with_name("train_clock.py")
TRIGGER = "zqx"
PROMPT = "a photo of zqx creature"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What every way is given alike: LoRA on the UNet's attention, AdamW, one prompt, squares.

    model: a folder in diffusers' layout. family: a key of FAMILIES. pictures: a folder of square pictures of
    `resolution` pixels a side and of nothing else. dtype: "fp32", "bf16" or "fp16", of the base. device:
    "cpu" or "cuda". steps: that are clocked, warm-up included. cap_bytes: of a CUDA card that may be used, 0
    for all. checkpointing: whether every block is computed again in the backward pass. threads: of the CPU.
    """

    model: Path
    family: str
    pictures: Path
    batch: int
    resolution: int
    rank: int
    dtype: str
    device: str
    steps: int
    threads: int
    seed: int = 0
    learning_rate: float = 1e-4
    cap_bytes: int = 0
    checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A process to start. command: its words. environment: variables on top of this process' own.

    It writes the JSON of `trainers.bench.train_clock.Clock` to the file it was told.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


Way = Callable[[Case, Path, Path], Launch]
"""A case, a folder of its own (made, empty) and the file for its figures in; what is to be started out."""


def clocked(case: Case, figures: Path, script: Path, arguments: list[str], python: str = "") -> Launch:
    """A script of another project behind the clock. python: that it runs in; "" is this one."""
    clock = [python or sys.executable, str(CLOCK), str(figures), str(case.steps), str(case.cap_bytes)]
    return Launch(command=(*clock, str(script), *arguments))


# ── Pigment


def pigment(changes: Mapping[str, Any] | None = None, cache: Path | None = None) -> Way:
    """`pigment train`. changes: of settings, by "section.field". cache: its cache folder; None: a new one."""

    def launch(case: Case, folder: Path, figures: Path) -> Launch:
        values = _settings(case, folder, cache or folder / "cache")
        for name, value in (changes or {}).items():
            section, key = name.split(".")
            values[section][key] = value
        config = folder / "config.json"
        config.write_text(json.dumps(values), encoding="utf-8")
        words = ("-m", "trainers.bench.train_pigment", str(figures), str(case.steps), str(case.cap_bytes))
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return Launch(
            command=(sys.executable, *words, str(config)), environment={"PYTHONPATH": os.pathsep.join(paths)}
        )

    return launch


def _settings(case: Case, folder: Path, cache: Path) -> dict[str, dict[str, Any]]:
    """The config of a case: nothing but steps, the same work as the scripts do."""
    never = case.steps + 1
    run = {
        "base": str(case.model),
        "output": str(folder / "run"),
        "cache": str(cache),
        "steps": case.steps,
        "batch_size": case.batch,
        "seed": case.seed,
        "device": case.device,
        "threads": case.threads,
        "preview_every": 0,
        "evaluate_every": 0,
        "checkpoint_every": never,
        **({"precision": case.dtype} if case.device != "cpu" else {}),
        **({"gradient_checkpointing": "all"} if case.checkpointing else {}),
    }
    data = {
        "instance_images": str(case.pictures),
        "trigger": TRIGGER,
        "instance_prompt": PROMPT,
        "captions": "prompt",
        "prior_weight": 0,
        "resolution": case.resolution,
        "buckets": False,
    }
    adapter = {"method": "lora", "rank": case.rank, "alpha": case.rank, "text_targets": "none"}
    rates = {"learning_rate": case.learning_rate, "schedule": "constant", "warmup_steps": 0}
    return {"data": data, "adapter": adapter, "optimizer": {"optimizer": "adamw", **rates}, "run": run}


# ── diffusers' DreamBooth script

SCRIPTS = {False: "train_dreambooth_lora.py", True: "train_dreambooth_lora_sdxl.py"}
"""By whether the family has pooled embeddings."""


def diffusers(path: Path, *, cached_text: bool = False) -> Way:
    """diffusers' DreamBooth-LoRA script. path: a checkout of it, a folder with the script, or the script.

    cached_text: with the prompt embedded once, before the first step (the SDXL script always does that).
    """

    def launch(case: Case, folder: Path, figures: Path) -> Launch:
        script = find_script(path, SCRIPTS[FAMILIES[case.family].pooled])
        arguments = {
            "pretrained_model_name_or_path": case.model,
            "instance_data_dir": case.pictures,
            "instance_prompt": PROMPT,
            "output_dir": folder / "output",
            "resolution": case.resolution,
            "train_batch_size": case.batch,
            "rank": case.rank,
            "learning_rate": case.learning_rate,
            "lr_scheduler": "constant",
            "lr_warmup_steps": 0,
            "max_train_steps": case.steps + 1,
            "checkpointing_steps": 10 * case.steps,
            "seed": case.seed,
            "mixed_precision": {"fp32": "no"}.get(case.dtype, case.dtype),
        }
        words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
        words += ["--center_crop"]
        words += ["--pre_compute_text_embeddings"] if cached_text else []
        words += ["--gradient_checkpointing"] if case.checkpointing else []
        return clocked(case, figures, script, words)

    return launch


def find_script(path: Path, name: str) -> Path:
    """Where a script of diffusers is. Raises: ConfigError where it isn't."""
    path = path.resolve()
    inside = (path / name, path / "examples" / "dreambooth" / name)
    for place in (path.with_name(name),) if path.is_file() else inside:
        if place.is_file():
            return place
    raise ConfigError(
        f"there is no {name} in {path.name!r}; give a checkout of diffusers, or the folder of that script"
    )
