"""Zips read as data that may be hostile: members go to generated names, counted while they are unpacked.

Nothing a zip says of itself is believed: neither names, nor sizes, nor how many members there are.
"""

from __future__ import annotations

import errno
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pipelines.errors import PictureError
from studio.workspace import new_id

MEMBERS = 4000
"""Files in a zip; pictures, captions and masks together."""
DIRECTORY = 4 << 20
"""Bytes of a zip's list of members, which is read whole."""
TOTAL = 8 << 30
"""Bytes of all that a zip unpacks to."""
RATIO, FREE = 100, 1 << 20
"""How many times its packed size a member may unpack to, beyond the first so many bytes."""
SLACK = 200_000_000
_END, _END_SIZE, _COMMENT = b"PK\x05\x06", 22, 65535
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_HIDDEN = ("__macosx", "thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Member:
    """A file out of a zip. name: its own; place: the folder inside; path: where it was unpacked to, or None
    where it was refused for `reason`."""

    name: str
    place: str
    path: Path | None = None
    reason: str = ""


def check_end(path: Path) -> None:
    """Refuse what isn't a zip, and one whose list of members is too long to be read.

    Raises: PictureError with the reason alone.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END_SIZE - _COMMENT))
        tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise PictureError("is damaged or no zip; make it again")
    count, directory = struct.unpack_from("<HI", tail, at + 10)
    if count > MEMBERS or directory > DIRECTORY:  # both are all ones where the zip has more than they hold
        raise PictureError(f"has more than {MEMBERS} files or very long names; make several zips of it")


def unpack(path: Path, folder: Path) -> Iterator[Member]:
    """Yield the files of a zip, unpacked into `folder` under generated names; what is hidden is left out.

    Raises: PictureError with the reason alone where none of it can be read, or nothing more may be.
    """
    check_end(path)
    left = TOTAL
    try:
        with zipfile.ZipFile(path) as archive:
            for member in _members(archive, path.stat().st_size):
                yield (one := _unpacked(archive, member, folder, left))
                left -= one.path.stat().st_size if one.path is not None and one.path.exists() else 0
    except PictureError:
        raise
    except Exception as error:  # zipfile raises nearly anything on damaged files
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PictureError("needs more room than the disk has; make room and drop it again") from error
        reason = str(error).strip().splitlines()[0][:100] if str(error).strip() else type(error).__name__
        raise PictureError(f"is damaged ({reason}); make it again") from None


def _members(archive: zipfile.ZipFile, size: int) -> list[zipfile.ZipInfo]:
    """What is worth unpacking of a zip of `size` bytes."""
    found = []
    for member in archive.infolist():
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        hidden = any(_hidden(part) for part in parts)
        if parts and not hidden and not member.is_dir():
            found.append(member)
    if sum(member.compress_size for member in found) > size:
        raise PictureError("is damaged (its files overlap, as bombs do); make it again")
    if len(found) > MEMBERS:
        raise PictureError(f"has {len(found)} files, at most {MEMBERS} are read; make several zips of it")
    return found


def _hidden(part: str) -> bool:
    """Whether what a system has left there is named so, which nobody dropped on purpose."""
    return part.lower() in _HIDDEN or (part.startswith(".") and part not in (".", ".."))


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, left: int) -> Member:
    """Unpack one member, or say why not."""
    inside = [part for part in member.filename.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    one = Member(inside[-1] if inside else "nameless", "/".join(inside[:-1]))
    if member.flag_bits & 0x1:
        return replace(one, reason="is locked with a password; make the zip without one")
    if stat.S_ISLNK(member.external_attr >> 16):
        return replace(one, reason="is a link and no file; put the file itself into the zip")
    if member.compress_type not in _METHODS:
        return replace(one, reason="is packed in a way that isn't read; make an ordinary zip")
    if one.name.lower().endswith(".zip"):
        return replace(one, reason="is a zip in a zip; drop it by itself")
    from trainers.images import MAX_BYTES

    if shutil.disk_usage(folder).free < SLACK + min(member.file_size, MAX_BYTES):
        raise PictureError("needs more room than the disk has; make room and drop it again")
    path = folder / new_id()
    most = min(MAX_BYTES, left, FREE + RATIO * member.compress_size)
    try:
        with archive.open(member) as packed, path.open("xb") as file:
            written = 0
            while content := packed.read(1 << 18):
                written += len(content)
                if written > most:
                    break
                file.write(content)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        path.unlink(missing_ok=True)
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        return replace(one, reason=f"is damaged ({reason}); make the zip again")
    if written <= most:
        return replace(one, path=path)
    path.unlink()
    if most == left:
        raise PictureError(f"unpacks to more than {TOTAL >> 30} GB; make several zips of it")
    if most == MAX_BYTES:
        return replace(one, reason=f"has more than {MAX_BYTES} bytes; make it smaller")
    return replace(one, reason=f"unpacks to over {RATIO} times its size, as bombs do; save it again")
