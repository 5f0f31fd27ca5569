"""Sets of pictures: made, filled, written on, laid out for a training."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from pipelines.errors import PictureError, WorkspaceError
from studio import datasets as module
from studio.context import Context
from studio.datasets import Dataset, Datasets
from studio.dropped import Dropped
from studio.ingest import ingesting
from studio.routes import pictures as route
from studio.workspace import Workspace


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Datasets, Dataset]:
    """A set of the example; the first test changes nothing in it that others need."""
    datasets = Datasets(Workspace.open(tmp_path_factory.mktemp("sets") / "workspace", own=False))
    return datasets, datasets.from_example("mascot")


def copied(filled: tuple[Datasets, Dataset]) -> tuple[Datasets, Dataset]:
    """Another set of the same pictures, by the index alone."""
    datasets, source = filled
    made = datasets.new("copy")
    with datasets.workspace.write() as db:
        db.execute(
            "INSERT INTO dataset_pictures SELECT ?, position, sha256, name, caption, mask "
            "FROM dataset_pictures WHERE dataset = ?",
            (made.id, source.id),
        )
    return datasets, datasets.get(made.id)


def test_an_example_is_whole(filled: tuple[Datasets, Dataset]) -> None:
    _, made = filled
    assert made.name.startswith("Zib") and made.settings["trigger"] == "zib"
    assert made.settings["example"] == "mascot" and made.settings["kind"] == "subject"
    assert [item.name for item in made.items] == [f"0{n}.png" for n in range(1, 6)]
    assert all("zib creature" in item.caption and item.width == 128 for item in made.items)


def test_an_unknown_example_or_set_is_named(workspace: Workspace) -> None:
    with pytest.raises(PictureError, match="no example set 'mascott'; did you mean 'mascot'"):
        Datasets(workspace).from_example("mascott")
    with pytest.raises(WorkspaceError, match="no set of pictures 'x' here"):
        Datasets(workspace).get("x")
    for call in (lambda d: d.take("x", []), lambda d: d.settings("x", {}), lambda d: d.delete("x")):
        with pytest.raises(WorkspaceError, match="may have been removed"):
            call(Datasets(workspace))


def test_captions_are_lines_and_settings_are_kept_beside_each_other(filled: tuple[Datasets, Dataset]) -> None:
    datasets, made = copied(filled)
    sha256 = made.items[1].sha256
    datasets.caption(made.id, sha256, "two\nlines\x1b and <b>")
    assert datasets.get(made.id).item(sha256).caption == "two lines and <b>"
    with pytest.raises(PictureError, match="longer than 10000 bytes"):
        datasets.caption(made.id, sha256, "ä" * 6000)
    with pytest.raises(PictureError, match="no picture"):
        datasets.caption(made.id, "0" * 64, "x")
    datasets.settings(made.id, {"trigger": "a", "kind": "style"})
    kept = datasets.settings(made.id, {"trigger": None, "class_name": "dog"})
    assert kept.settings == {"kind": "style", "class_name": "dog"}
    assert datasets.rename(made.id, " a  b\n").name == "a b"
    assert datasets.recent()[0].id == made.id and datasets.recent()[0].items == ()


def test_a_removed_picture_leaves_the_others_and_its_file(filled: tuple[Datasets, Dataset]) -> None:
    datasets, made = copied(filled)
    first = made.items[0].sha256
    datasets.remove(made.id, first)
    assert [item.position for item in datasets.get(made.id).items] == [1, 2, 3, 4]
    assert datasets.pictures.get(first).path.is_file()
    with pytest.raises(PictureError, match="may have been removed"):
        datasets.remove(made.id, first)
    datasets.delete(made.id)
    with pytest.raises(WorkspaceError):
        datasets.get(made.id)


def test_what_is_dropped_later_finds_its_picture(filled: tuple[Datasets, Dataset], tmp_path: Path) -> None:
    """The same pictures again, a caption and a mask by themselves, and one picture too many."""
    datasets, made = copied(filled)
    (tmp_path / "t").write_text("a new caption")
    Image.new("L", (64, 64), 255).save(tmp_path / "m", format="PNG")
    Image.new("RGB", (64, 64), "lime").save(tmp_path / "n", format="PNG")
    again = datasets.pictures.get(made.items[2].sha256).path
    files = [(tmp_path / "t", "01.txt"), (tmp_path / "m", "02.mask.png"), (again, "03.png")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("studio.dropping.MAX_PICTURES", 5)
        taken = datasets.take(made.id, [*files, (tmp_path / "n", "new.png")])
    reasons = {one.name: one.reason for one in taken.refused}
    assert taken.added == 0 and sorted(reasons) == ["03.png", "new.png"]
    assert reasons["03.png"] == "is there already; once is enough"
    assert "is too many: a set holds 5" in reasons["new.png"]
    items = datasets.get(made.id).items
    assert items[0].caption == "a new caption" and items[1].mask and not items[0].mask
    assert len(taken.notes) == 2
    datasets.mask(made.id, items[1].sha256, "")
    assert datasets.get(made.id).items[1].mask == ""
    with pytest.raises(PictureError, match="no picture"):
        datasets.mask(made.id, items[1].sha256, "0" * 64)


def test_a_set_is_laid_out_as_trainings_read_it(filled: tuple[Datasets, Dataset], tmp_path: Path) -> None:
    from trainers.config import DataConfig
    from trainers.dataset import load_dataset

    datasets, made = copied(filled)
    datasets.mask(made.id, made.items[0].sha256, made.items[0].sha256)
    datasets.caption(made.id, made.items[4].sha256, "")
    called = datasets.lay_out(made.id, tmp_path / "out")
    assert called == {f"00{n}.png": f"0{n + 1}.png" for n in range(5)}
    assert datasets.lay_out(made.id, tmp_path / "out") == called, "a second time is the same"
    data = DataConfig(instance_images=tmp_path / "out", trigger="zib", instance_prompt="a zib", masks="file")
    read = load_dataset(data).learn
    assert [one.source.sha256 for one in read] == [item.sha256 for item in made.items]
    assert read[0].caption == made.items[0].caption and read[0].mask is not None
    assert read[1].mask is None and read[4].caption == "a zib" and not read[4].own


def test_a_link_that_cant_be_made_is_a_copy(filled: tuple[Datasets, Dataset], tmp_path: Path) -> None:
    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    datasets, made = filled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.os, "link", refused)
        datasets.lay_out(made.id, tmp_path / "out")
    assert (tmp_path / "out" / "000.png").stat().st_nlink == 1
    assert (tmp_path / "out" / "000.png").read_bytes() == datasets.pictures.get(
        made.items[0].sha256
    ).path.read_bytes()


def test_two_drops_at_once_leave_no_gap_and_no_double(filled: tuple[Datasets, Dataset]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    datasets, source = filled
    made = datasets.new()
    files = [(datasets.pictures.get(item.sha256).path, item.name) for item in source.items]
    with ThreadPoolExecutor(2) as pool:
        taken = list(pool.map(lambda some: datasets.take(made.id, some), (files, files[2:])))
    assert sum(one.added for one in taken) == 5
    assert [item.position for item in datasets.get(made.id).items] == list(range(5))


def test_a_single_picture_is_known_at_once(filled: tuple[Datasets, Dataset], tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), "coral").save(tmp_path / "x", format="PNG")
    with ingesting(filled[0].pictures) as taking:
        picture, _ = taking.picture(Dropped(tmp_path / "x", "x.png"))  # type: ignore[misc]
    assert filled[0].pictures.get(picture.sha256).path.is_file()


def test_a_file_that_changed_after_it_was_checked_isnt_kept(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"another one by now")
    found = {"sha256": "0" * 64, "suffix": ".png", "bytes": 7, "width": 1, "height": 1, "notes": []}
    with pytest.raises(PictureError, match="was changed while it was read"):
        Datasets(workspace).pictures.copy(tmp_path / "x", found, "x.png")
    assert not list(workspace.folder("pictures").iterdir())


# ── Served


def test_pictures_are_served_by_content_only(filled: tuple[Datasets, Dataset], context: Context) -> None:
    from dataclasses import replace

    datasets, made = filled
    app = FastAPI()
    route.add(app, replace(context, workspace=datasets.workspace))
    client, sha256 = TestClient(app), made.items[0].sha256
    whole = client.get(f"/files/picture/{sha256}/0")
    assert whole.content == datasets.pictures.get(sha256).path.read_bytes()
    assert whole.headers["content-type"] == "image/png"
    assert whole.headers["x-content-type-options"] == "nosniff"
    small = client.get(f"/files/picture/{sha256}/48")
    assert small.headers["content-type"] == "image/webp" and "immutable" in small.headers["cache-control"]
    assert Image.open(datasets.pictures.small(sha256, 48)).size == (64, 64)
    names = (f"{sha256}/x", f"{'0' * 64}/0", f"{'0' * 64}/64", "..%2f..%2fetc%2fpasswd/0", f"{sha256}.png/64")
    assert [client.get(f"/files/picture/{name}").status_code for name in names] == [422, 404, 404, 404, 404]


def test_small_ones_are_made_anew_where_the_cache_is_gone(filled: tuple[Datasets, Dataset]) -> None:
    import shutil

    datasets, made = filled
    shutil.rmtree(datasets.workspace.folder("cache", "pictures"))
    assert Image.open(datasets.pictures.small(made.items[3].sha256, 5000)).size == (128, 128)
    assert Image.open(datasets.pictures.small(made.items[3].sha256, 1)).size == (64, 64)
    datasets.pictures.get(made.items[3].sha256).path.unlink()
    with pytest.raises(PictureError, match=r"file of picture '04\.png' is gone; drop it again"):
        datasets.pictures.get(made.items[3].sha256)
