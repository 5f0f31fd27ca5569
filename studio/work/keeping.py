"""What jobs leave on the disk: logs, folders on their way into the trash and back, and a reserve."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pipelines.errors import WorkspaceError
from pipelines.files import make_folder, sweep_temporaries, write_atomic
from studio.work.job import ACTIVE, Job, job_of
from studio.workspace import Workspace

LOG = "log.txt"
_ROW = "job.json"
MAKER_LOG, MAKER_LOG_BYTES = "maker.log", 8 << 20
TRASH_KEPT = 30 * 86400.0  # seconds that a removed run can be brought back
SCRATCH_KEPT = 86400.0  # seconds, of folders that a process worked in
_TAIL_BYTES = 65_536
_RESERVE, _RESERVE_BYTES = "reserve", 1 << 20
# Colours and movements of a terminal, as progress bars write them.
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def lay_by(workspace: Workspace) -> None:
    """Keep some room on the disk for the day when it is full, so that even then the index can say so."""
    reserve = workspace.folder("cache", _RESERVE)
    with suppress(OSError):
        if not reserve.exists() or reserve.stat().st_size != _RESERVE_BYTES:
            reserve.write_bytes(os.urandom(_RESERVE_BYTES))  # zeros might take no room


def sweep(workspace: Workspace) -> None:
    """Clear away what a killed server has left, and runs that have lain in the trash for `TRASH_KEPT`.

    Called by the workspace's owner before anybody can drop anything.
    """
    from studio.importing import clear_old
    from studio.work.unlisted import sweep_unlisted

    shutil.rmtree(workspace.uploads, ignore_errors=True)  # the pages that dropped it are gone
    begin, cache, trash = time.time(), workspace.folder("cache"), workspace.folder("trash")
    _settle_all(workspace)
    for scratch in ("tmp*", "pictures/drop-*", "class_pictures/.writing-*"):
        _clear(cache.glob(scratch), begin - SCRATCH_KEPT)
    sweep_temporaries(workspace.root, begin - SCRATCH_KEPT)
    clear_old(workspace)
    sweep_unlisted(workspace, begin - SCRATCH_KEPT)
    _clear(trash.glob("run-*"), begin - TRASH_KEPT, by=_ROW)
    _clear(trash.glob("unlisted-*"), begin - TRASH_KEPT)
    with suppress(OSError):
        if (cache / MAKER_LOG).stat().st_size > MAKER_LOG_BYTES:
            (cache / MAKER_LOG).unlink()


def _clear(folders: Iterable[Path], before: float, by: str = "") -> None:
    """Remove folders that were last changed before a moment; by: a file in them that says when."""
    for folder in folders:
        with suppress(OSError):
            told = folder / by if (folder / by).exists() else folder
            if told.stat().st_mtime < before:
                shutil.rmtree(folder, ignore_errors=True)


def spend(workspace: Workspace) -> bool:
    """Give that room back to the disk; False where it was given already."""
    try:
        workspace.folder("cache", _RESERVE).unlink()
    except OSError:
        return False
    return True


def log_tail(workspace: Workspace, job: Job, lines: int = 200) -> str:
    """The last lines of what a job's process has printed; empty where it printed nothing."""
    try:
        with workspace.folder("runs", job.id, LOG).open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(0, size - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    whole = text.split("\n")[size > _TAIL_BYTES :]
    shown = (_ESCAPES.sub("", line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in whole)
    return "\n".join([line for line in shown if line][-lines:])


def _trashed(workspace: Workspace, job_id: str) -> Path:
    return workspace.folder("trash", f"run-{job_id}")


def _settle(workspace: Workspace, job_id: str, listed: bool) -> None:
    """Let a run's folder lie where the index has its job: a process may have been killed between the two."""
    folder, trash = workspace.folder("runs", job_id), _trashed(workspace, job_id)
    if listed and trash.exists() and not folder.exists():
        trash.rename(folder)
    elif not listed and (folder / _ROW).exists() and not trash.exists():
        folder.rename(trash)


def _settle_all(workspace: Workspace) -> None:
    """`_settle` every run; and of those in the trash, keep the pictures that adapters have as covers."""
    with workspace.write() as db:  # nobody removes or restores one meanwhile
        listed = {row["id"] for row in db.execute("SELECT id FROM jobs")}
        trashed = {path.name.removeprefix("run-") for path in workspace.folder("trash").glob("run-*")}
        homeless = {path.parent.name for path in workspace.folder("runs").glob(f"*/{_ROW}")}
        for job_id in {*trashed, *homeless}:
            with suppress(OSError):
                _settle(workspace, job_id, job_id in listed)
        for job_id in trashed - listed:
            _keep_covers(workspace, job_id, _covers_of(db, job_id))


def _covers_of(db: sqlite3.Connection, job_id: str) -> set[str]:
    """The names of a run's previews that adapters have as their covers."""
    covers = db.execute("SELECT cover FROM adapters WHERE cover LIKE ?", (f"preview/{job_id}/%",))
    return {str(one["cover"]).split("/")[2] for one in covers}


def _keep_covers(workspace: Workspace, job_id: str, names: Iterable[str]) -> None:
    """Let pictures of a run that lies in the trash be where it lay, too."""
    folder, trash = workspace.folder("runs", job_id, "previews"), _trashed(workspace, job_id) / "previews"
    for name in names:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / name).exists():
                _link(trash / name, folder / name)


def remove(workspace: Workspace, job_id: str) -> Job:
    """Take an ended job off the list, its folder into the trash, and with it what the index said.

    A picture of the run that an adapter has as its cover stays where it is.

    Raises:
        WorkspaceError: there is no such job, or it is waiting or running.
    """
    folder, trash = workspace.folder("runs", job_id), _trashed(workspace, job_id)
    with workspace.write() as db:
        row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise WorkspaceError(f"no job {job_id!r} in {workspace.root}; it may have been removed")
        job = job_of(row)
        if job.state in ACTIVE:
            raise WorkspaceError(f"job {job.title!r} is {job.state}; stop it first")
        kept = _covers_of(db, job_id)
        _settle(workspace, job_id, listed=True)
        shutil.rmtree(trash, ignore_errors=True)
        make_folder(folder)
        write_atomic(folder / _ROW, [json.dumps(dict(row)).encode()])
        folder.rename(trash)
        db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
    _keep_covers(workspace, job_id, kept)
    return job


def _link(source: Path, target: Path) -> None:
    """A second name of a file; a copy where the disk knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def restore(workspace: Workspace, job_id: str) -> None:
    """Bring a removed job back.

    Raises:
        WorkspaceError: it isn't in the trash.
    """
    folder, trash = workspace.folder("runs", job_id), _trashed(workspace, job_id)
    missing = WorkspaceError(f"no job {job_id!r} in the trash of {workspace.root}; it may have been emptied")
    if not re.fullmatch(r"[0-9A-Za-z-]+", job_id):
        raise missing
    try:
        if not trash.exists():
            with workspace.read() as db:
                listed = db.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone()
            _settle(workspace, job_id, listed is not None)
        row = json.loads((trash / _ROW).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise missing from None
    with workspace.write() as db:
        known = {one["name"] for one in db.execute("PRAGMA table_info(jobs)")}
        values = {name: value for name, value in row.items() if name in known}
        names = ", ".join(values)
        db.execute(
            f"INSERT INTO jobs ({names}) VALUES ({', '.join('?' * len(values))})", tuple(values.values())
        )
        shutil.rmtree(folder, ignore_errors=True)  # the cover that stayed, also in the trash
        trash.rename(folder)
    (folder / _ROW).unlink(missing_ok=True)
