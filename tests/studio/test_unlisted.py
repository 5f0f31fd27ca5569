"""Files that no row of the index knows are put away, and no others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.datasets import Datasets
from studio.library import Library
from studio.work import keeping, unlisted
from studio.workspace import Workspace

DAY = 86400.0


def files(workspace: Workspace) -> set[str]:
    """All files below the folders that people's things lie in."""
    names = ("adapters", "pictures", "images", "cache/exports", "cache/pictures")
    found = [path for name in names for path in (workspace.root / name).rglob("*")]
    return {path.relative_to(workspace.root).as_posix() for path in found if path.is_file()}


def aged(workspace: Workspace, days: float) -> None:
    """Let everything have been written so many days ago."""
    then = time.time() - days * DAY
    for path in workspace.root.rglob("*"):
        os.utime(path, (then, then))
    workspace.remember("unlisted_since", then - 1)


def test_what_no_row_knows_lies_in_the_trash_for_a_while(
    workspace: Workspace, filled: str, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    Library(workspace).add(make_adapter(tmp_path / "a.safetensors"))
    taught = workspace.folder("pictures", "6b000000-0000000000")
    Datasets(workspace).lay_out(filled, taught)
    from studio.jobs import Jobs

    Jobs(workspace).submit("train", "zuv", {"data": {"instance_images": str(taught)}})
    known = files(workspace)
    lost = {"adapters/6b0-1.safetensors", "adapters/6b0-1.html", "images/6b0-2.png", "pictures/0a.png"}
    gone = {"cache/exports/6b0-3/a.safetensors", "cache/pictures/0a-1024.webp"}
    for name in lost | gone:
        (workspace.root / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace.root / name).write_bytes(b"a")
    keeping.sweep(workspace)
    assert files(workspace) == known | lost | gone, "too young: somebody may be about to list them"
    aged(workspace, 2)
    keeping.sweep(workspace)
    assert files(workspace) == known
    [trash] = workspace.folder("trash").iterdir()
    assert {path.name for path in trash.iterdir()} == {Path(name).name for name in lost}
    os.utime(trash, (time.time() - 31 * DAY,) * 2)
    keeping.sweep(workspace)
    assert not list(workspace.folder("trash").iterdir()) and files(workspace) == known


def test_nothing_older_than_the_index_is_put_away(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has lost the index, or taken an earlier copy of it."""
    old = workspace.folder("adapters", "6b0-1.safetensors")
    old.write_bytes(b"a")
    os.utime(old, (time.time() - 9 * DAY,) * 2)
    for _ in range(2):
        unlisted.sweep_unlisted(workspace, time.time() - DAY)
    assert old.is_file()
