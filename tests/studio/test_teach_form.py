"""The form of the Teach tab: a dataset with settings, which a reload shows as it was left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

gradio = pytest.importorskip("gradio")

from pipelines.errors import ConfigError, PictureError  # noqa: E402
from studio.context import Context  # noqa: E402
from studio.datasets import Datasets  # noqa: E402
from studio.tabs import dataset, hint, teach_form, teach_run  # noqa: E402
from studio.tabs.teach_form import FILLED, Form  # noqa: E402

NAMES = ("pictures", "kind", "trigger", "class_name", "preset", "advanced")


@pytest.fixture
def form(context: Context) -> Form:
    return Form(context, {name: name for name in (*FILLED, *NAMES)})


def values(dataset_id: str, **changes: Any) -> dict[str, Any]:
    """What the page holds, by component."""
    shown = {
        "pictures": {"dataset": dataset_id, "captions": {}}, "kind": {"chosen": "subject"}, "trigger": "zuv",
        "class_name": "disc", "preset": {"chosen": "standard"}, "advanced": {"changes": {"run.steps": "7"}},
    }  # fmt: skip
    return {**shown, **changes}


def shown(outputs: list[Any]) -> dict[str, Any]:
    return dict(zip(FILLED, outputs, strict=True))


def test_a_reload_shows_what_was_there(form: Form, filled: str) -> None:
    form.keep(values(filled))
    again = shown(form.recall())
    assert again["pictures"]["dataset"] == again["dataset"]["key"] == filled
    assert [item["name"] for item in again["pictures"]["items"]] == [f"disc {n}.png" for n in range(5)]
    assert (again["kind"], again["trigger"]) == ({"chosen": "subject"}, "zuv")
    assert (again["class_name"].value, again["preset"]) == ("disc", {"chosen": "standard"})
    assert again["advanced"] == {"preset": "standard subject", "changes": {"run.steps": "7"}, "error": ""}
    assert "a photo of a zuv disc" in again["spoken"]
    empty = shown(form.afresh())
    assert empty["pictures"]["items"] == [] and empty["trigger"] == ""
    assert shown(form.recall())["pictures"]["dataset"] == empty["pictures"]["dataset"] != filled


def test_words_before_pictures_are_kept_too(form: Form) -> None:
    kept = form.keep(values(""))
    assert kept[0]["dataset"]
    assert shown(form.recall())["trigger"] == "zuv"


def test_what_changes_nothing_writes_nothing(form: Form, filled: str) -> None:
    form.keep(values(filled))
    before = form.datasets.get(filled).changed
    form.keep(values(filled))
    assert form.datasets.get(filled).changed == before


def test_captions_that_were_just_written_are_taught(form: Form, filled: str) -> None:
    item = form.datasets.get(filled).items[1]
    written = {"dataset": filled, "captions": {item.sha256: " a zuv\n disc", "gone": "x"}}
    job = form.start(values(filled, pictures=written))["key"]
    assert form.datasets.get(filled).items[1].caption == "a zuv disc"
    folder = form.context.workspace.folder("pictures", job)
    assert (folder / "001.txt").read_text() == "a zuv disc"


@pytest.mark.parametrize("change", [{"kind": {"chosen": "thing"}}, {"preset": {"chosen": "hasty"}}])
def test_an_unknown_choice_is_refused(form: Form, filled: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="reload"):
        form.keep(values(filled, **change))


def test_a_style_asks_for_no_class(form: Form, filled: str) -> None:
    kept = form.keep(values(filled, kind={"chosen": "style"}))
    by_name = dict(zip(teach_form.KEPT, kept, strict=True))
    assert by_name["class_name"].visible is False
    assert by_name["advanced"] == {"preset": "standard style"}
    assert "a picture in zuv style" in by_name["spoken"]


def test_an_example_fills_everything(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    made = form.datasets.new("Zib, one-eyed", {
        "kind": "subject", "trigger": "zib", "class_name": "owl", "instance_prompt": "a photo of a zib owl",
        "class_prompt": "a bird", "example": "mascot",
    })  # fmt: skip
    monkeypatch.setattr(Datasets, "from_example", lambda _, name: made if name == "mascot" else None)
    filled = shown(form.example(SimpleNamespace(id="mascot")))
    assert (filled["trigger"], filled["class_name"].value) == ("zib", "owl")
    # A prompt that the words give anyway stays empty, so that it follows them.
    assert filled["advanced"]["changes"] == {"data.class_prompt": "a bird", "run.name": "Zib"}


def test_a_captioner_writes_by_a_job(form: Form, filled: str) -> None:
    with pytest.raises(ConfigError, match="no captioner"):
        form.write_captions(values(filled))
    asked = {"changes": {"data.captioner": "org/name"}}
    assert form.keep(values(filled, advanced=asked))[0]["auto"] == "name"
    form.write_captions(values(filled, advanced=asked))
    [job] = form.context.jobs.find(kind="captions")
    assert job.config == {"dataset": filled, "captioner": "org/name", "trigger": "zuv"}
    pieces = dataset.pieces(form.context, filled)
    assert "progressbar" not in pieces["mark"]
    form.datasets.caption(filled, form.datasets.get(filled).items[0].sha256, "seen")
    assert dataset.pieces(form.context, filled)["mark"] != pieces["mark"]
    assert form.reread({"dataset": filled})["items"][0]["caption"] == "seen"


def test_the_widget_reaches_only_what_was_uploaded(context: Context, filled: str, tmp_path: Path) -> None:
    take, caption, remove = dataset.server_functions(context)
    outside = tmp_path / "secret.png"
    outside.write_bytes(b"x")
    inside = context.workspace.uploads / "a" / "notes.pdf"
    inside.parent.mkdir(parents=True)
    (inside.parent / "link.png").symlink_to(outside)
    for path in (
        outside,
        inside.parent / ".." / ".." / ".." / ".." / "secret.png",
        inside.parent / "link.png",
    ):
        with pytest.raises(PictureError, match="isn't there"):
            dataset.uploaded(context, str(path))
        answer = take({"dataset": filled, "files": [{"path": str(path), "name": "x"}]})
        assert "drop it again" in answer["error"]
    [first, *_] = Datasets(context.workspace).get(filled).items
    assert caption({"dataset": filled, "sha": first.sha256, "text": "<b>zuv</b>"}) == {}
    assert Datasets(context.workspace).get(filled).items[0].caption == "<b>zuv</b>"
    left = remove({"dataset": filled, "sha": first.sha256})
    assert len(left["items"]) == 4
    assert "removed" in remove({"dataset": filled, "sha": first.sha256})["error"]
    assert "reload" in caption({})["error"]


def test_the_steps_of_a_newcomer_are_ticked_and_go(context: Context, filled: str) -> None:
    assert hint.pieces(context, "")["steps"].count('class="done"') == 1
    job = context.jobs.submit("train", "zib", {})
    assert 'aria-current="step"' in hint.pieces(context, "")["steps"]
    with context.workspace.write() as db:
        db.execute("UPDATE jobs SET state = 'done' WHERE id = ?", (job.id,))
    assert hint.pieces(context, "")["steps"].count('class="done"') == 2
    Form(context, {}).dismiss_hint()
    assert hint.pieces(context, "") == {"steps": ""}


def test_the_cards_buttons_reach_the_queue(context: Context) -> None:
    act = teach_run.acting(context)
    job = context.jobs.submit("train", "zib", {})
    act(SimpleNamespace(act="pause", id=job.id))
    assert context.jobs.get(job.id).state == "paused"
    assert act(SimpleNamespace(act="resume", id=job.id))
    assert context.jobs.get(job.id).state == "queued"
    assert act(SimpleNamespace(act="show", id=job.id))[0] == {"part": "run", "key": job.id}
    with pytest.raises(ConfigError, match="made no adapter"):
        act(SimpleNamespace(act="mix", id=job.id))
    with pytest.raises(ConfigError, match="reload"):
        act(SimpleNamespace(act="take", id=job.id, step="../1"))
    with pytest.raises(ConfigError, match="unknown action"):
        act(SimpleNamespace(act="explode", id=job.id))
