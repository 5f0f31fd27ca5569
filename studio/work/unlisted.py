"""Files that no row of the index knows: a process was killed between writing one and listing it, or between
taking it off the list and removing it.

What people could miss goes into the trash first. Only what came after this workspace was first swept is
looked at, so that where an index was lost nothing is taken for garbage.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from studio.workspace import Workspace

_SINCE = "unlisted_since"
_JOB = "job.json"


def sweep_unlisted(workspace: Workspace, before: float) -> None:
    """Put away what the index doesn't know. before: and was last changed before, in seconds since 1970."""
    since = workspace.setting(_SINCE)
    if since is None:
        with suppress(sqlite3.Error):  # a full disk; another start does it
            workspace.remember(_SINCE, time.time())
        return
    trash = workspace.folder("trash", f"unlisted-{int(time.time()):x}")
    with workspace.read() as db:
        things, made = set(_things(workspace, db)), set(_made(workspace, db))
    for path in things | made:
        with suppress(OSError):
            if not since < path.lstat().st_mtime < before:
                continue
            if path in things:
                trash.mkdir(exist_ok=True)
                path.rename(trash / path.name)
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _things(workspace: Workspace, db: sqlite3.Connection) -> Iterator[Path]:
    """What people could miss: adapters and what lies beside them, pictures, drawn pictures."""
    files = {row["file"].rpartition("/")[2] for row in db.execute("SELECT file FROM adapters")}
    ids = {row["id"] for row in db.execute("SELECT id FROM adapters")}
    for path in workspace.folder("adapters").iterdir():
        known = files if path.suffix == ".safetensors" else ids
        if (path.name if known is files else path.name.split(".")[0]) not in known:
            yield path
    pictures = {row["file"] for row in db.execute("SELECT file FROM pictures")}
    jobs = {row["id"] for row in db.execute("SELECT id FROM jobs")}
    told = [str(row["config"]) for row in db.execute("SELECT config FROM jobs WHERE kind <> 'generate'")]
    told += [path.read_text(encoding="utf-8") for path in workspace.folder("trash").glob(f"run-*/{_JOB}")]
    for path in workspace.folder("pictures").iterdir():
        used = path.name in pictures
        if path.is_dir():  # what a training was taught with; one that is done again reads it there
            used = path.name in jobs or any(path.name in one for one in told)
        if not used:
            yield path
    drawn = {row["file"].rpartition("/")[2] for row in db.execute("SELECT file FROM images")}
    yield from (path for path in workspace.folder("images").iterdir() if path.name not in drawn)


def _made(workspace: Workspace, db: sqlite3.Connection) -> Iterator[Path]:
    """What can be made again: files of exports that never ended, and small pictures of what is gone."""
    cache = workspace.folder("cache")
    query = "SELECT id FROM jobs WHERE kind = 'export' AND state IN ('queued', 'running', 'done')"
    exports = {row["id"] for row in db.execute(query)}
    yield from (path for path in cache.glob("exports/*") if path.name not in exports)
    known = {row["sha256"] for row in db.execute("SELECT sha256 FROM pictures")}
    known |= {row["id"] for row in db.execute("SELECT id FROM images")}
    for small in (*cache.glob("pictures/*.webp"), *cache.glob("images/*.webp")):
        if small.stem.rpartition("-")[0] not in known:
            yield small
