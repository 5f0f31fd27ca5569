"""Which folders may be named on the page: any by who sits at the machine, none outside by who logs in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.errors import ConfigError
from studio import looking, places, teaching
from studio.context import Context
from studio.datasets import Datasets
from studio.tabs import bases
from studio.teaching import Lesson


@pytest.fixture
def others(context: Context) -> Context:
    """The studio where people log in."""
    return replace(context, alone=False)


@pytest.mark.parametrize(
    "said", ["/etc", "~", "../..", "/etc/../etc/ssl", "x\0y", "link/etc", "/nowhere/at all"]
)
def test_who_logs_in_names_nothing_outside_of_the_workspace(
    context: Context, others: Context, filled: str, said: str
) -> None:
    inside = context.workspace.root
    (inside / "link").symlink_to("/")
    said = said.replace("link", f"{inside}/link")
    lesson = Lesson(dataset=filled, trigger="zuv", class_name="disc", advanced={"data.class_images": said})
    dataset = Datasets(others.workspace).get(filled)
    assert looking.weigh(others, lesson, dataset).error, "and it is said beside the field"
    for ask in (teaching.start, looking.look):
        with pytest.raises(ConfigError) as refused:
            ask(others, lesson)
        assert "\n" not in str(refused.value)
    for path in teaching.NAMED:
        with pytest.raises(ConfigError, match=teaching.NAMED[path]):
            teaching.start(others, replace(lesson, advanced={path: said}))
    with pytest.raises(ConfigError):
        bases.start(others, {"ref": said})
    assert others.jobs.find() == []


def test_who_sits_at_the_machine_names_what_there_is(
    context: Context, others: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.named(context, " ~/mine ", "it") == tmp_path / "mine"
    with pytest.raises(ConfigError, match="whole path"):
        places.named(context, "mine", "it")
    inside = context.workspace.folder("pictures", "x")
    assert places.named(others, str(inside), "it") == inside
    places.check_ref(others, "org/name", "it")
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    places.check_ref(context, "org/name", "it")
    with pytest.raises(ConfigError, match="workspace"):
        places.check_ref(others, "org/name", "it")
