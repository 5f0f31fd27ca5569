"""Pictures that haven't changed aren't decoded again; whatever else happens to them is seen."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import pipelines.unchanged
import trainers.known
from pipelines.base import load_base
from pipelines.errors import BaseError, PictureError
from pipelines.files import file_sha256
from trainers.config import TrainConfig
from trainers.dataset import Dataset, load_dataset
from trainers.images import read_picture
from trainers.known import HASHES, PICTURES, Known, base_sha256, keep_hashes


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pictures that were decoded; what was written just now is taken for settled."""
    names: list[str] = []

    def read(path: Path, background: str = "white") -> object:
        names.append(path.name)
        return read_picture(path, background)

    monkeypatch.setattr(trainers.known, "read_picture", read)
    monkeypatch.setattr(pipelines.unchanged, "_SETTLED_NS", 0)
    return names


@pytest.fixture
def load(make_config: Callable[..., TrainConfig], tmp_path: Path) -> Callable[..., Dataset]:
    """Load the pictures, and keep what was read."""

    def loaded(**fields: object) -> Dataset:
        found = load_dataset(make_config(**fields).data, tmp_path / "cache")
        found.known.save()
        return found

    return loaded


def test_a_second_run_decodes_nothing_and_knows_the_same(
    load: Callable[..., Dataset], pictures: Path, decoded: list[str]
) -> None:
    clear = Image.new("RGBA", (24, 24), (200, 10, 10, 120))
    clear.save(pictures / "02.png")
    first = load()
    assert len(decoded) == 5
    second = load()
    assert len(decoded) == 5
    assert second.sha256 == first.sha256 and second.notes == first.notes and first.notes
    assert [item.source for item in second.learn] == [item.source for item in first.learn]


def test_nothing_is_written_before_it_is_said(
    make_config: Callable[..., TrainConfig], tmp_path: Path, decoded: list[str]
) -> None:
    load_dataset(make_config().data, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_what_was_changed_replaced_or_renamed_is_read_again(
    load: Callable[..., Dataset], pictures: Path, decoded: list[str]
) -> None:
    before = load().sha256
    decoded.clear()
    whole = (pictures / "01.png").read_bytes()
    times = (pictures / "01.png").stat()
    (pictures / "01.png").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # the same size
    os.utime(pictures / "01.png", ns=(times.st_atime_ns, times.st_mtime_ns))  # and said to be as old
    os.replace(pictures / "02.png", pictures / "00.png")
    assert load().sha256 != before and decoded == ["00.png", "01.png"]  # 00 has another change of its entry


def test_another_background_is_another_picture(load: Callable[..., Dataset], decoded: list[str]) -> None:
    load()
    decoded.clear()
    assert load(background="black").learn[0].source.background == "black" and len(decoded) == 5


def test_what_has_just_been_written_isnt_taken_for_settled(
    load: Callable[..., Dataset], decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines.unchanged, "_SETTLED_NS", 10**15)
    load()
    load()
    assert len(decoded) == 10


def test_a_damaged_or_foreign_file_is_as_one_that_is_missing(
    load: Callable[..., Dataset], tmp_path: Path, decoded: list[str]
) -> None:
    first = load()
    path = tmp_path / "cache" / PICTURES
    said = json.loads(path.read_text())
    key = next(iter(said["files"]))
    said["files"][key][0] = "0" * 64
    for text in (json.dumps(said), "", "[]", '{"files": 3, "seal": ""}', path.read_text()[:-20]):
        path.write_text(text)
        decoded.clear()
        assert load().sha256 == first.sha256 and len(decoded) == 5
    decoded.clear()
    load()
    assert decoded == []


def test_a_picture_that_is_refused_is_refused_each_time(
    load: Callable[..., Dataset], pictures: Path, decoded: list[str]
) -> None:
    load()
    (pictures / "03.png").write_bytes(b"no picture")
    for _ in range(2):
        with pytest.raises(PictureError, match=r"03\.png"):
            load()


def test_a_disk_that_is_full_is_no_matter(
    load: Callable[..., Dataset], decoded: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(path: Path, parts: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipelines.unchanged, "write_atomic", full)
    assert load().sha256 == load().sha256 and len(decoded) == 10


def test_two_runs_keep_what_both_have_read_and_no_more_than_so_many(
    tmp_path: Path, pictures: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Known(tmp_path), Known(tmp_path)
    one.read(pictures / "00.png")
    other.read(pictures / "01.png")
    one.save()
    other.save()
    decoded.clear()
    both = Known(tmp_path)
    both.read(pictures / "00.png")
    both.read(pictures / "01.png")
    assert decoded == []
    monkeypatch.setattr(pipelines.unchanged, "MOST", 1)
    both.save()
    both.read(pictures / "02.png")
    both.save()
    assert len(json.loads((tmp_path / PICTURES).read_text())["files"]) == 1


def test_a_picture_that_changed_unseen_is_refused_once(
    load: Callable[..., Dataset], pictures: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that keeps no time of a change, or one that is damaged: "start again" must help."""
    monkeypatch.setattr(pipelines.unchanged, "_key", lambda path, about: (f"{path} {about}", 0))
    before = load()
    Image.new("RGB", (24, 24), "red").save(pictures / "01.png")
    decoded.clear()
    found = load()
    assert found.sha256 == before.sha256 and decoded == []
    with pytest.raises(PictureError, match=r"01\.png.*start again"):
        found.learn[1].layers()
    again = load()
    assert again.sha256 != before.sha256 and decoded == ["01.png"]
    assert again.learn[1].source.image.getpixel((3, 3)) == (255, 0, 0)


def test_what_is_used_outlasts_what_isnt(
    tmp_path: Path, pictures: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines.unchanged, "MOST", 2)
    for names in (("00.png", "01.png"), ("00.png", "02.png")):
        known = Known(tmp_path)
        for name in names:
            known.read(pictures / name)
        known.save()
    decoded.clear()
    known = Known(tmp_path)
    for name in ("00.png", "02.png"):
        known.read(pictures / name)
    assert decoded == []


def test_what_killed_writers_left_goes(tmp_path: Path, pictures: Path, decoded: list[str]) -> None:
    old, young = tmp_path / f".{PICTURES}.01234567.tmp", tmp_path / f".{PICTURES}.76543210.tmp"
    old.write_text("half")
    young.write_text("half")
    os.utime(old, (1.0, 1.0))
    known = Known(tmp_path)
    known.read(pictures / "00.png")
    known.save()
    assert not old.exists() and young.exists()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read to be hashed; what was written just now is taken for settled."""
    names: list[str] = []

    def sha256(path: Path) -> str:
        names.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(trainers.known, "file_sha256", sha256)
    monkeypatch.setattr(pipelines.unchanged, "_SETTLED_NS", 0)
    return names


def test_a_bases_files_are_read_once_for_their_hashes(
    tiny_folder: Path, tmp_path: Path, hashed: list[str]
) -> None:
    folder, cache = tmp_path / "base", tmp_path / "cache"
    shutil.copytree(tiny_folder, folder)
    wanted = load_base(folder).sha256
    first = load_base(folder)
    assert base_sha256(first, cache) == first.sha256 == wanted and not cache.exists()
    count = len(hashed)
    assert count > 5 and base_sha256(first, cache) == wanted and len(hashed) == count
    keep_hashes(first)
    assert (cache / HASHES).exists()
    hashed.clear()
    assert base_sha256(load_base(folder), cache) == wanted and hashed == []
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text() + " ")
    assert base_sha256(load_base(folder), cache) != wanted and hashed == ["scheduler_config.json"]


def test_a_base_that_was_changed_since_it_was_opened_is_refused(
    tiny_folder: Path, tmp_path: Path, hashed: list[str]
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_folder, folder)
    base = load_base(folder)
    (weights,) = (folder / "vae").glob("*.safetensors")
    os.utime(weights)
    with pytest.raises(BaseError, match="changed or removed since"):
        base_sha256(base, tmp_path / "cache")
