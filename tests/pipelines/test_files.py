"""Files that are either whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines import files
from pipelines.files import sweep_temporaries, write_atomic


def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path: Path) -> None:
    """83 letters of 3 bytes: cut by letters, the temporary name would be too long."""
    path = tmp_path / ("文" * 83 + ".txt")
    write_atomic(path, [b"a"])
    assert path.read_bytes() == b"a" and list(tmp_path.iterdir()) == [path]


def test_a_new_folder_lasts_with_those_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir() and set(synced) == {tmp_path, tmp_path / "a"}
    synced.clear()
    files.make_folder(tmp_path / "a" / "b")
    assert synced == []  # it was there


def test_what_a_killed_process_was_writing_is_swept_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "previews"
    folder.mkdir(parents=True)
    kept = [tmp_path / "a.tmp", folder / ".hidden", folder / ".b.png.12345678.old"]
    for path in (*kept, folder / ".b.png.0123abcd.tmp", tmp_path / ".two\nlines.0123abcd.tmp"):
        path.write_bytes(b"a")
    young = tmp_path / ".c.12345678.tmp"
    young.write_bytes(b"a")
    os.utime(young, (2e9, 2e9))
    sweep_temporaries(tmp_path, before=1.9e9)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([*kept, young])


def test_a_tree_is_synced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("b")
    (tmp_path / "a" / "b.txt").chmod(0o444)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    files.sync_tree(tmp_path)
    assert set(synced) == {path.stat().st_ino for path in (tmp_path, *tmp_path.rglob("*"))}
