"""The gallery: what is kept of a picture, how it is found, where it goes when it is deleted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.errors import PictureError
from pipelines.generation import AdapterUse, GenerationConfig
from pipelines.picture import Picture
from studio.gallery import Gallery, settings_of, words_of
from studio.workspace import Workspace

Draw = Callable[..., Picture]


@pytest.fixture
def gallery(workspace: Workspace) -> Gallery:
    """An empty gallery."""
    return Gallery(workspace)


def drawn(prompt: str = "a fox", seed: int = 1, size: tuple[int, int] = (8, 8), **fields: Any) -> Picture:
    """A picture as the maker draws it."""
    config = GenerationConfig(prompt=prompt, seed=seed, width=size[0], height=size[1], **fields)
    settings = {
        "version": 2,
        "generation": config.model_dump(mode="json"),
        "base": {"ref": "some/pocket", "sha256": "ab"},
    }
    return Picture(Image.new("RGB", size, (seed % 256, 90, 30)), settings, seed)


def test_add_keeps_file_settings_and_row(gallery: Gallery) -> None:
    picture = drawn("a fox in the snow", 7, (16, 8))
    found = gallery.get(gallery.add(picture, job="j-1", kind="grid"))
    assert (found.prompt, found.seed, found.job, found.kind) == ("a fox in the snow", 7, "j-1", "grid")
    assert (found.width, found.height, found.trashed) == (16, 8, None)
    assert found.settings == picture.settings
    assert settings_of(found.path).fields["seed"] == 7
    assert found.path.is_relative_to(gallery.workspace.root)


def test_add_leaves_nothing_where_the_index_refuses(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.gallery.words_of", lambda *_: {"no": "text"})
    with pytest.raises(Exception, match="type"):
        gallery.add(drawn())
    assert list((gallery.workspace.root / "images").iterdir()) == []


def test_add_says_what_the_system_refuses(gallery: Gallery) -> None:
    (gallery.workspace.root / "images").rmdir()
    with pytest.raises(PictureError, match="can't be written"):
        gallery.add(drawn())


def test_search_takes_every_word_in_any_case(gallery: Gallery) -> None:
    use = AdapterUse(name="Zib Größe", sha256="0" * 64, weight=1)
    ids = [
        gallery.add(drawn("a Fox, RED")),
        gallery.add(drawn("a red house", 4711, sampler="euler")),
        gallery.add(drawn("100%_sure ÄPFEL", adapters=(use,)), kind="grid"),
    ]

    def found(text: str, **how: Any) -> list[str]:
        return [one.id for one in gallery.search(text, **how).pictures]

    assert found("") == ids[::-1]
    assert found("red") == ids[1::-1]
    assert found("RED fox") == ids[:1]
    assert found("4711 euler pocket") == ids[1:2]
    assert found("zib größe äpfel") == ids[2:]
    assert found("%_s") == ids[2:]
    assert found("%") == ids[2:] and found("r_d") == []
    assert found("sure", kind="grid") == ids[2:] and found("sure", kind="picture") == []


def test_search_finds_what_older_versions_wrote(tmp_path: Path) -> None:
    from studio.workspace import _STEPS, INDEX_NAME

    with closing(sqlite3.connect(tmp_path / INDEX_NAME)) as db, db:
        db.executescript(f"{_STEPS[1]}{_STEPS[2]}PRAGMA user_version = 2;")
        settings = json.dumps(drawn("a LightHouse", size=(16, 8)).settings)
        db.execute("INSERT INTO images VALUES ('1-a', 'images/1-a.png', NULL, 4711, ?, 1)", (settings,))
    gallery = Gallery(Workspace.open(tmp_path, own=False))
    [found] = gallery.search("lighthouse 4711").pictures
    assert (found.id, found.width, found.height, found.kind) == ("1-a", 16, 8, "picture")
    assert gallery.search("windmill").total == 0


def test_ten_thousand_pictures_are_searched_in_the_index_alone(gallery: Gallery) -> None:
    with gallery.workspace.read() as db:
        plan = db.execute(
            "EXPLAIN QUERY PLAN SELECT rowid FROM images WHERE trashed IS NULL AND instr(words, 'x') "
            "ORDER BY created DESC, rowid DESC LIMIT 48"
        ).fetchall()
    assert "USING COVERING INDEX images_found" in plan[0]["detail"]


def test_pages_hold_all_and_end(gallery: Gallery) -> None:
    ids = [gallery.add(drawn(seed=seed)) for seed in range(5)]
    pages = [gallery.search(page=page, size=2) for page in range(3)]
    assert [one.id for page in pages for one in page.pictures] == ids[::-1]
    assert {(page.total, page.pages) for page in pages} == {(5, 3)}
    assert gallery.search(page=99, size=2).page == 2
    assert gallery.search(page=-3, size=2).page == 0
    assert gallery.search("nothing", page=4).pages == 1


def test_beside_walks_a_search(gallery: Gallery) -> None:
    ids = [gallery.add(drawn(prompt)) for prompt in ("fox", "house", "fox", "fox")]
    assert gallery.beside(ids[2]) == (ids[3], ids[1])
    assert gallery.beside(ids[2], "fox") == (ids[3], ids[0])
    assert gallery.beside(ids[3]) == (None, ids[2])
    assert gallery.beside(ids[0]) == (ids[1], None)


def test_trash_hides_and_restore_brings_back(gallery: Gallery) -> None:
    ids = [gallery.add(drawn(seed=seed)) for seed in range(3)]
    assert gallery.trash([*ids[:2], "unknown"]) == 2
    assert gallery.trash(ids[:2]) == 0
    assert [one.id for one in gallery.search().pictures] == ids[2:]
    assert {one.id for one in gallery.search(trashed=True).pictures} == set(ids[:2])
    assert gallery.beside(ids[2]) == (None, None)
    assert gallery.get(ids[0]).path.is_file()
    assert gallery.restore(ids) == 2
    assert gallery.search().total == 3


def test_emptying_removes_files_but_no_cover(gallery: Gallery) -> None:
    ids = [gallery.add(drawn(seed=seed, size=(400, 8))) for seed in range(3)]
    small = gallery.small(ids[0], 320)
    with gallery.workspace.write() as db:
        db.execute(
            "INSERT INTO adapters (id, name, file, origin, cover, created) "
            "VALUES ('a', 'A', 'x', 'imported', ?, 0)",
            (f"image/{ids[1]}",),
        )
    bytes_before = gallery.get(ids[0]).path.stat().st_size
    path = gallery.get(ids[0]).path
    gallery.trash(ids[:2])
    assert gallery.empty_trash() == (1, bytes_before)
    assert not path.exists() and not small.exists()
    assert gallery.get(ids[1]).path.is_file() and gallery.get(ids[2]).trashed is None
    with pytest.raises(PictureError, match="no picture"):
        gallery.get(ids[0])


def test_small_pictures_are_made_once(gallery: Gallery) -> None:
    large, little = gallery.add(drawn(size=(1000, 500))), gallery.add(drawn(size=(100, 50)))
    small = gallery.small(large, 320)
    with Image.open(small) as image:
        assert image.size == (320, 160) and image.format == "WEBP"
    stamp = small.stat().st_mtime_ns
    assert gallery.small(large, 320) == small and small.stat().st_mtime_ns == stamp
    assert gallery.small(little, 320) == gallery.get(little).path
    gallery.get(little).path.write_bytes(b"rot")
    with pytest.raises(PictureError, match="damaged"):
        gallery.small(little, 320)


def test_words_take_anything_for_settings() -> None:
    assert words_of({}, 5) == "5"
    assert words_of({"generation": [], "base": 3, "grid": []}, 5) == "grid 5"
    told = {
        "generation": {"prompt": "A\nB", "adapters": ["x", {"name": "Zib"}]},
        "base": {"ref": "/models/Dream"},
    }
    assert words_of(told, 5) == "a b zib dream 5"


def test_settings_of_other_tools_and_of_none(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "a castle\nSteps: 25, Sampler: Euler a, Seed: 99, Size: 64x64")
    Image.new("RGB", (8, 8)).save(tmp_path / "a1111.png", pnginfo=info)
    found = settings_of(tmp_path / "a1111.png")
    assert (found.source, found.fields["seed"], found.fields["sampler"]) == ("a1111", 99, "euler_a")
    graph = {"3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 9, "cfg": 4.0}}}
    info = PngInfo()
    info.add_text("prompt", json.dumps(graph))
    Image.new("RGB", (8, 8)).save(tmp_path / "comfyui.png", pnginfo=info)
    assert settings_of(tmp_path / "comfyui.png").source == "comfyui"
    (tmp_path / "broken.png").write_bytes(b"nonsense")
    with pytest.raises(PictureError, match="readable"):
        settings_of(tmp_path / "broken.png")
