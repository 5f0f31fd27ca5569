"""Checkpoints that are whole or not there, and from which a run goes on exactly.

A checkpoint is a folder of safetensors and JSON files. It is written under a temporary name, every file
synced, closed with MANIFEST.json (the SHA-256 of each file), synced, renamed, and the parent synced:
whenever the process or the machine stops, the newest folder that has its name is whole. Older ones are
removed only after that.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from pipelines.errors import StudioError
from pipelines.exhausted import out_of_memory
from pipelines.files import file_sha256, make_folder, sync_folder

KEEP = 2
_MANIFEST = "MANIFEST.json"
_STATE = "state.json"
_FOLDER = re.compile(r"step-(\d{6,})")
_TEMPORARY = ".writing-"


@dataclass(frozen=True)
class Checkpoint:
    """One committed checkpoint, already verified."""

    path: Path
    step: int

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Read the tensors saved under `name`. Raises: StudioError where there are none."""
        file = self.path / f"{name}.safetensors"
        if not file.is_file():
            raise StudioError(f"checkpoint {self.path.name} has no {file.name}; start afresh")
        try:
            return load_tensors(file.read_bytes())
        except (SafetensorError, ValueError, KeyError):
            raise StudioError(
                f"checkpoint {self.path.name}: {file.name} isn't a safetensors file; start afresh"
            ) from None

    def state(self) -> dict[str, Any]:
        """Read the plain values that were saved."""
        values: dict[str, Any] = json.loads((self.path / _STATE).read_text(encoding="utf-8"))
        return values


def commit(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
    *,
    keep: int = KEEP,
) -> Path:
    """Write a checkpoint and then remove all but the newest `keep` (at least 2).

    folder: of all checkpoints of the run. tensors: by file name, then by tensor name. state: JSON values.
    Returns the checkpoint's folder; one of that step that is already there is replaced.

    Raises: StudioError where the disk is full; what was there before is as it was.
    """
    final = folder / f"step-{step:06d}"
    temporary = folder / f"{_TEMPORARY}{step:06d}-{os.getpid()}"
    aside = folder / f"{_TEMPORARY}old-{step:06d}-{os.getpid()}"
    try:
        make_folder(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        contents = {f"{name}.safetensors": _serialise(part) for name, part in tensors.items()}
        contents[_STATE] = json.dumps(dict(state), allow_nan=False).encode()
        manifest = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        for name, content in {**contents, _MANIFEST: json.dumps(manifest, indent=1).encode()}.items():
            _write_synced(temporary / name, content)
        sync_folder(temporary)
        if final.exists():
            # A folder can't be renamed over a full one: the old one steps aside, an orphan from then on.
            final.rename(aside)
        temporary.rename(final)
        sync_folder(folder)
    except BaseException as error:
        if aside.exists() and not final.exists():
            aside.rename(final)
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StudioError(
                f"paused: disk full at step {step}, no checkpoint was written and the one before is kept; "
                f"make room and start again to go on"
            ) from error
        if out_of_memory(error):
            raise StudioError(
                f"out of memory while the checkpoint of step {step} was written, the one before is kept; "
                "close other programs or lower adapter.rank, and start again to go on"
            ) from error
        raise
    _prune(folder, max(keep, 2))
    return final


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, and a note for each damaged one that was passed over."""
    notes: list[str] = []
    for step, path in reversed(_committed(folder)):
        problem = _problem(path)
        if problem is None:
            return Checkpoint(path, step), notes
        notes.append(f"checkpoint {path.name} is damaged ({problem}); the one before it is used")
    return None, notes


def sweep(folder: Path) -> None:
    """Remove what commits that never ended left behind."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(_TEMPORARY):
                shutil.rmtree(path, ignore_errors=True)


def _committed(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every checkpoint folder, oldest first."""
    if not folder.is_dir():
        return []
    matches = [(match, path) for path in folder.iterdir() if (match := _FOLDER.fullmatch(path.name))]
    return sorted((int(match.group(1)), path) for match, path in matches)


def _problem(path: Path) -> str | None:
    """Say what is wrong with a checkpoint folder, or None."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            if file_sha256(path / name) != expected:
                return f"{name} has changed"
        return None if _STATE in manifest else f"{_STATE} is missing"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError):
        return f"{_MANIFEST} isn't readable"


def _prune(folder: Path, keep: int) -> None:
    sweep(folder)
    for _, path in _committed(folder)[:-keep]:
        # Renamed first: a half removed folder must not look like a checkpoint.
        orphan = folder / f"{_TEMPORARY}pruned-{path.name}"
        path.rename(orphan)
        shutil.rmtree(orphan, ignore_errors=True)


def _serialise(tensors: Mapping[str, torch.Tensor]) -> bytes:
    return save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def random_state(generators: Mapping[str, torch.Generator]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the state of every source of chance: tensors, and plain values.

    generators: the run's own, by name. The global ones of torch, CUDA, numpy and Python come with them.
    """
    tensors = {f"generator.{name}": generator.get_state() for name, generator in generators.items()}
    tensors["torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    tensors["numpy"] = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    version, internal, gauss_next = random.getstate()
    values = {"numpy": [name, position, has_gauss, gauss], "python": [version, list(internal), gauss_next]}
    return tensors, values


def restore_random_state(
    tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any], generators: Mapping[str, torch.Generator]
) -> None:
    """Put every source of chance back. Raises: StudioError where one is missing."""
    try:
        for name, generator in generators.items():
            generator.set_state(tensors[f"generator.{name}"])
        torch.set_rng_state(tensors["torch"])
        if torch.cuda.is_available():
            count = torch.cuda.device_count()
            torch.cuda.set_rng_state_all([tensors[f"cuda.{index}"] for index in range(count)])
        name, position, has_gauss, gauss = values["numpy"]
        np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, gauss))
        version, internal, gauss_next = values["python"]
        random.setstate((version, tuple(internal), gauss_next))
    except KeyError as error:
        raise StudioError(f"checkpoint lacks the random state {error.args[0]!r}; start afresh") from None
