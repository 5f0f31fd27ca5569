"""The gallery's pieces of HTML and actions, without a browser."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pipelines.errors import PictureError, StudioError
from pipelines.generation import AdapterUse
from studio import telling
from studio.context import Context
from studio.gallery import Gallery
from studio.parts import PARTS, part
from studio.routes import images
from studio.tabs import gallery_pieces
from studio.tabs.gallery import ACTIONS
from tests.studio.test_gallery import drawn

HOSTILE = "<img src=x onerror=alert(1)> \"quoted\" 'single' {{x}} ${y} `z` \\"


def ask(name: str, context: Context, **key: Any) -> dict[str, str]:
    return part(name)(context, json.dumps(key))


def act(context: Context, verb: str, /, **data: Any) -> dict[str, Any]:
    return ACTIONS[verb](context, SimpleNamespace(**data))


@pytest.fixture
def gallery(context: Context) -> Gallery:
    return Gallery(context.workspace)


def test_empty_gallery_says_what_to_do(context: Context) -> None:
    assert "No pictures yet" in ask("gallery", context)["grid"]
    assert "Nothing found" in ask("gallery", context, text="x")["grid"]
    assert "The trash is empty" in ask("gallery", context, trash=True)["grid"]


def test_hostile_texts_are_data(context: Context, gallery: Gallery) -> None:
    use = AdapterUse(name=HOSTILE, sha256="0" * 64, weight=1)
    ids = [
        gallery.add(drawn(HOSTILE, negative_prompt=HOSTILE, adapters=(use,))),
        gallery.add(drawn(f"{HOSTILE} 2")),
    ]
    shown = [
        *ask("gallery", context, text=HOSTILE[:30]).values(),
        *ask("gallery-picture", context, id=ids[0], text=HOSTILE[:30]).values(),
        *ask("gallery-pair", context, ids=ids).values(),
    ]
    assert any("onerror" in html for html in shown)
    assert not [html for html in shown if "<img src=x" in html or "{{" in html or "${" in html or "`" in html]


@pytest.mark.parametrize("name", [name for name in PARTS if name.startswith(("gallery", "job"))])
def test_keys_of_any_kind_break_nothing(context: Context, name: str) -> None:
    odd = (
        "",
        "[]",
        "{",
        '{"id": 3, "ids": "x", "page": -1}',
        '{"page": "x", "ids": [1]}',
        '{"id": "../../x"}',
    )
    for key in odd:
        with suppress(StudioError):
            assert all(isinstance(piece, str) for piece in part(name)(context, key).values())


def test_pages_link_to_each_other(
    context: Context, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.gallery.Gallery.search", _small(Gallery.search))
    for seed in range(5):
        gallery.add(drawn(seed=seed))
    pages = [ask("gallery", context, page=page)["pages"] for page in range(3)]
    assert ["Page 1 of 3" in pages[0], "Page 3 of 3" in pages[2]] == [True, True]
    assert 'data-id="1">Older' in pages[0] and 'data-id="-1" disabled' in pages[0]
    assert ask("gallery", context)["count"] == "5 pictures"


def _small(search: Any) -> Any:
    return lambda self, text="", page=0, **how: search(self, text, page, **{**how, "size": 2})


def test_a_picture_tells_everything(context: Context, gallery: Gallery) -> None:
    use = AdapterUse(name="Zib", sha256="0" * 64, weight=-0.5)
    ids = [gallery.add(drawn(seed=seed, hires_scale=2, adapters=(use,))) for seed in range(3)]
    found = ask("gallery-picture", context, id=ids[1])
    for word in ("Zib", "-0.5", "Hires scale", "DDIM", "8 × 8", "pocket"):
        assert word in found["about"], word
    assert f'data-newer="{ids[2]}" data-older="{ids[0]}"' in found["beside"]
    gallery.trash([ids[1]])
    found = ask("gallery-picture", context, id=ids[1])
    assert "Bring it back" in found["about"] and 'data-newer=""' in found["beside"]


def test_two_pictures_name_what_differs(context: Context, gallery: Gallery) -> None:
    one, other = gallery.add(drawn("a fox", 1)), gallery.add(drawn("a fox", 2, sampler="euler"))
    found = ask("gallery-pair", context, ids=[one, other])
    assert 'before-label="Seed: 1"' in found["picture"] and "Sampler" in found["about"]
    assert "Prompt" not in found["about"]
    assert "the same" in ask("gallery-pair", context, ids=[one, one])["about"]


def test_a_cover_is_offered_and_taken(context: Context, gallery: Gallery) -> None:
    context.library.add_examples()
    entry = context.library.entries()[-1]
    use = AdapterUse(name="renamed", sha256=entry.sha256, weight=1)
    image = gallery.add(drawn(adapters=(use,)))
    offered = ask("gallery-cover", context, id=image)["covers"]
    assert offered.index(f'data-adapter="{entry.id}"') == offered.index("data-adapter=")
    assert "No adapter" in ask("gallery-cover", context, id=image, text="nonesuch")["covers"]
    before = entry.cover
    given = act(context, "cover", id=image, adapter=entry.id)
    assert entry.name in given["view"]["said"]
    assert context.library.get(entry.id).cover != before


def test_trash_and_back(context: Context, gallery: Gallery) -> None:
    ids = [gallery.add(drawn(seed=seed)) for seed in range(2)]
    given = act(context, "trash", ids=ids)["view"]
    assert given["said"].startswith("2 pictures") and given["undo"] == ids and gallery.search().total == 0
    assert act(context, "restore", ids=given["undo"])["view"]["said"] == "2 pictures brought back."
    act(context, "trash", ids=ids[:1])
    assert "1 picture removed for good" in act(context, "empty")["view"]["said"]
    for wrong in ("x", ["x"] * 501):
        with pytest.raises(PictureError):
            act(context, "trash", ids=wrong)


def test_mix_takes_settings_and_what_was_drawn_over(context: Context, gallery: Gallery) -> None:
    job = context.jobs.submit("generate", "x", {"image": "image/1-a"})
    image = gallery.add(drawn("a fox", 5), job=job.id)
    wish = act(context, "mix", id=image)["wish"]
    assert (wish["generation"]["seed"], wish["image"]) == (5, "image/1-a")
    assert act(context, "mix", id=gallery.add(drawn(), job="gone"))["wish"]["image"] == ""
    assert act(context, "over", id=image)["wish"]["image"] == f"image/{image}"


def test_a_dropped_file_is_read_only_where_it_was_uploaded(context: Context, tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    drawn("a secret").save(outside)
    link = context.workspace.uploads / "link.png"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    for path in (outside, link, context.workspace.uploads / ".." / ".." / "outside.png", "/etc/passwd"):
        told = act(context, "read", path=str(path), name="x.png")["view"]
        assert told["file"] == "" and "isn't here" in told["error"]
        with pytest.raises(PictureError):
            act(context, "mix-file", path=str(path))
    inside = context.workspace.uploads / "hash" / "x.png"
    inside.parent.mkdir()
    drawn(HOSTILE, 12).save(inside)
    told = act(context, "read", path=str(inside), name=HOSTILE)["view"]
    assert "Take into Mix" in told["file"] and "<img" not in told["file"] and told["error"] == ""
    assert act(context, "mix-file", path=str(inside))["wish"]["generation"]["seed"] == 12


def test_small_pictures_come_by_id_and_known_size(context: Context, gallery: Gallery) -> None:
    app = FastAPI()
    images.add(app, context)
    client = TestClient(app)
    image = gallery.add(drawn(size=(400, 200)))
    found = client.get(f"/files/image/{image}/320")
    assert found.status_code == 200 and found.headers["content-type"] == "image/webp"
    for wrong in (f"{image}/321", f"{image}/x", "0-0/320", "..%2f..%2fpigment/320", "%00/320"):
        assert client.get(f"/files/image/{wrong}").status_code in (404, 422), wrong


def test_facts_leave_out_what_is_usual() -> None:
    told = dict(drawn(seed=3).settings["generation"])
    assert list(telling.facts(told)) == ["Seed", "Steps", "Guidance", "Sampler", "Size"]
    told |= {
        "mask_blur": 9.0,
        "mask_invert": True,
        "image": {"name": "cat.png", "sha256": "0"},
        "clip_skip": 2,
    }
    found = telling.facts(told)
    assert found["Mask blur"] == "9 pixels" and found["Invert the mask"] == "yes"
    assert found["Picture"] == "cat.png" and found["CLIP skip"] == "2"
    assert telling.facts({}) == {} and telling.varied({}) == ""
    grid = {"grid": [{"axis": "weight", "target": "zib", "values": [0, 1]}, {"axis": "seed", "values": [1]}]}
    assert telling.varied(grid) == "weight zib (2) × seed (1)"


def test_every_action_is_in_the_script() -> None:
    script = (Path(gallery_pieces.__file__).parents[1] / "js" / "gallery.js").read_text()
    assert [name for name in ACTIONS if f"act('{name}'" not in script] == []
