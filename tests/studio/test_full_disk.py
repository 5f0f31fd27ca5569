"""A full disk has an answer with a line; other errors go on as they were."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from studio import full_disk

ERRORS = {
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "index": sqlite3.OperationalError("database or disk is full"),
    "rights": PermissionError(errno.EACCES, "Permission denied"),
    "locked": sqlite3.OperationalError("database is locked"),
}


@pytest.mark.parametrize(("name", "full"), [(name, name in ("disk", "quota", "index")) for name in ERRORS])
def test_a_full_disk_is_said(tmp_path: Path, name: str, full: bool) -> None:
    app = FastAPI()

    @app.post("/keep")
    def keep() -> None:
        raise ERRORS[name]

    full_disk.say_when_full(app, tmp_path)
    answer = TestClient(app, raise_server_exceptions=False).post("/keep")
    assert answer.status_code == (507 if full else 500)
    assert (answer.text == f"{full_disk.LINE}\n") == full


def test_what_sqlite_can_not_open_on_a_full_disk_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = sqlite3.OperationalError("unable to open database file")
    assert not full_disk.is_full(error, tmp_path)
    none = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: none)
    assert full_disk.is_full(error, tmp_path)
