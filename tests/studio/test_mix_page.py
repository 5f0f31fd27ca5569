"""The Mix tab's own cut: settings out of the config's metadata, the first visit, what was drawn."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from PIL import Image

from pipelines.axes import AXES
from pipelines.generation import GenerationConfig
from pipelines.picture import Picture
from studio import mixing, theme, widgets
from studio.context import Context
from studio.gallery import Gallery
from studio.jobs import Job
from studio.tabs import drawn, mix


def test_every_setting_is_on_the_page_once() -> None:
    shown = [*mix.WORDS, *mix.BASIC, *mix._others(), *mix.OVER]
    assert sorted([*shown, *mix.OWN_WIDGETS]) == sorted(GenerationConfig.model_fields)
    for spec in mix.specs(shown):
        info = GenerationConfig.model_fields[spec["name"]]
        assert spec["label"].startswith(info.title) and spec["help"] == (info.description or "")
        if spec["name"] not in mix.WORDS:
            assert spec["value"] == info.get_default()
        if spec["kind"] == "choice":
            assert spec["value"] in [value for value, _ in spec["choices"]]


def test_what_the_fields_hold_at_first_is_what_the_config_has() -> None:
    values = {spec["name"]: spec["value"] for spec in mix.specs([*mix.BASIC, *mix._others(), *mix.OVER])}
    assert GenerationConfig(prompt="x", **values) == GenerationConfig(prompt="x")


def test_every_axis_is_offered_or_left_out_on_purpose() -> None:
    kinds = mix.axis_kinds()
    assert {kind["id"] for kind in kinds} | set(mix.NO_AXES) == set(AXES)
    assert [kind["id"] for kind in kinds][: len(mix.FIRST_AXES)] == list(mix.FIRST_AXES)
    assert all(kind["label"] for kind in kinds)


def test_the_first_visit_finds_a_mix_that_can_be_drawn(context: Context) -> None:
    assert mix._start(context) == {}
    context.library.add_examples()
    start = mix._start(context)
    request = mixing.checked(context, mixing.read_request(start))
    assert len(request.acting) == 2
    for entry in (context.library.get(part.id) for part in request.mix):
        assert entry.triggers[0] in request.generation.prompt
    context.library.trash("example-teapot")
    assert mix._start(context) == {}


def test_the_scripts_in_the_head_are_whole() -> None:
    head = theme.head()
    assert head.count("<script>") == len(theme.HEAD_SCRIPTS) == head.count("</script>")
    for name in ("rack", "picker", "live", "fields", "over", "grid", "recipes"):
        assert "</script" not in widgets.script(name)


def _picture(context: Context, job: Job, kind: Any = "picture", prompt: str = "a <b>fox</b>") -> str:
    settings = {
        "version": 2, "base": {"ref": "pocket", "sha256": "ab"},
        "generation": GenerationConfig(prompt=prompt).model_dump(mode="json"),
    }  # fmt: skip
    picture = Picture(image=Image.new("RGB", (8, 8)), settings=settings, seed=7)
    return Gallery(context.workspace).add(picture, job=job.id, kind=kind)


@pytest.fixture
def job(context: Context) -> Job:
    request = {"generation": {"prompt": "a <b>fox</b>"}}
    found = mixing.start(context, mixing.read_request(request))
    assert context.jobs.claim(found.id, os.getpid(), 0.0)
    return found


def test_a_drawing_is_followed_and_its_pictures_shown(context: Context, job: Job) -> None:
    assert "Cancel" in drawn.pieces(context, "")["status"] and drawn.pieces(context, "")["pictures"] == ""
    ids = [_picture(context, job) for _ in range(3)]
    context.jobs.finish(job.id, "done", result={"images": ids[1:], "plain": [ids[0], ids[0]]})
    pieces = drawn.pieces(context, "")
    assert pieces["status"] == ""
    assert len(re.findall("<pg-compare ", pieces["pictures"])) == 2
    assert f'before="files/image/{ids[0]}" after="files/image/{ids[1]}"' in pieces["pictures"]
    assert f'data-mix-image="image/{ids[2]}"' in pieces["pictures"]
    assert "<b>" not in pieces["pictures"] and "&lt;b&gt;" in pieces["pictures"]
    assert pieces["earlier"] == "", "nothing is shown twice"
    Gallery(context.workspace).trash([ids[1]])
    assert ids[1] not in drawn.pieces(context, "")["pictures"]


def test_a_grid_is_one_large_picture(context: Context, job: Job) -> None:
    grid = _picture(context, job, "grid")
    context.jobs.finish(job.id, "done", result={"grid": grid, "images": [grid]})
    shown = drawn.pieces(context, "")["pictures"]
    assert shown.count("<figure") == 1 and "pg-drawn whole" in shown and "data-mix-image" not in shown


def test_why_nothing_was_drawn_is_said(context: Context, job: Job) -> None:
    context.jobs.finish(job.id, "failed", error="the <memory> doesn't suffice")
    assert "the &lt;memory&gt; doesn" in drawn.pieces(context, "")["status"]
