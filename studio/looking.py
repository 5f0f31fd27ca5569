"""What the Teach tab says about a lesson before it starts: its cost, crops, the doctor's findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.errors import ConfigError, StudioError
from studio import markup, teaching
from studio.context import Context
from studio.datasets import Dataset, Datasets
from studio.teaching import Lesson
from studio.workspace import Workspace
from trainers.config import PRESET_NAMES, TrainConfig

DOCTORED = 120  # pictures that the doctor looks at while somebody waits
KEPT = 16


@dataclass(frozen=True)
class Weighed:
    """What each preset costs on this device.

    Attributes:
        figures: one line by preset, such as "about 2 min · 1.1 GB".
        basis: what the estimates rest on, in words.
        error: what is wrong with what was set under "Advanced"; empty when nothing is.
        measuring: the device is being measured; ask again in a moment.
    """

    figures: dict[str, str] = field(default_factory=dict)
    basis: str = ""
    error: str = ""
    measuring: bool = False


@dataclass(frozen=True)
class Looked:
    """What is known of the pictures.

    Attributes:
        crops: by SHA-256, what is learned of each: `[{"width", "height", "box"}]` (see `studio.crops`).
        own: by SHA-256, what the doctor says of one picture. general: of all of them.
    """

    crops: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    own: dict[str, list[str]] = field(default_factory=dict)
    general: tuple[str, ...] = ()


_kept: dict[tuple[Any, ...], Looked] = {}


def complete(lesson: Lesson) -> Lesson:
    """The lesson with stand-ins for words that aren't written yet."""
    return replace(
        lesson, trigger=lesson.trigger.strip() or "zib", class_name=lesson.class_name.strip() or "thing"
    )


def weigh(context: Context, lesson: Lesson, dataset: Dataset | None) -> Weighed:
    """Estimate every preset with what is set under "Advanced"."""
    from studio.estimates import estimate

    figures, basis, measuring = {}, "", False
    count = len(dataset.items) if dataset else 0
    try:
        for preset in PRESET_NAMES:
            one = complete(replace(lesson, preset=preset))
            config = teaching.config_in(context, one, dataset, context.workspace.root, context.workspace.root)
            found = estimate(context, config, count)
            figures[preset] = " · ".join(filter(None, (_about(found.seconds), f"{found.bytes / 1e9:.1f} GB")))
            basis = found.basis[:1].upper() + found.basis[1:]
            measuring = found.seconds is None
    except ConfigError as error:
        return Weighed(figures, basis, str(error))
    except StudioError as error:
        return Weighed(figures, str(error))
    return Weighed(figures, basis, measuring=measuring)


def _about(seconds: float | None) -> str:
    return "" if seconds is None else f"about {markup.duration(seconds)}"


def look(context: Context, lesson: Lesson) -> Looked:
    """Crops and the doctor's findings; kept, since reading many pictures takes seconds.

    Raises:
        StudioError: the dataset is gone, or what is set can't be.
    """
    datasets = Datasets(context.workspace)
    dataset = datasets.get(lesson.dataset)
    if not dataset.items:
        return Looked()
    nowhere = context.workspace.root
    config = teaching.config_in(context, complete(lesson), dataset, nowhere, nowhere)
    key = (
        dataset.id, tuple((item.sha256, item.caption, item.mask) for item in dataset.items),
        config.data.model_dump_json(), config.run.steps, config.run.base,
    )  # fmt: skip
    if key not in _kept:
        with TemporaryDirectory(dir=context.workspace.folder("cache")) as name:
            called = datasets.lay_out(dataset.id, Path(name))
            config = config.model_copy(
                update={"data": config.data.model_copy(update={"instance_images": Path(name)})}
            )
            _kept[key] = _look(context.workspace, config, dataset, called)
        while len(_kept) > KEPT:
            _kept.pop(next(iter(_kept)), None)
    return _kept[key]


def _look(workspace: Workspace, config: TrainConfig, dataset: Dataset, called: Mapping[str, str]) -> Looked:
    """called: what each file of the pictures is called for people, in the order of the dataset."""
    from studio.crops import crops
    from trainers.doctor import examine

    items = dict(zip(called, dataset.items, strict=True))
    own: dict[str, list[str]] = {}
    general = []
    for found in examine(config.data, config.run, at_most=DOCTORED):
        line = f"{found.message}; {found.advice}"
        for file, name in called.items():  # another picture may be named in it
            line = line.replace(file, name)
        if found.file in items:
            own.setdefault(items[found.file].sha256, []).append(line)
        else:
            general.append(line)
    boxes: dict[str, list[dict[str, Any]]] = {}
    for one in crops(dataset, config.data, workspace, config.run.base):
        said = {"width": one.width, "height": one.height, "box": list(one.box)}
        boxes.setdefault(one.sha256, []).append(said)
    return Looked(boxes, own, tuple(general))
