"""Uploads: gone once they were taken, or where they broke off; nothing else is touched."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from studio.context import Context
from studio.tabs.dataset import server_functions
from studio.uploads import keep_no_halves, let_go


def sent(context: Context, source: Path, folder: str = "0a1b") -> Path:
    """A file as it lies after Gradio's upload."""
    target = context.workspace.uploads / folder / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    return target


def test_what_was_taken_is_gone_and_nothing_else(context: Context, pictures: list[Path]) -> None:
    first, second = sent(context, pictures[0]), sent(context, pictures[1])
    let_go(context.workspace, [str(first), str(first), pictures[2], "/etc/hostname", "image/x", "a\0b", None])
    assert not first.exists() and second.exists()
    assert all(path.exists() for path in pictures)
    let_go(context.workspace, [second])
    assert not second.parent.exists()
    lone = sent(context, pictures[0], ".")
    let_go(context.workspace, [lone])
    assert list(context.workspace.uploads.iterdir()) == []


def test_pictures_that_were_taken_into_a_set_leave_no_upload(context: Context, pictures: list[Path]) -> None:
    take = next(verb for verb in server_functions(context) if verb.__name__ == "take")
    files = [sent(context, path, str(number)) for number, path in enumerate(pictures)]
    found = take({"dataset": "", "files": [{"path": str(path), "name": path.name} for path in files]})
    assert len(found["items"]) == len(pictures), found
    assert list(context.workspace.uploads.iterdir()) == []
    assert all(context.workspace.folder("pictures").rglob(item["sha"] + "*") for item in found["items"])


PART = (
    b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n'
    b"Content-Type: image/png\r\n\r\n" + b"0" * 100_000
)


@pytest.mark.parametrize("ending", [ClientDisconnect, asyncio.CancelledError, None])
def test_an_upload_that_breaks_off_leaves_nothing(ending: type[BaseException] | None, tmp_path: Path) -> None:
    from gradio.route_utils import GradioMultiPartParser

    keep_no_halves()
    keep_no_halves()  # a second page in the process

    async def stream() -> AsyncIterator[bytes]:
        yield PART + b"\r\n" + PART
        assert len(list(tmp_path.iterdir())) == 2, "it didn't begin"
        if ending is not None:
            raise ending

    headers = Headers({"content-type": "multipart/form-data; boundary=x"})
    parser = GradioMultiPartParser(headers, stream(), upload_dir=str(tmp_path), max_file_size=10**6)
    with nullcontext() if ending is None else pytest.raises(ending):
        asyncio.run(parser.parse())
    # The first of the two came whole, the second without its end.
    assert [path.stat().st_size for path in tmp_path.iterdir()] == ([] if ending else [100_000])


def test_an_upload_that_the_disk_refuses_is_heard_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradio.route_utils import GradioMultiPartParser, GradioUploadFile

    async def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    keep_no_halves()
    monkeypatch.setattr(GradioUploadFile, "write", full)
    heard: list[int] = []

    async def stream() -> AsyncIterator[bytes]:
        for number, chunk in enumerate((PART, b"0" * 1000, b"\r\n--x--\r\n")):
            heard.append(number)
            yield chunk

    headers = Headers({"content-type": "multipart/form-data; boundary=x"})
    parser = GradioMultiPartParser(headers, stream(), upload_dir=str(tmp_path), max_file_size=10**6)
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(parser.parse())
    assert heard == [0, 1, 2] and list(tmp_path.iterdir()) == []
