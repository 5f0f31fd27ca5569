"""The library's page: texts stay texts, every form asks what its request takes, mistakes are one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.errors import ConfigError, StudioError
from studio.bases import Bases
from studio.context import Context
from studio.entries import Entry
from studio.parts import PARTS, part
from studio.tabs import bases, library, opened, shelf
from studio.tabs.library import FORMS
from studio.widgets import FOLDER

HOSTILE = '<img src=x onerror="1"> {{x}} ${y} `'


@pytest.fixture
def entry(context: Context, make_adapter: Callable[..., Path], tmp_path: Path) -> Entry:
    found = context.library.add(make_adapter(tmp_path / "a.safetensors"), name=HOSTILE)[0]
    context.library.note(found.id, HOSTILE)
    return context.library.tag(found.id, ["<b>ink</b>"])


def test_texts_stay_texts_and_parts_are_named(context: Context, entry: Entry) -> None:
    for name in ("adapters", "adapter", "bases"):
        assert name in PARTS
        html = "".join(part(name)(context, entry.id if name == "adapter" else "{}").values())
        assert "<img src=x" not in html and "<b>ink" not in html and "{{" not in html and "${" not in html
    assert "&lt;b&gt;ink" in shelf.pieces(context, '{"tag": "<b>ink</b>"}')["cards"]
    assert "cards" in shelf.pieces(context, "no json") and shelf.pieces(context, '{"page": -1}')["cards"]


def test_the_open_adapter_says_what_happened_to_it(context: Context, entry: Entry) -> None:
    assert {"head", "facts"} <= set(opened.pieces(context, entry.id))
    context.library.trash(entry.id)
    assert "restore" in opened.pieces(context, entry.id)["thrown"]
    context.library.restore(entry.id).path.unlink()
    assert "gone" in opened.pieces(context, entry.id)["gone"]
    assert "no adapter" in opened.pieces(context, "<nobody>")["gone"]
    assert "its file is gone" in shelf.pieces(context, "{}")["cards"]


def test_an_export_is_followed_to_its_report(context: Context, entry: Entry) -> None:
    assert "written" in FORMS["export"].submit(context, [entry.id], {"tool": "comfyui", "dtype": "bf16"})
    [job] = context.jobs.find(kind="export")
    assert job.config["dtype"] == "bf16" and job.config["base"] == context.base
    assert 'data-state="queued"' in opened.pieces(context, entry.id)["work"]
    assert context.jobs.claim(job.id, 1, 0.0)
    report = {"format": "kohya", "keys_matched": 3, "keys_expected": 3, "delta_error": 0.0, "dtype": "bf16"}
    context.jobs.finish(job.id, "done", result={"file": "a.safetensors", "report": report, "note": "<b>"})
    shown = opened.pieces(context, entry.id)["report"]
    assert "3/3" in shown and "cleared away" in shown and "&lt;b&gt;" in shown
    folder = context.workspace.folder("cache", "exports", job.id)
    folder.mkdir(parents=True)
    (folder / "a.safetensors").write_bytes(b"x")
    assert f"files/export/{job.id}" in opened.pieces(context, entry.id)["report"]


def test_every_form_asks_what_the_dialog_can_show(context: Context, entry: Entry) -> None:
    known = set(re.findall(r"^  (\w+): ", (FOLDER / "dialog.js").read_text(encoding="utf-8"), re.MULTILINE))
    known |= {"pictures", "note"}
    context.library.add_examples()
    for act, form in FORMS.items():
        asked = form.fields(context, [entry.id, "example-mascot"])
        json.dumps(asked)
        names = [field["name"] for field in asked["fields"]]
        assert asked["title"] and asked["submit"] and len(set(names)) == len(names), act
        for field in asked["fields"]:
            assert field["kind"] in known, (act, field)
            conditions = [name for one in field.get("when", []) for name in one]
            assert set(conditions) | {field.get("by", {}).get("name", names[0])} <= set(names)


def test_forms_do_what_they_say(context: Context, entry: Entry, pictures: list[Path]) -> None:
    values = {"name": "zib", "tags": "a, b", "own_notes": "n", "triggers": "zuv,  ink", "author": "Ada"}
    FORMS["edit"].submit(context, [entry.id], values)
    found = context.library.get(entry.id)
    assert (found.name, found.tags, found.notes, found.triggers) == ("zib", ("a", "b"), "n", ["zuv", "ink"])
    FORMS["tag"].submit(context, [entry.id], {"add": "c", "remove": "A"})
    assert context.library.get(entry.id).tags == ("b", "c")
    with pytest.raises(StudioError, match="drop it again"):
        FORMS["cover"].submit(context, [entry.id], {"picture": f"upload:{pictures[0]}"})
    context.workspace.uploads.mkdir(parents=True)
    dropped = context.workspace.uploads / "a.png"
    dropped.write_bytes(pictures[0].read_bytes())
    FORMS["cover"].submit(context, [entry.id], {"picture": f"upload:{dropped}"})
    assert (context.library.get(entry.id).cover or "").startswith("cover/")
    FORMS["resize"].submit(context, [entry.id], {"by": "energy", "energy": 0.9, "dtype": "fp16", "name": ""})
    parts = {f"weight:{entry.id}": 0.5, "method": "ties", "rank": None, "density": 0.3}
    FORMS["merge"].submit(context, [entry.id, entry.id], parts)
    FORMS["convert"].submit(context, [entry.id], {"format": "diffusers", "dtype": "fp32"})
    assert {job.kind for job in context.jobs.find()} == {"resize", "merge", "convert"}
    with pytest.raises(ConfigError, match="rank is 0"):
        FORMS["resize"].submit(context, [entry.id], {"by": "rank", "rank": 0})


def test_a_mistake_is_said_in_the_dialog(context: Context, entry: Entry) -> None:
    submit = library._submit(context)

    def sent(form: str, **values: Any) -> dict[str, Any]:
        event = SimpleNamespace(form=form, about=[entry.id], values=values)
        answer: dict[str, Any] = submit({}, event)[0]
        return answer

    assert "nothing says how small" in sent("resize")["error"]
    assert "unknown form" in sent("nothing")["error"]
    assert context.jobs.find() == []


def test_a_wish_for_the_mix_has_weights_and_words(context: Context, entry: Entry) -> None:
    wish = library.mix_wish([entry])
    assert wish["adapters"] == [{"id": entry.id, "weight": 1.0}] and isinstance(wish["at"], float)
    assert len(library.mix_wish([entry, entry])["adapters"]) == 2


def test_bases_are_added_used_and_removed(context: Context, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="no such folder"):
        bases.start(context, {"ref": str(tmp_path / "gone")})
    bases.start(context, {"ref": str(tiny_folder), "name": "tiny"})
    [job] = context.jobs.find(kind="add_base")
    assert job.config["ref"] == str(tiny_folder.resolve())
    import threading

    from studio.work import KINDS

    assert KINDS["add_base"].work()(context.workspace, job, threading.Event())[0] == "done"
    shown = bases.pieces(context, "")["bases"]
    assert "tiny" in shown and "use-base" in shown
    Bases(context.workspace).use("tiny")
    assert context.base == str(tiny_folder.resolve()) and Bases(context.workspace).in_use()[0] == "tiny"
    with pytest.raises(StudioError, match="in use"):
        bases.remove(context, "tiny")
    Bases(context.workspace).use("pocket")
    assert context.base == "pocket" and "off the list" in bases.remove(context, "tiny")
    with pytest.raises(StudioError, match="no base 'tiny'"):
        Bases(context.workspace).use("tiny")
