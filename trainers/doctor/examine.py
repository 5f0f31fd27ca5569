"""One call that examines a config's data."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.errors import PictureError, StudioError
from trainers.config import DataConfig, RunConfig
from trainers.dataset import Dataset, Item, load_dataset
from trainers.doctor.case import Case, Finding, look
from trainers.doctor.checks import CHECKS
from trainers.folders import find_folders
from trainers.images import read_picture
from trainers.tables import find_table

_RESOLUTIONS = {"pocket": 64}
_USUAL = 512


def examine(
    data: DataConfig,
    run: RunConfig | None = None,
    *,
    resolution: int | None = None,
    dataset: Dataset | None = None,
    at_most: int | None = None,
) -> list[Finding]:
    """Look at the pictures and captions of a config, and say what to mend, check by check.

    Nothing is loaded but the pictures. run: its length tells too many from too few pictures; None: by the
    kind alone. resolution: side in pixels that is learned; None: `data.resolution`, else 64 for the embedded
    base and 512 for others. dataset: the data where they are read already. at_most: how many of the pictures
    to learn from, and of those held out, are looked at, evenly spread; None: all. Data that can't be read
    give only findings of the kind "unreadable".
    """
    try:
        dataset = dataset or load_dataset(_before_captions(data))
    except StudioError as error:
        return _unreadable(data, error)
    side = resolution or data.resolution or _RESOLUTIONS.get(run.base if run else "", _USUAL)
    learn, held_out = (_spread(items, at_most) for items in (dataset.learn, dataset.held_out))
    looks = [look(item, False, side) for item in learn] + [look(item, True, side) for item in held_out]
    unseen = len(dataset.learn) - len(learn)
    case = Case(data=data, run=run, resolution=side, looks=tuple(looks), unseen=unseen)
    return [finding for check in CHECKS.values() for finding in check.find(case)]


def _spread(items: Sequence[Item], at_most: int | None) -> Sequence[Item]:
    """Take so many, evenly spread, in order."""
    if at_most is None or len(items) <= at_most:
        return items
    return [items[index * len(items) // at_most] for index in range(at_most)]


def _before_captions(data: DataConfig) -> DataConfig:
    """How the pictures can be read where a captioner will write the table of captions, and hasn't yet."""
    if not (data.captioner and data.captions == "table"):
        return data
    try:
        find_table(data.instance_images, data.captions_file)
    except PictureError:
        return data.model_copy(update={"captions": "prompt"})
    return data


def _unreadable(data: DataConfig, error: StudioError) -> list[Finding]:
    """Name every picture that can't be read; where all can, what else is the matter."""
    found = []
    try:
        for path in (path for folder in find_folders(data) for path in folder.pictures):
            try:
                read_picture(path, data.background)
            except PictureError as broken:
                found.append(_finding(path.name, broken))
    except StudioError:
        pass  # `error` says the same of the folder.
    return found or [_finding("", error)]


def _finding(file: str, error: StudioError) -> Finding:
    message, _, advice = str(error).partition("; ")
    return Finding("unreadable", file, message, advice or "mend it")
