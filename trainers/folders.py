"""Folders of pictures: the one that a config names, and those in it that say how often they come."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError
from trainers.config import DataConfig
from trainers.images import find_pictures, is_picture
from trainers.tables import MAX_REPEATS

_NAMED = re.compile(r"(\d{1,4})_(.+)")


@dataclass(frozen=True)
class Folder:
    """Pictures that share a prompt and a number of repeats."""

    pictures: tuple[Path, ...]
    prompt: str
    repeats: int


def find_folders(data: DataConfig) -> list[Folder]:
    """List the pictures of `data`, folder by folder: the named one, then the others by name.

    With `data.subfolders`, a folder named "10_zuv dog" gives its pictures 10 repeats and the prompt
    "zuv dog", as in kohya's scripts; other subfolders aren't read.

    Raises: PictureError where there are no pictures; ConfigError where no subfolder is named so.
    """
    folder = data.instance_images
    if not data.subfolders:
        return [Folder(tuple(find_pictures(folder)), data.instance_prompt, data.repeats)]
    found = [(path, named) for path in _subfolders(folder) if (named := _NAMED.fullmatch(path.name))]
    if not found:
        raise ConfigError(
            f"data.subfolders: no folder in {str(folder)!r} is named like “10_zuv dog”; name one so"
        )
    folders = [
        Folder(tuple(find_pictures(path)), " ".join(named[2].split()), _repeats(path.name, int(named[1])))
        for path, named in found
    ]
    own = any(is_picture(path) for path in folder.iterdir())
    top = [Folder(tuple(find_pictures(folder)), data.instance_prompt, data.repeats)] if own else []
    return top + folders


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _repeats(name: str, number: int) -> int:
    if not 1 <= number <= MAX_REPEATS:
        raise ConfigError(
            f"folder {name!r}: {number} repeats, expected a number from 1 to {MAX_REPEATS}; rename it"
        )
    return number
