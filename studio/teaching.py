"""From what the Teach tab holds to a training job: prompts, config, pictures on disk. No Gradio in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.errors import BaseError, ConfigError, PictureError
from pipelines.files import write_atomic
from studio import forms
from studio.bases import BaseOptions, hub_id, local_ref
from studio.context import Context
from studio.jobs import Job
from studio.library import copy_file
from studio.workspace import new_id
from trainers.config import FIELDS, PRESETS, TrainConfig, preset_config, validate
from trainers.images import SUFFIXES, read_picture
from trainers.presets import fitting
from trainers.wording import prompts

MAX_PICTURES = 1000

# Fields that the tab asks for itself or knows: everything else stands under "Advanced".
OWN_FIELDS = frozenset(
    ("data.instance_images", "data.kind", "data.trigger", "data.captions")
    + ("run.output", "run.name", "run.cache", "run.base", "run.vae", "run.configs", "run.prediction_type")
)
PRESET_FIELDS = frozenset(f"{FIELDS[name]}.{name}" for preset in PRESETS.values() for name in preset)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a person asks to be taught.

    Attributes:
        pictures: (file, caption) pairs; a caption may be empty.
        advanced: raw component values by field path (see `studio.forms`).
    """

    pictures: Sequence[tuple[Path, str]]
    kind: str
    trigger: str
    class_name: str
    preset: str
    name: str
    advanced: Mapping[str, Any]


def advanced_sections() -> list[tuple[str, str, list[forms.FieldSpec]]]:
    """(name, title, fields) of everything under "Advanced"."""
    found = []
    for name, title, specs in forms.sections(TrainConfig):
        kept = [spec for spec in specs if spec.path not in OWN_FIELDS]
        found.append((name, title, kept))
    return found


def example_config(preset: str, kind: str) -> TrainConfig:
    """A preset's config with stand-ins for what only the person knows; the prompts are empty on the page."""
    return preset_config(
        preset, kind, instance_images=Path("."), output=Path("."), trigger="x", instance_prompt="x"
    )


def preview_prompts(kind: str, trigger: str, instance_prompt: str, class_prompt: str) -> tuple[str, ...]:
    """What the preview strip shows: the subject, the subject elsewhere, and what must stay as it was."""
    if kind == "style":
        return f"a cat in {trigger} style", f"a castle in {trigger} style", "a photo of a cat"
    return tuple(filter(None, (instance_prompt, f"{instance_prompt} in the snow", class_prompt)))


def check_pictures(pictures: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """(readable ones, one line for each of the others)."""
    good, refused = [], []
    for path in pictures:
        try:
            if path.suffix.lower() not in SUFFIXES:
                raise PictureError(
                    f"picture {path.name!r} isn't one of {', '.join(s[1:] for s in SUFFIXES)}; convert it"
                )
            read_picture(path)
        except PictureError as error:
            refused.append(str(error))
        else:
            good.append(path)
    return good, refused


def captioned(pictures: Sequence[Path], lines: str) -> list[tuple[Path, str]]:
    """Give each picture the caption that stands in its line; an empty line is none.

    Raises:
        ConfigError: there are captions for more pictures than there are.
    """
    captions = [" ".join(line.split()) for line in lines.rstrip().split("\n")]
    if len(captions) > max(len(pictures), 1):
        raise ConfigError(
            f"there are {len(captions)} lines of captions for {len(pictures)} pictures; give one each"
        )
    captions += [""] * (len(pictures) - len(captions))
    return list(zip(pictures, captions, strict=False))


def lesson_config(
    lesson: Lesson, *, pictures: Path, output: Path, cache: Path, base: str,
    options: BaseOptions | None = None,
) -> TrainConfig:  # fmt: skip
    """The validated config of a lesson.

    Args:
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
    data["captions"] = "sidecar" if any(caption for _, caption in lesson.pictures) else "prompt"
    run.update(output=output, cache=cache, base=base, name=" ".join(lesson.name.split()) or trigger)
    options = options or BaseOptions()
    run.update(vae=options.vae or "", configs=options.configs or "")
    run["prediction_type"] = options.prediction_type
    run["device"] = run.get("device") or options.device
    run["precision"] = run.get("precision") or options.precision
    run["preview_prompts"] = run["preview_prompts"] or preview_prompts(
        lesson.kind, trigger, data["instance_prompt"], data["class_prompt"]
    )
    return validate(values)


def look_over(context: Context, lesson: Lesson) -> list[str]:
    """Ask the dataset doctor about a lesson's pictures and captions; a line for each thing to mend.

    Raises:
        StudioError: the lesson isn't complete.
    """
    from trainers.doctor import examine

    if not lesson.pictures:
        raise PictureError("there are no pictures; drop a few, or choose one of the examples")
    with TemporaryDirectory(dir=context.workspace.folder("cache")) as name:
        folder = Path(name)
        config = lesson_config(
            lesson, pictures=folder, output=folder, cache=folder, base=context.base, options=context.options
        )
        _lay_out(lesson, folder)
        called = {f"{number:03d}{p.suffix.lower()}": p.name for number, (p, _) in enumerate(lesson.pictures)}
        lines = [finding.line() for finding in examine(config.data, config.run)]
    for generated, own in called.items():
        lines = [line.replace(generated, own) for line in lines]
    return lines


def _lay_out(lesson: Lesson, folder: Path) -> None:
    """Copy a lesson's pictures into a folder under generated names, their captions beside them."""
    for number, (path, caption) in enumerate(lesson.pictures):
        copy_file(path, folder / f"{number:03d}{path.suffix.lower()}")
        if caption:
            write_atomic(folder / f"{number:03d}.txt", [caption.encode()])


def start(context: Context, lesson: Lesson) -> Job:
    """Check a lesson, keep its pictures in the workspace and queue its job.

    Raises:
        StudioError: what is wrong with it; then nothing has been written.
    """
    if not lesson.pictures:
        raise PictureError("there are no pictures; drop a few, or choose one of the examples")
    if len(lesson.pictures) > MAX_PICTURES:
        raise PictureError(f"{len(lesson.pictures)} pictures are more than {MAX_PICTURES}; leave some out")
    _, refused = check_pictures([path for path, _ in lesson.pictures])
    if refused:
        raise PictureError(refused[0])
    if local_ref(context.base) is None and hub_id(context.base) is None:
        raise BaseError(f"base {context.base!r} is gone; put it back, or start Pigment with another --base")
    job_id = new_id()
    folder = context.workspace.folder("pictures", job_id)
    config = lesson_config(
        lesson, pictures=folder, output=context.workspace.folder("runs", job_id),
        cache=context.workspace.folder("cache"), base=context.base, options=context.options,
    )  # fmt: skip
    folder.mkdir()
    _lay_out(lesson, folder)
    details = {
        "preset": lesson.preset, "class_name": lesson.class_name, "pictures": len(lesson.pictures),
        "trigger": config.data.trigger, "kind": config.data.kind, "prompt": config.data.instance_prompt,
    }  # fmt: skip
    job = context.jobs.submit(
        "train", config.adapter_name, config.model_dump(mode="json"), details=details, id=job_id
    )
    context.runner.wake()
    return job
