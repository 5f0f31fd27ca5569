"""A config without the folders of one machine, and the files that it names, by their content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipelines.files import file_sha256
from trainers.config import NAMED_OR_PATH, TrainConfig

MOVED = (("run", "output"), ("run", "cache"), ("data", "instance_images"), ("data", "class_images"))
"""(section, name) of what a bundle leaves out: where things lie."""
HASHED = {
    ("run", "configs"): (".json", ".txt"),
    ("evidence", "judge"): (".json", ".txt", ".safetensors"),
    ("evidence", "structure_judge"): (".json", ".txt", ".safetensors"),
}
"""Endings of the files that count in a folder that a setting names. The base and its VAE are hashed as every
run does; a captioner's part are the captions that it wrote."""


def local_places(config: TrainConfig) -> tuple[str, ...]:
    """Return the settings ("section.name") that name a file or folder here, and no hub id."""
    return tuple(f"{section}.{name}" for section, name in NAMED_OR_PATH if _local(config, section, name))


def _local(config: TrainConfig, section: str, name: str) -> bool:
    said = str(getattr(getattr(config, section), name))
    return said not in ("", "pocket") and (Path(said).is_absolute() or Path(said).expanduser().exists())


def plain_config(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Return a config's values without folders: what is left out is `MOVED`, files go by their names."""
    values: dict[str, dict[str, Any]] = json.loads(config.model_dump_json(exclude_none=True))
    for section, name in MOVED:
        values[section].pop(name, None)
    for place in local_places(config):
        section, name = place.split(".")
        values[section][name] = Path(values[section][name]).name
    return values


def file_hashes(config: TrainConfig) -> dict[str, str]:
    """Return the SHA-256 of every file or folder of `HASHED` that is here, by "section.name"."""
    local, found = local_places(config), {}
    for (section, name), endings in HASHED.items():
        path = Path(getattr(getattr(config, section), name)).expanduser()
        if f"{section}.{name}" in local and path.exists():
            found[f"{section}.{name}"] = place_sha256(path, endings)
    return found


def place_sha256(path: Path, endings: tuple[str, ...]) -> str:
    """Return a file's SHA-256, or of a folder that over the names and contents of its files.

    Raises: OSError where it isn't there.
    """
    if not path.is_dir():
        return file_sha256(path)
    digest = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.suffix in endings and one.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()
