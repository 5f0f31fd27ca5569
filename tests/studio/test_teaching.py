"""From the Teach tab to a job: what is refused, and what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.errors import BaseError, ConfigError, PictureError, StudioError, WorkspaceError
from studio import teaching
from studio.context import Context
from studio.datasets import Datasets
from trainers.config import PRESETS, TrainConfig


@pytest.fixture
def lesson(filled: str) -> teaching.Lesson:
    return teaching.Lesson(dataset=filled, trigger="zuv", class_name="disc")


def test_a_lesson_becomes_a_job_with_its_pictures(context: Context, lesson: teaching.Lesson) -> None:
    job = teaching.start(context, lesson)
    config = TrainConfig.model_validate(job.config)
    assert config.data.instance_prompt == "a photo of a zuv disc"
    assert config.data.class_prompt == "a photo of a disc"
    assert config.data.captions == "prompt"
    assert config.adapter_name == job.title == "zuv"
    assert config.data.instance_images == context.workspace.folder("pictures", job.id)
    assert config.run.output == context.workspace.folder("runs", job.id)
    kept = sorted(config.data.instance_images.iterdir())
    assert [path.name for path in kept] == [f"{number:03d}.png" for number in range(5)]
    assert Image.open(kept[2]).getpixel((0, 0)) == (255, 215, 0)
    assert context.jobs.next() == job
    assert job.details["dataset"] == lesson.dataset


def test_captions_go_beside_the_pictures(context: Context, lesson: teaching.Lesson) -> None:
    datasets = Datasets(context.workspace)
    item = datasets.get(lesson.dataset).items[3]
    datasets.caption(lesson.dataset, item.sha256, "zuv 3")
    config = TrainConfig.model_validate(teaching.start(context, lesson).config)
    assert config.data.captions == "sidecar"
    folder = config.data.instance_images
    assert (folder / "003.txt").read_text() == "zuv 3"
    assert not (folder / "000.txt").exists()


def test_a_captioner_is_asked_where_nothing_is_written(context: Context, lesson: teaching.Lesson) -> None:
    asked = {"data.captioner": "org/name", "data.add_trigger": True}
    config = TrainConfig.model_validate(teaching.start(context, replace(lesson, advanced=asked)).config)
    assert (config.data.captions, config.data.captioner) == ("sidecar", "org/name")


def test_what_is_set_under_advanced_counts(context: Context, lesson: teaching.Lesson) -> None:
    changed = {
        "run.steps": 7, "adapter.rank": "3", "run.preview_prompts": "one\ntwo", "data.class_prompt": "a disc",
        "run.name": " My  disc ",
    }  # fmt: skip
    job = teaching.start(context, replace(lesson, advanced=changed))
    config = TrainConfig.model_validate(job.config)
    assert (config.run.steps, config.adapter.rank) == (7, 3)
    assert config.run.preview_prompts == ("one", "two")
    assert config.data.class_prompt == "a disc"
    assert job.title == "My disc"


def test_earlier_steps_are_kept_to_be_taken(context: Context, lesson: teaching.Lesson) -> None:
    config = TrainConfig.model_validate(teaching.start(context, lesson).config)
    assert config.run.keep_checkpoints == 6
    asked = replace(lesson, advanced={"run.keep_checkpoints": 3})
    assert teaching.start(context, asked).config["run"]["keep_checkpoints"] == 3


@pytest.mark.parametrize(("preset", "kind"), PRESETS)
def test_what_the_page_shows_of_a_preset_is_what_it_teaches(preset: str, kind: str) -> None:
    """Sent back as it is shown, every setting gives the config that none of them gives."""
    defaults, own = teaching.usual_values()
    shown = {**defaults, **own[f"{preset} {kind}"]}
    paths = {field["path"] for section in teaching.described_sections() for field in section["fields"]}
    assert set(shown) == paths
    assert not paths & teaching.OWN_FIELDS
    lesson = teaching.Lesson(dataset="x", kind=kind, trigger="zuv", class_name="disc", preset=preset)
    there: dict[str, Any] = {"captioned": False, "base": "pocket"} | dict.fromkeys(
        ("pictures", "output", "cache"), Path("x")
    )
    plain = teaching.lesson_config(lesson, **there)
    assert teaching.lesson_config(replace(lesson, advanced=shown), **there) == plain


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"dataset": ""}, PictureError, "no pictures"),
        ({"dataset": "6b-00"}, WorkspaceError, "no set of pictures"),
        ({"trigger": " "}, ConfigError, "trigger is empty"),
        ({"class_name": ""}, ConfigError, "what 'zuv' is"),
        ({"preset": "hasty"}, ConfigError, "hasty"),
        ({"kind": "thing"}, ConfigError, "thing"),
        ({"advanced": {"run.steps": 0}}, ConfigError, "run.steps"),
        ({"advanced": {"data.instance_prompt": "a photo of nothing"}}, ConfigError, "zuv"),
        ({"advanced": {"run.name": "x" * 101}}, ConfigError, "run.name"),
    ],
)
def test_a_wrong_lesson_is_refused_before_anything_is_written(
    context: Context, lesson: teaching.Lesson, change: dict[str, Any], kind: type[StudioError], said: str
) -> None:
    before = sorted(context.workspace.folder("pictures").iterdir())
    with pytest.raises(kind) as refused:
        teaching.start(context, replace(lesson, **change))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert context.jobs.find() == []
    assert sorted(context.workspace.folder("pictures").iterdir()) == before


def test_an_empty_set_is_refused(context: Context, lesson: teaching.Lesson) -> None:
    with pytest.raises(PictureError, match="no pictures"):
        teaching.start(context, replace(lesson, dataset=Datasets(context.workspace).new().id))


def test_a_missing_base_is_refused_at_once(context: Context, lesson: teaching.Lesson, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="model_index"):
        teaching.start(replace(context, given=str(tmp_path)), lesson)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("subject", "zib", "creature"), ("a photo of a zib creature", "a photo of a creature")),
        (("subject", "ozo", "owl"), ("a photo of an ozo owl", "a photo of an owl")),
        (("style", "inko", ""), ("a picture in inko style", "")),
    ],
)
def test_prompts_are_made_from_the_words(words: tuple[str, str, str], expected: tuple[str, str]) -> None:
    assert teaching.prompts(*words) == expected


def test_a_preset_for_styles_goes_with_a_method_without_layers(
    context: Context, lesson: teaching.Lesson
) -> None:
    style = replace(lesson, kind="style", class_name="", advanced={"adapter.method": "textual_inversion"})
    config = TrainConfig.model_validate(teaching.start(context, style).config)
    assert (config.adapter.method, config.adapter.unet_targets) == ("textual_inversion", "attention")
    with pytest.raises(ConfigError, match="unet_targets: means nothing"):
        teaching.start(context, replace(style, advanced={**style.advanced, "adapter.unet_targets": "all"}))


def test_settings_are_called_as_the_page_calls_them() -> None:
    said = teaching.in_words("seen 2 times only; raise run.steps to 13, not x.png or run.nothing")
    assert said == "seen 2 times only; raise “Steps” to 13, not x.png or run.nothing"
