"""The index of adapter folders: complete, fresh, fast the second time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipelines import index
from pipelines.base import Base
from pipelines.errors import AdapterError
from pipelines.formats import inspect_adapter, write_adapter
from pipelines.index import index_folder
from tests.bench.index import fill
from tests.tiny import random_adapter


@pytest.fixture
def one_file(tiny_base: Base, tmp_path: Path) -> Path:
    path = tmp_path / "source.safetensors"
    write_adapter(random_adapter(tiny_base), path)
    return path


@pytest.fixture
def folder(one_file: Path, tmp_path: Path) -> Path:
    root = tmp_path / "loras"
    for place in (
        "a.safetensors",
        "styles/b.SAFETENSORS",
        "styles/deep/ü.safetensors",
        ".hidden/c.safetensors",
    ):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(one_file.read_bytes())
    (root / "bad.safetensors").write_bytes(b"12345678")
    (root / "note.txt").write_text("no adapter")
    return root


def test_every_adapter_file_is_listed(folder: Path) -> None:
    found = index_folder(folder)
    names = [one.path.relative_to(folder).as_posix() for one in found]
    assert names == ["a.safetensors", "bad.safetensors", "styles/b.SAFETENSORS", "styles/deep/ü.safetensors"]
    info = inspect_adapter(folder / "a.safetensors")
    assert found[0].info == {field: info[field] for field in index._KEPT}
    assert found[0].error == "" and found[0].size == info["bytes"]
    assert found[1].info == {} and "bad.safetensors" in found[1].error


def test_only_new_and_changed_headers_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    inspect = index._inspect

    def counting(path: Path) -> tuple[dict[str, object], str]:
        read.append(path.name)
        return inspect(path)

    monkeypatch.setattr(index, "_inspect", counting)
    cache = tmp_path / "cache.json"
    first = index_folder(folder, cache)
    assert len(read) == 4
    assert index_folder(folder, cache) == first
    assert len(read) == 4
    os.utime(folder / "a.safetensors", ns=(1, 1))
    (folder / "bad.safetensors").unlink()
    again = index_folder(folder, cache)
    assert read[4:] == ["a.safetensors"]
    assert [one.path.name for one in again] == ["a.safetensors", "b.SAFETENSORS", "ü.safetensors"]
    assert "bad.safetensors" not in json.loads(cache.read_text())["files"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 1}', b'{"version": 9, "files": {}}'])
def test_a_damaged_cache_is_made_anew(folder: Path, tmp_path: Path, damage: bytes) -> None:
    cache = tmp_path / "cache.json"
    cache.write_bytes(damage)
    assert len(index_folder(folder, cache)) == 4
    assert len(json.loads(cache.read_text())["files"]) == 4


def test_another_folders_cache_isnt_believed(folder: Path, tmp_path: Path) -> None:
    cache, other = tmp_path / "cache.json", tmp_path / "other"
    index_folder(folder, cache)
    other.mkdir()
    (other / "a.safetensors").write_bytes(b"12345678")
    assert index_folder(other, cache)[0].error


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no folder"):
        index_folder(tmp_path / "nowhere")


def test_ten_thousand_known_files_are_listed_without_opening_one(
    one_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hard links of one file; how long it takes is measured by `python -m tests.bench.index`."""
    root, cache = tmp_path / "many", tmp_path / "cache.json"
    remembered = fill(root, cache, one_file)
    monkeypatch.setattr(index, "_inspect", lambda path: pytest.fail(f"{path} was opened"))
    found = index_folder(root, cache)
    assert len(found) == remembered == 10_000
    assert found[-1].info["rank"] == 4
