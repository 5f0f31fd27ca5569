"""From what the Teach tab holds to a training job: words, settings, a dataset. No Gradio in here."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.errors import BaseError, ConfigError, PictureError
from studio import forms
from studio.bases import BaseOptions, hub_id, local_ref
from studio.context import Context
from studio.datasets import Dataset, Datasets
from studio.jobs import Job
from studio.places import check_ref, named
from studio.workspace import new_id
from trainers.config import FIELDS, PRESETS, TrainConfig, preset_config, validate
from trainers.presets import fitting
from trainers.wording import prompts

# Fields that the tab asks for itself or knows: everything else stands under "Advanced".
OWN_FIELDS = frozenset(
    ("data.instance_images", "data.kind", "data.trigger", "data.captions", "data.captions_file")
    + ("data.subfolders",)  # a dataset has neither: its captions stand beside the pictures
    + ("run.output", "run.cache", "run.base", "run.vae", "run.configs", "run.prediction_type")
)
PRESET_FIELDS = frozenset(f"{FIELDS[name]}.{name}" for preset in PRESETS.values() for name in preset)
MADE_FIELDS = ("data.instance_prompt", "data.class_prompt", "run.name", "run.preview_prompts")
"""Fields that are made from the words where they are empty."""
PLACEHOLDERS = dict.fromkeys(MADE_FIELDS, "made from the words above")

NAMED = {
    "data.captioner": "the captioner",
    "evidence.judge": "the judge of likeness",
    "evidence.structure_judge": "the judge of structure",
}
"""Fields that name a folder or a hub id, and what that is."""
KEPT_CHECKPOINTS = 6  # so that an earlier step can be taken when it was the better one

_PATH = re.compile(r"\b[a-z]+\.[a-z_]+\b")


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a person asks to be taught.

    Attributes:
        dataset: the id of the pictures and captions.
        class_name: what the subject is; empty for a style.
        advanced: what was set besides: raw values by field path (see `studio.forms`).
    """

    dataset: str
    kind: str = "subject"
    trigger: str = ""
    class_name: str = ""
    preset: str = "sketch"
    advanced: Mapping[str, Any] = field(default_factory=dict)


@cache
def advanced_sections() -> list[tuple[str, str, list[forms.FieldSpec]]]:
    """(name, title, fields) of everything under "Advanced"."""
    found = []
    for name, title, specs in forms.sections(TrainConfig):
        kept = [spec for spec in specs if spec.path not in OWN_FIELDS]
        found.append((name, title, kept))
    return found


def described_sections() -> list[dict[str, Any]]:
    """The sections as `js/fields.js` draws them; what helps calls settings as the page calls them."""
    return [
        {
            "name": name, "title": title,
            "fields": [
                {**forms.described(spec, PLACEHOLDERS.get(spec.path, "")), "help": in_words(spec.help)}
                for spec in specs
            ],
        }
        for name, title, specs in advanced_sections()
    ]  # fmt: skip


@cache
def _titles() -> dict[str, str]:
    return {spec.path: spec.title for _, _, specs in forms.sections(TrainConfig) for spec in specs}


def in_words(line: str) -> str:
    """A line of the trainer's with its settings called as the page calls them: `run.steps` is “Steps”."""
    titles = _titles()
    return _PATH.sub(lambda found: f"“{titles[found[0]]}”" if found[0] in titles else found[0], line)


def example_config(preset: str, kind: str) -> TrainConfig:
    """A preset's config with stand-ins for what only the person knows; the prompts are empty on the page."""
    return preset_config(
        preset, kind, instance_images=Path("."), output=Path("."), trigger="x", instance_prompt="x",
        keep_checkpoints=KEPT_CHECKPOINTS,
    )  # fmt: skip


def usual_values() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(what each field under "Advanced" shows at first, by path; what each "preset kind" changes of that)."""
    specs = [spec for _, _, group in advanced_sections() for spec in group]
    shown = {key: forms.flat(example_config(*key), specs) for key in PRESETS}
    first, made = shown[next(iter(PRESETS))], dict.fromkeys(MADE_FIELDS, "")
    own = {
        " ".join(key): {path: value for path, value in values.items() if path in PRESET_FIELDS}
        for key, values in shown.items()
    }
    return {**first, **made}, own


def preview_prompts(kind: str, trigger: str, instance_prompt: str, class_prompt: str) -> tuple[str, ...]:
    """What the preview strip shows: the subject, the subject elsewhere, and what must stay as it was."""
    if kind == "style":
        return f"a cat in {trigger} style", f"a castle in {trigger} style", "a photo of a cat"
    return tuple(filter(None, (instance_prompt, f"{instance_prompt} in the snow", class_prompt)))


def lesson_config(
    lesson: Lesson, *, captioned: bool, pictures: Path, output: Path, cache: Path, base: str,
    options: BaseOptions | None = None,
) -> TrainConfig:  # fmt: skip
    """The validated config of a lesson.

    Args:
        captioned: whether any picture has a caption.
        base, options: what is taught, and how it is loaded where the lesson doesn't say.

    Raises:
        ConfigError: something is missing or out of its bounds.
    """
    trigger = " ".join(lesson.trigger.split())
    class_name = " ".join(lesson.class_name.split())
    if not trigger:
        raise ConfigError("the trigger is empty; give the word that will call what is learned, such as “zib”")
    if lesson.kind == "subject" and not class_name:
        raise ConfigError(
            f"nothing says what {trigger!r} is; give its kind in a word, such as “dog” or “toy”"
        )
    specs = [spec for _, _, group in advanced_sections() for spec in group]
    preset = example_config(lesson.preset, lesson.kind)
    values = forms.changed(preset, specs, lesson.advanced)
    # A preset chooses layers for any method; what a person chooses where a method has none is refused.
    adapter, own = values["adapter"], preset.adapter
    layers = {name: adapter[name] for name in ("unet_targets", "text_targets")}
    layers = {name: value for name, value in layers.items() if value == getattr(own, name)}
    for name in layers.keys() - fitting(layers, adapter["method"]).keys():
        del adapter[name]
    made_instance, made_class = prompts(lesson.kind, trigger, class_name)
    data, run = values["data"], values["run"]
    data["instance_prompt"] = lesson.advanced.get("data.instance_prompt") or made_instance
    data["class_prompt"] = lesson.advanced.get("data.class_prompt") or made_class
    data.update(instance_images=pictures, kind=lesson.kind, trigger=trigger)
    data["captions"] = "sidecar" if captioned or data["captioner"] else "prompt"
    run.update(output=output, cache=cache, base=base, name=" ".join(run["name"].split()) or trigger)
    options = options or BaseOptions()
    run.update(vae=options.vae or "", configs=options.configs or "")
    run["prediction_type"] = options.prediction_type
    run["device"] = run.get("device") or options.device
    run["precision"] = run.get("precision") or options.precision
    run["preview_prompts"] = run["preview_prompts"] or preview_prompts(
        lesson.kind, trigger, data["instance_prompt"], data["class_prompt"]
    )
    return validate(values)


def _placed(context: Context, advanced: Mapping[str, Any]) -> dict[str, Any]:
    """What was set, with whole paths. Raises: ConfigError: see `studio.places`."""
    paths = {spec.path: spec for _, _, group in advanced_sections() for spec in group if spec.kind == "path"}
    for path, what in NAMED.items():
        check_ref(context, str(advanced.get(path) or ""), what)
    return {
        name: str(named(context, str(value), paths[name].title)) if name in paths and value else value
        for name, value in advanced.items()
    }


def config_in(
    context: Context, lesson: Lesson, dataset: Dataset | None, folder: Path, output: Path
) -> TrainConfig:
    """The config of a lesson whose pictures lie in `folder`.

    Raises: ConfigError as `lesson_config`, and for a folder that may not be named.
    """
    lesson = replace(lesson, advanced=_placed(context, lesson.advanced))
    captioned = dataset is not None and any(item.caption for item in dataset.items)
    return lesson_config(
        lesson, captioned=captioned, pictures=folder, output=output,
        cache=context.workspace.folder("cache"), base=context.base, options=context.options,
    )  # fmt: skip


def start(context: Context, lesson: Lesson) -> Job:
    """Check a lesson, lay its pictures out and queue its job.

    Raises:
        StudioError: what is wrong with it; then nothing has been written.
    """
    datasets = Datasets(context.workspace)
    if not lesson.dataset or not (dataset := datasets.get(lesson.dataset)).items:
        raise PictureError("there are no pictures; drop a few, or choose one of the examples")
    if local_ref(context.base) is None and hub_id(context.base) is None:
        raise BaseError(f"base {context.base!r} is gone; put it back, or start Pigment with another --base")
    job_id = new_id()
    # Beside the run, not in it: a job that is done anew reads the same pictures.
    folder = context.workspace.folder("pictures", job_id)
    config = config_in(context, lesson, dataset, folder, context.workspace.folder("runs", job_id))
    details = {
        "preset": lesson.preset, "class_name": lesson.class_name, "pictures": len(dataset.items),
        "trigger": config.data.trigger, "kind": config.data.kind, "prompt": config.data.instance_prompt,
        "dataset": dataset.id,
    }  # fmt: skip
    try:
        details["files"] = datasets.lay_out(dataset.id, folder)
        job = context.jobs.submit(
            "train", config.adapter_name, config.model_dump(mode="json"), details=details, id=job_id
        )
    except BaseException:  # the file of a picture is gone, the queue or the disk is full
        shutil.rmtree(folder, ignore_errors=True)
        raise
    context.runner.wake()
    return job
