"""What is known of pictures and bases from earlier runs, as long as their files are the same.

Pictures needn't be decoded to be checked, nor a base's files read to be named. A picture is decoded, and its
content is held against the hash, wherever its pixels are used.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import PIL

from pipelines.files import file_sha256
from pipelines.unchanged import Unchanged
from trainers.images import Source, read_picture

if TYPE_CHECKING:
    from pipelines.base import Base
    from pipelines.bases.source import Source as BaseSource
    from trainers.settings import RunConfig

PICTURES, HASHES = "pictures.json", "hashes.json"
"""Files below the cache folder."""

_VERSION = 1
_READ = 2  # counts up whenever another picture is made of the same file


class Known:
    """The pictures that runs have read. folder: the cache folder; None: nothing is known or kept."""

    def __init__(self, folder: Path | None) -> None:
        path = None if folder is None else folder / PICTURES
        self._files = Unchanged(path, f"{_READ} {PIL.__version__}")

    def read(self, path: Path, background: str = "white") -> Source:
        """Return what `read_picture` does, without decoding a file that is known.

        Raises: as `read_picture`.
        """

        def find_out() -> list[object]:
            source = read_picture(path, background)
            return [source.sha256, list(source.size), source.alpha, list(source.notes)]

        sha256, (width, height), alpha, notes = self._files.of(path, find_out, background)
        forget = partial(self._files.forget, path, background)
        return Source(path, (width, height), tuple(notes), sha256, alpha, background, forget)

    def save(self) -> None:
        """Keep what is new."""
        self._files.save()


def base_sha256(base: Base, cache: Path) -> str:
    """Return `base.sha256` without reading files that are known; nothing is written (see `keep_hashes`).

    Raises: BaseError as it does.
    """
    if base.source is not None and "sha256" not in vars(base):
        known = Unchanged(cache / HASHES, str(_VERSION))
        vars(base)["sha256"] = base.source.sha256_by(lambda path: known.of(path, lambda: file_sha256(path)))
        vars(base)["known"] = known
    return base.sha256


def source_sha256(run: RunConfig, cache: Path) -> tuple[BaseSource, str]:
    """Open a run's base without loading it; return it and its SHA-256, which is kept for the run.

    Raises: BaseError where it isn't there or can't be read.
    """
    from pipelines.bases.source import open_source
    from pipelines.device import DTYPES, choose_device

    half = choose_device(run.device, run.precision).dtype != DTYPES["fp32"]
    source = open_source(
        run.base, vae=run.vae or None, config=run.configs or None, prediction_type=run.prediction_type,
        half=half,
    )  # fmt: skip
    known = Unchanged(cache / HASHES, str(_VERSION))
    sha256 = source.sha256_by(lambda path: known.of(path, lambda: file_sha256(path)))
    known.save()
    return source, sha256


def keep_hashes(base: Base) -> None:
    """Keep what `base_sha256` has found out of a base's files for later runs."""
    known = vars(base).pop("known", None)
    if known is not None:
        known.save()
