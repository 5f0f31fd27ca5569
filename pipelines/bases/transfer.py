"""One file of a hub into the hub library's cache, byte by byte: after a break it goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipelines.errors import BaseError
from pipelines.files import file_sha256, sync_folder

TRIES = 5  # without a byte in between
PAUSE = 1.0  # seconds before the second try, doubled each time
TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class Remote:
    """A file of a repository at a commit.

    digest: the SHA-256 of a large file (64 digits), git's blob id of a small one (40 digits): what the
    cache names it by.
    """

    repo: str
    commit: str
    path: str
    size: int
    digest: str

    def partial(self, repo_folder: Path) -> Path:
        """Where its bytes gather; the name that the hub library's older versions gave unfinished files."""
        return repo_folder / "blobs" / f"{self.digest}.incomplete"

    def blob(self, repo_folder: Path) -> Path:
        """Where it lies when it is whole."""
        return repo_folder / "blobs" / self.digest


def missing_bytes(remote: Remote, repo_folder: Path) -> int:
    """Bytes that are still to come."""
    if remote.blob(repo_folder).exists():
        return 0
    return max(0, remote.size - _length(remote.partial(repo_folder)))


def fetch_blob(remote: Remote, repo_folder: Path, endpoint: str, tell: Callable[[int], None]) -> None:
    """Fetch a file's bytes into the cache's `blobs/`, checked against its digest.

    tell: called with the bytes that are there, as they come; what it raises ends the download.

    Raises: BaseError where another process fetches it, or the bytes come damaged twice; what the hub library
    raises for refusals and a dead network.
    """
    from huggingface_hub.utils import WeakFileLock

    locks = repo_folder.parent / ".locks" / repo_folder.name
    locks.mkdir(parents=True, exist_ok=True)
    (repo_folder / "blobs").mkdir(parents=True, exist_ok=True)
    partial, blob = remote.partial(repo_folder), remote.blob(repo_folder)
    with WeakFileLock(locks / f"{remote.digest}.lock"):
        for attempt in (1, 2):
            if blob.exists():
                return
            _gather(remote, partial, endpoint, tell)
            if _digest(partial, remote) == remote.digest:
                os.replace(partial, blob)
                sync_folder(blob.parent)
                return
            partial.unlink()
            if attempt == 2:
                raise BaseError(f"{remote.repo}/{remote.path} came damaged twice from {endpoint}; try later")


def _gather(remote: Remote, partial: Path, endpoint: str, tell: Callable[[int], None]) -> None:
    """Append to `partial` until it has the file's length, trying again when the line breaks."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    tries, pause = 0, PAUSE
    while True:
        before = _length(partial)
        try:
            if before < remote.size or not partial.exists():
                _stream(remote, partial, endpoint, tell)
            if _length(partial) >= remote.size:
                return
            raise ConnectionError(f"the connection ended after {_length(partial):,} of {remote.size:,} bytes")
        except HfHubHTTPError as error:
            if error.response.status_code not in (408, 429, 500, 502, 503, 504):
                raise
            failure: Exception = error
        except (HTTPError, ConnectionError, TimeoutError) as error:
            failure = error
        tries, pause = (1, PAUSE) if _length(partial) > before else (tries + 1, pause * 2)
        if tries >= TRIES:
            raise failure
        time.sleep(pause)


def _stream(remote: Remote, partial: Path, endpoint: str, tell: Callable[[int], None]) -> None:
    """Ask for what is missing once and write what comes."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    there = _length(partial)
    url = f"{endpoint}/{remote.repo}/resolve/{remote.commit}/{quote(remote.path)}"
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # the file there is longer than the hub's, or of another length
            partial.unlink(missing_ok=True)
            return
        if response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        with open(partial, "r+b" if partial.exists() else "wb") as file:
            file.seek(_start(response, there))
            file.truncate()
            for chunk in response.iter_bytes():  # as they come: a chunk size would hold bytes back
                file.write(chunk)
                tell(min(file.tell(), remote.size))
                if file.tell() > remote.size:
                    break
            file.flush()
            os.fsync(file.fileno())


def _start(response: Any, asked: int) -> int:
    """Where the bytes of an answer belong: `asked` where the hub went on from there, else 0."""
    said = response.headers.get("Content-Range", "")
    return asked if response.status_code == 206 and said.startswith(f"bytes {asked}-") else 0


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path, remote: Remote) -> str:
    """The name that the hub gives these bytes: SHA-256, or git's SHA-1 of a blob."""
    if len(remote.digest) == 64:
        return file_sha256(path)
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
