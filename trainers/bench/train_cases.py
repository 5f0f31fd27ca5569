"""The cases of `pigment bench train`: a model at a batch size, ready for every way, and its figures."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from trainers.bench.train_ways import Case, Way

_GIB = 2**30
_HOUR = 3600.0


@dataclass(frozen=True)
class Asked:
    """One model at one batch size. source: as `--model` has it. name: its key among the figures."""

    source: str
    name: str
    batch: int


def asked_for(options: argparse.Namespace) -> list[Asked]:
    """Return the cases of a command line. Raises: ConfigError."""
    pairs = [(model, batch) for model in options.model or ["pocket"] for batch in options.batch or [1]]
    pairs = [_case(said) for said in options.case or ()] or pairs
    for _, batch in pairs:
        if batch < 1 or options.pictures % batch:
            raise ConfigError(
                f"batch {batch} doesn't divide the {options.pictures} pictures, so that some steps would be "
                "smaller; set --pictures to a multiple of it"
            )
    return [Asked(model, _name(model, options), batch) for model, batch in pairs]


def _case(said: str) -> tuple[str, int]:
    model, colon, batch = said.rpartition(":")
    if not colon or not batch.isdigit():
        raise ConfigError(f"--case is {said!r}; give a model and a batch size, such as sdxl:4")
    return model, int(batch)


def _name(source: str, options: argparse.Namespace) -> str:
    """A model's key among the figures: what makes them another's is in it."""
    from trainers.bench.models import RANDOM

    name = source if source in (*RANDOM, "pocket") else Path(source).name
    name += "-small" if source in RANDOM and options.small else ""
    name += f"-{options.resolution}px" if options.resolution else ""
    name += f"-{options.dtype}" if options.dtype else ""
    name += "-checkpointed" if options.checkpointing else ""
    name += f"-{options.cap_gib:g}gib" if options.cap_gib else ""
    return name + (f"-{options.threads}threads" if options.threads else "")


def device_of(options: argparse.Namespace) -> str:
    """The device that is measured on. Raises: ConfigError for what it can't do."""
    import torch

    there = torch.cuda.is_available()
    device = options.device or ("cuda" if there else "cpu")
    if device == "cuda" and not there:
        raise ConfigError("--device is 'cuda', but PyTorch finds no CUDA card; give cpu")
    if device == "cpu" and options.cap_gib is not None:
        raise ConfigError("--cap-gib limits a CUDA card, and none is used here; leave it out")
    if device == "cpu" and options.dtype not in (None, "fp32"):
        raise ConfigError(f"--dtype is {options.dtype!r}, but a CPU trains in fp32; leave it out")
    return device


def baselines(options: argparse.Namespace, family: str) -> dict[str, Way]:
    """Our way and the baselines, by name. Raises: ConfigError for a script that isn't there."""
    from pipelines.families import FAMILIES
    from trainers.bench import kohya, train_ways

    pooled = FAMILIES[family].pooled
    ways: dict[str, Way] = {"pigment": train_ways.pigment()}
    if options.diffusers is not None:
        script = train_ways.find_script(options.diffusers, train_ways.SCRIPTS[pooled])
        ways["diffusers"] = train_ways.diffusers(script)
        if not pooled:  # the script for the others always embeds the prompt once
            ways["diffusers-cached-text"] = train_ways.diffusers(script, cached_text=True)
    if options.kohya is not None:
        script = kohya.find_script(options.kohya, kohya.SCRIPTS[pooled])
        python = _python(options.kohya_python)
        ways["kohya"] = kohya.kohya(script, python)
        if pooled:  # the script for the others can't
            ways["kohya-cached-text"] = kohya.kohya(script, python, cached_text=True)
    return ways


def _python(said: str | None) -> str:
    """Where a Python is, whatever folder it is started in; "" for this one. Raises: ConfigError."""
    found = shutil.which(said) if said else ""
    if found is None:
        raise ConfigError(f"--kohya-python: there is no program {said!r}; give a Python's path")
    return os.path.abspath(found) if found else ""  # not what a link leads to: it would leave its packages


@contextmanager
def model_store(kept: Path | None) -> Iterator[Path]:
    """A folder for models: one that stays, or one that is removed again."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="pigment-bench-models-") as name:
        yield Path(name)


def case_of(one: Asked, options: argparse.Namespace, device: str, models: Path, folder: Path) -> Case:
    """Make the model and the pictures of a case. Raises: ConfigError, BaseError."""
    import torch

    from trainers.bench.train_models import write_pictures
    from trainers.bench.train_ways import Case

    model, family, resolution = model_of(one, options, device, models)
    resolution = options.resolution or resolution
    return Case(
        model=model,
        family=family,
        pictures=write_pictures(folder / "pictures", options.pictures, resolution),
        batch=one.batch,
        resolution=resolution,
        rank=options.rank,
        dtype=options.dtype or ("fp32" if device == "cpu" else "bf16"),
        device=device,
        steps=options.warm_up + options.steps,
        threads=options.threads or torch.get_num_threads(),
        cap_bytes=int((options.cap_gib or 0) * _GIB),
        checkpointing=options.checkpointing,
    )


def model_of(one: Asked, options: argparse.Namespace, device: str, models: Path) -> tuple[Path, str, int]:
    """Return a model's folder, its family and its own side in pixels. Raises: ConfigError, BaseError."""
    from trainers.bench.models import RANDOM
    from trainers.bench.train_models import about, model_folder, random_folder

    if one.source in RANDOM:
        model = random_folder(one.source, models, small=options.small, device=device)
    else:
        model = model_folder(one.source)
    return model, *about(model)


def measure(
    case: Case, ways: Mapping[str, Way], options: argparse.Namespace, end: float | None
) -> dict[str, Any]:
    """Figures of a case: ours, each baseline's with its ratios, each mechanism's gain where it's asked for.

    end: see `turns`' deadline.
    """
    from trainers.bench.train_mechanisms import cache_gains, gains, switches
    from trainers.bench.train_turns import Turn, compared, figures_of, turns

    off = switches(case) if options.mechanisms else {}
    ways = {**ways, **{f"without {name}": way for name, way in off.items()}}
    taken: dict[str, list[Turn]] = {name: [] for name in ways}
    timeout = _HOUR if end is None else max(60.0, end - time.monotonic())
    plan = {"rounds": options.rounds, "warm_up": options.warm_up, "deadline": end, "timeout": timeout}
    for name, turn in turns(ways, case, **plan):
        taken[name].append(turn)
    ours = taken.pop("pigment")
    each = {name: gains(ours, taken.pop(f"without {name}")) for name in off}
    again = _again(case, timeout) if options.again else {}
    return {
        **{name: getattr(case, name) for name in ("family", "resolution", "rank", "dtype", "batch")},
        "warm_up": options.warm_up,
        "steps": options.steps,
        "pigment": {**figures_of(ours), **again},
        "baselines": {name: compared(ours, theirs) for name, theirs in taken.items()},
        **({"mechanisms": {**each, **cache_gains(case, ours)}} if off else {}),
    }


def _again(case: Case, timeout: float) -> dict[str, Any]:
    """The seconds to the first step of a second run, whose cache folder holds what the first one left."""
    from trainers.bench.train_turns import take_turn
    from trainers.bench.train_ways import pigment

    short = replace(case, steps=2)
    with tempfile.TemporaryDirectory(prefix="pigment-bench-cache-") as cache:
        turns = [take_turn(pigment(cache=Path(cache)), short, 1, timeout) for _ in range(2)]
    if failed := turns[-1].failed:
        return {"first_step_again": failed}
    return {
        "first_step_again_s": turns[-1].first_step_s,
        "first_step_again_cpu_s": turns[-1].first_step_cpu_s,
    }
