"""From a run back to the form: the same config once more, with what is to be changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

gradio = pytest.importorskip("gradio")

from pipelines.errors import ConfigError, PictureError  # noqa: E402
from studio import again, teaching  # noqa: E402
from studio.context import Context  # noqa: E402
from studio.datasets import Datasets  # noqa: E402
from studio.jobs import Job  # noqa: E402
from studio.tabs import teach_form, teach_run  # noqa: E402
from studio.tabs.teach_form import FILLED, Form  # noqa: E402
from trainers.config import TrainConfig  # noqa: E402
from trainers.evidence.record import Finding, Record, write_record  # noqa: E402

SUBJECT: dict[str, Any] = {"trigger": "zuv", "class_name": "disc"}
STYLE: dict[str, Any] = {"trigger": "zuv", "kind": "style", "preset": "standard"}


def taught(context: Context, dataset: str, **lesson: Any) -> Job:
    return teaching.start(context, teaching.Lesson(dataset=dataset, **lesson))


@pytest.mark.parametrize(
    "lesson",
    [
        SUBJECT,
        STYLE,
        {**SUBJECT, "preset": "thorough", "advanced": {"optimizer.learning_rate": "0.1", "run.steps": "7"}},
        {**SUBJECT, "advanced": {"data.class_prompt": "a thing", "run.preview_prompts": "a zuv\na dog"}},
        {**STYLE, "advanced": {"adapter.method": "textual_inversion"}},
        {**SUBJECT, "advanced": {"run.name": "My disc", "run.device": "cpu", "adapter.block_rates": "mid=2"}},
        {**SUBJECT, "advanced": {"evidence.stop_early": True, "evidence.patience": "2"}},
    ],
)
def test_a_run_becomes_the_lesson_it_was(context: Context, filled: str, lesson: dict[str, Any]) -> None:
    job = taught(context, filled, **lesson)
    dataset = again.fill(context, job, {}).dataset
    assert dataset == filled
    settings = Datasets(context.workspace).get(dataset).settings
    assert settings["advanced"].keys() == lesson.get("advanced", {}).keys(), "only what was set is set"
    once_more = taught(context, dataset, **settings)
    first, second = (TrainConfig.model_validate(one.config) for one in (job, once_more))
    assert second.public() == first.public()


def test_changes_go_before_what_was_set(context: Context, filled: str) -> None:
    own = {"optimizer.learning_rate": 0.1, "run.steps": 7}
    job = taught(context, filled, **SUBJECT, advanced=own)
    usual = teaching.example_config("sketch", "subject").run.steps
    found = again.fill(
        context, job, {"learning_rate": 0.001, "steps": usual, "text_learning_rate": None, "trigger": "zab"}
    )
    assert [(one.label, one.before, one.now) for one in found.changed] == [
        ("Learning rate", "0.1", "0.001"), ("Steps", "7", str(usual)), ("Trigger", "zuv", "zab"),
    ]  # fmt: skip
    settings = Datasets(context.workspace).get(found.dataset).settings
    assert settings["trigger"] == "zab"
    assert settings["advanced"] == {"optimizer.learning_rate": "0.001"}, "a usual value is no change"
    assert len(context.jobs.find(kind="train")) == 1, "nothing starts by itself"
    for name in ("output", "nothing", "run.base"):
        with pytest.raises(ConfigError, match="can't be set"):
            again.fill(context, job, {name: "x"})


def test_pictures_that_were_changed_since_come_back_as_they_were(context: Context, filled: str) -> None:
    datasets = Datasets(context.workspace)
    items = datasets.get(filled).items
    datasets.caption(filled, items[1].sha256, "a zuv disc")
    datasets.mask(filled, items[2].sha256, items[0].sha256)
    job = taught(context, filled, **SUBJECT)
    before = datasets.get(filled).items
    assert again.fill(context, job, {}).dataset == filled
    datasets.caption(filled, items[1].sha256, "another")
    datasets.remove(filled, items[4].sha256)
    dataset = again.fill(context, job, {}).dataset
    assert dataset != filled and len(datasets.get(filled).items) == 4
    same = [replace(item, notes=()) for item in before]
    assert [replace(item, notes=()) for item in datasets.get(dataset).items] == same


def test_pictures_that_are_gone_are_said(context: Context, filled: str) -> None:
    job = taught(context, filled, **SUBJECT)
    folder = context.workspace.folder("pictures", job.id)
    for path in folder.iterdir():
        path.unlink()
    assert "gone" in again.fill(context, job, {}).notes[0]
    Datasets(context.workspace).delete(filled)
    with pytest.raises(PictureError, match="drop them again"):
        again.fill(context, job, {})


def test_another_base_is_said(context: Context, filled: str, tmp_path: Path) -> None:
    job = taught(context, filled, **SUBJECT)
    [note] = again.fill(replace(context, given=str(tmp_path)), job, {}).notes
    assert note.startswith("It was taught on pocket")


def test_a_finding_fills_the_form(context: Context, filled: str) -> None:
    job = taught(context, filled, **SUBJECT, advanced={"run.steps": 7})
    folder = context.jobs.folder(job)
    folder.mkdir()
    known = {"title": "x", "words": "x", "advice": "x"}
    first = Finding(rule="one", changes={"steps": 30}, **known)
    second = Finding(rule="two", changes={"steps": 90, "learning_rate": 0.5}, **known)
    write_record(folder, Record(verdict=(first, second)))
    act, form = teach_run.acting(context), Form(context, {name: name for name in FILLED})

    def pressed(rule: str) -> dict[str, Any]:
        wish = act(SimpleNamespace(act="again", id=job.id, rule=rule))[3]
        return dict(zip(FILLED, form.refill(wish), strict=True))

    assert pressed("two")["advanced"]["changes"] == {
        "run.steps": 90, "optimizer.learning_rate": "0.5"
    }  # fmt: skip
    shown = pressed("all")
    assert shown["advanced"]["changes"]["run.steps"] == 30, "the more important goes first"
    assert "<b>30</b>" in shown["again"].value and "<s>7</s>" in shown["again"].value
    assert shown["trigger"] == "zuv" and len(shown["pictures"]["items"]) == 5
    assert pressed("")["advanced"]["changes"] == {"run.steps": 7}
    assert form.refill({}) != form.recall(), "an empty wish changes nothing"
    assert dict(zip(teach_form.FILLED, form.recall(), strict=True))["again"].visible is False
