"""Folders whose weights a library loads for us: held to what it would open, before it does."""

from __future__ import annotations

from pathlib import Path

from pipelines.errors import BaseError
from pipelines.formats.container import read_header
from pipelines.plain_json import parse_json


def check_weights(folder: Path, what: str) -> None:
    """Make sure that a folder's weights are safetensors files within the limits of `read_header`.

    An index of shards (`*.safetensors.index.json`) may name any file, and libraries open those of other
    endings as pickles, whatever they were asked for.

    what: the network's name in messages. Raises: BaseError.
    """
    for index in sorted(folder.glob("*.index.json")):
        if index.name.endswith(".bin.index.json"):
            continue  # never asked for
        try:
            named = set(parse_json(index.read_bytes())["weight_map"].values())
            plain = all(isinstance(one, str) and one == Path(one).name for one in named)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise BaseError(f"{what}: {index.name!r} isn't readable; fetch its folder again") from None
        others = sorted(str(one)[:80] for one in named if not str(one).endswith(".safetensors"))
        if others or not plain:
            raise BaseError(
                f"{what}: {index.name!r} names {(others or ['a file elsewhere'])[0]!r} as weights, and only "
                ".safetensors files of the folder are opened, never a pickle; fetch its folder again"
            )
    for file in sorted(folder.glob("*.safetensors")):
        try:
            read_header(file, BaseError)
        except BaseError as error:
            raise BaseError(f"{what} can't be loaded: {error}") from None
