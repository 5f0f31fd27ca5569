"""From a run back to the form: its pictures, its words, its settings, and what is to be changed of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, PictureError, WorkspaceError
from pipelines.files import file_sha256
from studio import forms, teaching
from studio.context import Context
from studio.datasets import Dataset, Datasets
from studio.jobs import Job
from trainers.config import FIELDS, PRESETS, TrainConfig
from trainers.presets import fitting
from trainers.wording import prompts

WORDS = {"data.trigger": "trigger", "data.kind": "kind"}
"""Settings that the form asks for itself: the field of a lesson by path."""


@dataclass(frozen=True)
class Change:
    """A setting that is to be another. before, now: as people write them. shown: as its field holds it."""

    path: str
    label: str
    before: str
    now: str
    shown: Any


@dataclass(frozen=True)
class Again:
    """A form that was filled. dataset: its id. notes: what a person should know."""

    dataset: str
    changed: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()


def fill(context: Context, job: Job, changes: Mapping[str, Any]) -> Again:
    """Keep a run's pictures, words and settings with `changes` as those of the form; nothing is started.

    changes: settings by field name.

    Raises:
        StudioError: the run's config can't be read any more, its pictures are gone, or a change is none of
        the form's.
    """
    config = config_of(context, job)
    changed = changes_of(config, changes)
    lesson = changed_by(lesson_of(context, job, config), changed)
    dataset, notes = _pictures(context, job, config)
    Datasets(context.workspace).settings(
        dataset.id,
        {
            "kind": lesson.kind, "trigger": lesson.trigger, "class_name": lesson.class_name,
            "preset": lesson.preset, "advanced": dict(lesson.advanced), "instance_prompt": None,
            "class_prompt": None,
        },
    )  # fmt: skip
    if config.run.base != context.base:
        name = Path(config.run.base).name or config.run.base
        notes.append(f"It was taught on {name}; the base in use is another. Choose it under Bases.")
    return Again(dataset.id, changed, tuple(notes))


def config_of(context: Context, job: Job) -> TrainConfig:
    """The config of a run, with its folders where the workspace is now. Raises: ConfigError: it has none."""
    from studio.work import training

    return training.config_of(context.workspace, job)


def lesson_of(context: Context, job: Job, config: TrainConfig) -> teaching.Lesson:
    """What the form would hold for a run. Its dataset is the one it began with, whatever became of it."""
    kind = config.data.kind
    preset = job.details.get("preset")
    if (preset, kind) not in PRESETS:
        preset = next(name for name, of_kind in PRESETS if of_kind == kind)
    specs = [spec for _, _, group in teaching.advanced_sections() for spec in group]
    usual = forms.flat(teaching.example_config(str(preset), kind), specs)
    usual.update(_made(context, job, config))
    own = forms.flat(config, specs)
    advanced = {path: value for path, value in own.items() if str(value) != str(usual[path])}
    layers = {name: f"adapter.{name}" for name in ("unet_targets", "text_targets")}
    here = {name: own[path] for name, path in layers.items()}
    for name in here.keys() - fitting(here, config.adapter.method).keys():
        advanced.pop(layers[name], None)  # the method has none: its preset's are left out again
    return teaching.Lesson(
        dataset=str(job.details.get("dataset") or ""), kind=kind, trigger=config.data.trigger,
        class_name=str(job.details.get("class_name") or ""), preset=str(preset), advanced=advanced,
    )  # fmt: skip


def _made(context: Context, job: Job, config: TrainConfig) -> dict[str, Any]:
    """What fields come to where the form leaves them empty, by path."""
    data, options = config.data, context.options
    instance, class_ = prompts(data.kind, data.trigger, str(job.details.get("class_name") or ""))
    shown = teaching.preview_prompts(data.kind, data.trigger, data.instance_prompt, data.class_prompt)
    made = {
        "data.instance_prompt": instance, "data.class_prompt": class_, "run.name": data.trigger,
        "run.preview_prompts": "\n".join(shown),
    }  # fmt: skip
    chosen = {"run.device": options.device, "run.precision": options.precision}
    return made | {path: value for path, value in chosen.items() if value}


def changed_by(lesson: teaching.Lesson, changes: Sequence[Change]) -> teaching.Lesson:
    """A lesson with settings changed."""
    specs = [spec for _, _, group in forms.sections(TrainConfig) for spec in group]
    usual = forms.flat(teaching.example_config(lesson.preset, lesson.kind), specs)
    advanced, words = dict(lesson.advanced), {}
    for change in changes:
        path, now = change.path, change.shown
        if path in WORDS:
            words[WORDS[path]] = str(now)
        elif str(now) == str(usual[path]) and path not in teaching.MADE_FIELDS:
            advanced.pop(path, None)
        else:
            advanced[path] = now
    return replace(lesson, advanced=advanced, **words)


def changes_of(config: TrainConfig, changes: Mapping[str, Any]) -> tuple[Change, ...]:
    """What settings, by field name, would be another in a run's config.

    Raises: ConfigError for a setting that isn't on the form.
    """
    specs = {spec.path: spec for _, _, group in forms.sections(TrainConfig) for spec in group}
    found = []
    for name, value in changes.items():
        path = name if "." in name else f"{FIELDS.get(name, '')}.{name}"
        if path not in specs or (path in teaching.OWN_FIELDS and path not in WORDS):
            raise ConfigError(f"{name!r} can't be set on the form; change it by hand")
        spec = specs[path]
        before, now = forms.show(spec, forms.get_value(config, path)), forms.show(spec, value)
        if str(before) != str(now):
            found.append(Change(path, spec.title, _said(before), _said(now), now))
    return tuple(found)


def _said(value: Any) -> str:
    """A value as a person would write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).replace("\n", " / ") if value not in (None, "") else "automatic"


def _pictures(context: Context, job: Job, config: TrainConfig) -> tuple[Dataset, list[str]]:
    """The set that a run was taught with: the one of the form where it is still the same, else a new one."""
    datasets, folder = Datasets(context.workspace), config.data.instance_images
    laid = _laid_out(folder)
    there: Dataset | None = None
    with suppress(WorkspaceError):  # it was removed
        there = datasets.get(str(job.details.get("dataset") or ""))
    if there is not None and (not laid or _same(datasets, there, laid)):
        return there, [] if laid else ["The run's own pictures are gone; these are those of its set now."]
    if not laid:
        raise PictureError(f"the pictures of run {job.title!r} are gone; drop them again")
    rows = [_row(datasets, path, job.details.get("files") or {}) for path in laid]
    made = datasets.new(job.title)
    with datasets.changing(made.id) as db:
        db.executemany(
            "INSERT INTO dataset_pictures (dataset, position, sha256, name, caption, mask) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [(made.id, position, *row) for position, row in enumerate(rows)],
        )
    return datasets.get(made.id), []


def _row(datasets: Datasets, path: Path, names: Mapping[str, str]) -> tuple[str, str, str, str]:
    """(hash, name, caption, mask) of a picture that was laid out. names: for people, by its file's name.

    Raises: PictureError where the workspace has lost it.
    """
    caption, mask = _beside(path)
    picture = datasets.pictures.get(file_sha256(path))
    return picture.sha256, str(names.get(path.name, picture.name)), caption, mask


def _beside(path: Path) -> tuple[str, str]:
    """Caption of a picture that was laid out, and its mask's hash; empty where it has none."""
    written = path.with_suffix(".txt")
    caption = written.read_text(encoding="utf-8") if written.is_file() else ""
    masks = sorted(path.parent.glob(f"{path.stem}.mask.*"))
    return caption, file_sha256(masks[0]) if masks else ""


def _laid_out(folder: Path) -> list[Path]:
    """A run's pictures, in order; none where they are gone."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".txt")
    return [path for path in files if not path.stem.endswith(".mask")]


def _same(datasets: Datasets, dataset: Dataset, laid: Sequence[Path]) -> bool:
    """Whether a set would be laid out as it was for the run."""
    if len(dataset.items) != len(laid):
        return False
    return all(
        (item.caption, item.mask) == _beside(path) and _holds(datasets, item.sha256, path)
        for item, path in zip(dataset.items, laid, strict=True)
    )


def _holds(datasets: Datasets, sha256: str, path: Path) -> bool:
    """Whether a file has that content: by its link where it is one, else by its hash."""
    with suppress(PictureError, OSError):
        if datasets.pictures.get(sha256).path.samefile(path):
            return True
    return file_sha256(path) == sha256
