"""From the Teach tab to a job: what is refused, and what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import BaseError, ConfigError, PictureError, StudioError
from studio import forms, teaching
from studio.context import Context
from trainers.config import TrainConfig


def advanced(**changes: Any) -> dict[str, Any]:
    """What the Advanced part of the page holds when it was opened."""
    config = teaching.example_config("sketch", "subject")
    specs = [spec for _, _, group in teaching.advanced_sections() for spec in group]
    shown = {**forms.flat(config, specs), "data.instance_prompt": "", "data.class_prompt": ""}
    return {**shown, **{name.replace("__", "."): value for name, value in changes.items()}}


@pytest.fixture
def lesson(pictures: list[Path]) -> teaching.Lesson:
    return teaching.Lesson(
        pictures=[(path, "") for path in pictures], kind="subject", trigger="zuv", class_name="disc",
        preset="sketch", name="", advanced=advanced(),
    )  # fmt: skip


def test_a_lesson_becomes_a_job_with_its_pictures(context: Context, lesson: teaching.Lesson) -> None:
    job = teaching.start(context, lesson)
    config = TrainConfig.model_validate(job.config)
    assert config.data.instance_prompt == "a photo of a zuv disc"
    assert config.data.class_prompt == "a photo of a disc"
    assert config.adapter_name == job.title == "zuv"
    assert config.data.instance_images == context.workspace.folder("pictures", job.id)
    assert config.run.output == context.workspace.folder("runs", job.id)
    kept = sorted(config.data.instance_images.iterdir())
    assert [path.name for path in kept] == [f"{number:03d}.png" for number in range(5)]
    assert kept[2].read_bytes() == lesson.pictures[2][0].read_bytes()
    assert context.jobs.next() == job


def test_captions_go_beside_the_pictures(context: Context, lesson: teaching.Lesson) -> None:
    captioned = [
        (path, f"zuv {number}" if number else "") for number, (path, _) in enumerate(lesson.pictures)
    ]
    job = teaching.start(context, replace(lesson, pictures=captioned))
    config = TrainConfig.model_validate(job.config)
    assert config.data.captions == "sidecar"
    folder = config.data.instance_images
    assert (folder / "003.txt").read_text() == "zuv 3"
    assert not (folder / "000.txt").exists()


def test_captions_belong_to_the_pictures_of_their_lines(pictures: list[Path]) -> None:
    found = teaching.captioned(pictures[:3], "a zuv\n\n zuv  in snow \n\n")
    assert found == [(pictures[0], "a zuv"), (pictures[1], ""), (pictures[2], "zuv in snow")]
    assert teaching.captioned(pictures[:2], "") == [(pictures[0], ""), (pictures[1], "")]
    assert teaching.captioned([], "") == []
    with pytest.raises(ConfigError, match="3 lines of captions for 2 pictures"):
        teaching.captioned(pictures[:2], "a\nb\nc")


def test_the_doctor_looks_at_what_is_on_the_page(context: Context, lesson: teaching.Lesson) -> None:
    twice = replace(lesson, pictures=[*lesson.pictures, (lesson.pictures[0][0], "a disc")])
    found = teaching.look_over(context, twice)
    name = lesson.pictures[0][0].name
    assert any(line.startswith(f"{name}: ") and "same" in line for line in found), found
    assert any("zuv" in line for line in found)  # the trigger is missing in the caption
    assert not any("000" in line for line in found)
    assert not list(context.workspace.folder("cache").glob("tmp*"))
    with pytest.raises(PictureError, match="no pictures"):
        teaching.look_over(context, replace(lesson, pictures=[]))


def test_what_is_set_under_advanced_counts(context: Context, lesson: teaching.Lesson) -> None:
    changed = advanced(
        run__steps=7, adapter__rank=3, run__preview_prompts="one\ntwo", data__class_prompt="a disc"
    )
    config = TrainConfig.model_validate(teaching.start(context, replace(lesson, advanced=changed)).config)
    assert (config.run.steps, config.adapter.rank) == (7, 3)
    assert config.run.preview_prompts == ("one", "two")
    assert config.data.class_prompt == "a disc"


def broken_picture(folder: Path) -> Path:
    path = folder / "torn.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n not really")
    return path


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"pictures": []}, PictureError, "no pictures"),
        ({"trigger": " "}, ConfigError, "trigger is empty"),
        ({"class_name": ""}, ConfigError, "what 'zuv' is"),
        ({"preset": "hasty"}, ConfigError, "hasty"),
        ({"kind": "thing"}, ConfigError, "thing"),
        ({"advanced": advanced(run__steps=0)}, ConfigError, "run.steps"),
        ({"advanced": advanced(data__instance_prompt="a photo of nothing")}, ConfigError, "zuv"),
        ({"name": "x" * 101}, ConfigError, "run.name"),
    ],
)
def test_a_wrong_lesson_is_refused_before_anything_is_written(
    context: Context, lesson: teaching.Lesson, change: dict[str, Any], kind: type[StudioError], said: str
) -> None:
    with pytest.raises(kind) as refused:
        teaching.start(context, replace(lesson, **change))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert context.jobs.find() == []
    assert list(context.workspace.folder("pictures").iterdir()) == []


def test_an_unreadable_picture_is_named(context: Context, lesson: teaching.Lesson, tmp_path: Path) -> None:
    torn = broken_picture(tmp_path)
    with pytest.raises(PictureError, match=r"torn\.png"):
        teaching.start(context, replace(lesson, pictures=[*lesson.pictures, (torn, "")]))
    assert list(context.workspace.folder("pictures").iterdir()) == []
    good, refused = teaching.check_pictures([lesson.pictures[0][0], torn, tmp_path / "notes.txt"])
    assert good == [lesson.pictures[0][0]]
    assert len(refused) == 2


def test_a_missing_base_is_refused_at_once(context: Context, lesson: teaching.Lesson, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="model_index"):
        teaching.start(replace(context, base=str(tmp_path)), lesson)


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
    shown = teaching.example_config("sketch", "style")
    specs = [spec for _, _, group in teaching.advanced_sections() for spec in group]
    page = {**forms.flat(shown, specs), "data.instance_prompt": "", "data.class_prompt": ""}
    style = replace(
        lesson, kind="style", class_name="", advanced={**page, "adapter.method": "textual_inversion"}
    )
    config = TrainConfig.model_validate(teaching.start(context, style).config)
    assert (config.adapter.method, config.adapter.unet_targets) == ("textual_inversion", "attention")
    with pytest.raises(ConfigError, match="unet_targets: means nothing"):
        teaching.start(context, replace(style, advanced={**style.advanced, "adapter.unet_targets": "all"}))
