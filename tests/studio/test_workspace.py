"""The workspace: one owner, one index, everything in one folder."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import Busy, WorkspaceError
from studio.workspace import FOLDERS, INDEX_NAME, SCHEMA_VERSION, Workspace, default_root

HOLD = """
import sys, time
from studio.workspace import Workspace
Workspace.open(sys.argv[1], note="http://127.0.0.1:1234")
print("open", flush=True)
time.sleep(60)
"""


def test_makes_its_folders_and_opens_again(tmp_path: Path) -> None:
    Workspace.open(tmp_path / "new" / "one").close()
    assert sorted(path.name for path in (tmp_path / "new" / "one").iterdir() if path.is_dir()) == sorted(
        FOLDERS
    )
    again = Workspace.open(tmp_path / "new" / "one")
    again.remember("what", {"a": [1]})
    assert again.setting("what") == {"a": [1]}
    assert again.setting("else", 5) == 5
    again.close()


def test_a_second_owner_is_refused_with_the_first_ones_name(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "open\n"
        with pytest.raises(Busy) as refused:
            Workspace.open(tmp_path)
        assert str(first.pid) in str(refused.value)
        assert "http://127.0.0.1:1234" in str(refused.value)
        Workspace.open(tmp_path, own=False)  # child processes come in
        first.kill()
    Workspace.open(tmp_path).close()  # a killed owner leaves no stale lock


def test_a_newer_index_is_refused_and_unchanged(tmp_path: Path) -> None:
    Workspace.open(tmp_path).close()
    with sqlite3.connect(tmp_path / "pigment.sqlite3") as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(WorkspaceError, match="update Pigment"):
        Workspace.open(tmp_path)
    with pytest.raises(WorkspaceError):  # and the lock was given back
        Workspace.open(tmp_path)


def test_a_broken_index_is_named(tmp_path: Path) -> None:
    Workspace.open(tmp_path).close()
    (tmp_path / "pigment.sqlite3").write_bytes(b"not a database " * 100)
    for extra in ("pigment.sqlite3-wal", "pigment.sqlite3-shm"):
        (tmp_path / extra).unlink(missing_ok=True)
    with pytest.raises(WorkspaceError, match=r"pigment\.sqlite3"):
        Workspace.open(tmp_path)


def test_a_file_in_its_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkspaceError) as refused:
        Workspace.open(tmp_path / "file")
    assert "\n" not in str(refused.value)
    assert "--workspace" in str(refused.value)


def test_only_files_among_the_uploads_are_uploaded(workspace: Workspace, tmp_path: Path) -> None:
    outside, inside = tmp_path / "secret", workspace.uploads / "a" / "x.png"
    inside.parent.mkdir(parents=True)
    for file in (outside, inside):
        file.write_bytes(b"x")
    link = inside.with_name("link")
    link.symlink_to(outside)
    assert workspace.uploaded(str(inside)) == inside.resolve()
    climbing = inside.parent / ".." / ".." / ".." / ".." / "secret"
    assert climbing.resolve() == outside.resolve()
    for other in (outside, link, climbing, inside.parent, inside.with_name("gone")):
        assert workspace.uploaded(str(other)) is None, other
    for odd in (None, 5, [str(inside)], f"{inside}\0", "", "x" * 5000):
        assert workspace.uploaded(odd) is None


def test_a_failed_change_leaves_nothing(workspace: Workspace) -> None:
    with pytest.raises(RuntimeError), workspace.write() as db:
        db.execute("INSERT INTO settings VALUES ('half', '1')")
        raise RuntimeError
    assert workspace.setting("half") is None


def test_default_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIGMENT_WORKSPACE", str(tmp_path / "here"))
    assert default_root() == tmp_path / "here"
    monkeypatch.delenv("PIGMENT_WORKSPACE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    if sys.platform.startswith("linux"):
        assert default_root() == tmp_path / "data" / "Pigment"
    (tmp_path / "Pigment").mkdir()
    (tmp_path / "Pigment" / INDEX_NAME).touch()
    assert default_root() == tmp_path / "Pigment", "where earlier versions kept it"
