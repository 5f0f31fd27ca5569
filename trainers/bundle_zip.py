"""A run bundle as one zip: written as it is sent, and read as data that may be hostile.

A zip is read by the bundle.toml in it: only what that names is unpacked, under the names that it checks, each
file by its SHA-256. Nothing else in the zip is looked at, and class pictures stay out of the cache that other
runs trust.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from pipelines.errors import ConfigError, StudioError
from pipelines.files import file_sha256, write_atomic
from trainers.bundle_format import (
    BUNDLE,
    BUNDLE_NAME,
    MAX_BYTES,
    RECIPE_NAME,
    Bundle,
    Kept,
    Taught,
    parse_toml,
)
from trainers.config import TrainConfig
from trainers.evidence.record import RECORD_NAME
from trainers.run_folder import ADAPTER_NAME

PICTURES_FOLDER = "pictures"
CLASS_FOLDER = "given_class_pictures"
CACHE_FOLDER = "cache"
DRAWN_FOLDER = f"{CACHE_FOLDER}/class_pictures"
"""Folders in a zip: the pictures, class pictures that a person gave, and those that the base drew."""
GROUP = "group.json"
TOTAL_BYTES = 8 << 30
"""Bytes of all that a zip unpacks to."""
MEMBERS, DIRECTORY_BYTES = 60_000, 16 << 20
"""Files in a zip, and bytes of its list of them, which is read whole."""
_FREE_BYTES = 200_000_000
_PIECE = 1 << 20
_END, _END_BYTES, _COMMENT = b"PK\x05\x06", 22, 65535
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

Members = list[tuple[str, Path]]


def members_of(folder: Path, bundle: Bundle) -> Members:
    """Return (name in the zip, file) of a run's bundle without its pictures.

    Raises: StudioError where the adapter isn't there or isn't the bundle's.
    """
    adapter = folder / ADAPTER_NAME
    if not adapter.is_file() or file_sha256(adapter) != bundle.made.sha256:
        raise StudioError(
            f"{ADAPTER_NAME} of {folder.name!r} is missing, or not the one of the bundle; run it again"
        )
    found = [(BUNDLE_NAME, folder / BUNDLE / BUNDLE_NAME), (RECIPE_NAME, folder / BUNDLE / RECIPE_NAME)]
    found += [(name, folder / name) for name in (ADAPTER_NAME, RECORD_NAME)]
    return [(name, path) for name, path in found if path.is_file()]


def pictures_of(bundle: Bundle, config: TrainConfig) -> Members:
    """Return the same of its pictures, captions, masks and class pictures. config: with the folders of here.

    Raises: StudioError for the first that is missing or not what was learned from.
    """
    from trainers.prior import CLASS_PICTURES, cache_folder

    data, learned = config.data, bundle.data
    drawn = cache_folder(config.run.cache) / CLASS_PICTURES
    places: list[tuple[str, Path | None, Iterable[Kept | Taught]]] = [
        (PICTURES_FOLDER, data.instance_images, (*learned.pictures, *learned.beside)),
        (CLASS_FOLDER, data.class_images, (*learned.class_pictures, *learned.class_beside)),
        (DRAWN_FOLDER, drawn, learned.drawn),
    ]
    found: Members = []
    for inside, folder, files in places:
        for one in files:
            path = None if folder is None else folder / one.name
            if path is None or not path.is_file() or file_sha256(path) != one.sha256:
                raise StudioError(
                    f"{one.name!r} isn't what was learned from; put it back, or leave the pictures out"
                )
            found.append((f"{inside}/{one.name}", path))
    groups = {Path(one.name).parent.as_posix(): drawn / one.name for one in learned.drawn}
    return found + [(f"{DRAWN_FOLDER}/{key}/{GROUP}", path.parent / GROUP) for key, path in groups.items()]


class _Pipe:
    """What a zip is written into, piece by piece; it can't be gone back in."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        """Nothing waits."""

    def taken(self) -> bytes:
        """What was written since this was asked last."""
        found, self._pieces = b"".join(self._pieces), []
        return found


def zipped(members: Members) -> Iterator[bytes]:
    """Yield a zip of files, piece by piece; the same files give the same bytes.

    Nothing is compressed: pictures and weights don't get smaller.
    """
    pipe = _Pipe()
    with zipfile.ZipFile(cast(IO[bytes], pipe), "w", zipfile.ZIP_STORED) as archive:
        for name, path in members:
            about = zipfile.ZipInfo(name)
            about.external_attr = 0o644 << 16
            about.file_size = path.stat().st_size
            with path.open("rb") as file, archive.open(about, "w") as into:
                while piece := file.read(_PIECE):
                    into.write(piece)
                    yield pipe.taken()
    yield pipe.taken()


def read_zip(path: Path) -> Bundle:
    """Read the bundle.toml of a bundle's zip. Raises: ConfigError for what isn't one."""
    with _archive(path) as archive:
        return parse_toml(_read(archive, BUNDLE_NAME, MAX_BYTES), BUNDLE_NAME)


def unpack(path: Path, folder: Path) -> Path:
    """Unpack what a run needs of a bundle's zip into `folder`, made anew; return its bundle.toml.

    Where the same zip was unpacked there before, it stays.

    Raises: ConfigError for what isn't a bundle's zip, is damaged, or isn't what its bundle.toml says.
    """
    with _archive(path) as archive:
        content = _read(archive, BUNDLE_NAME, MAX_BYTES)
        bundle, target = parse_toml(content, BUNDLE_NAME), folder / BUNDLE_NAME
        if target.is_file() and target.read_bytes() == content:
            return target
        shutil.rmtree(folder, ignore_errors=True)
        _check_room(archive, folder)
        for name, sha256 in _wanted(bundle):
            if name in archive.NameToInfo:
                _unpack(archive, name, folder / name, sha256)
        _seal(bundle, folder)
        write_atomic(target, [content])  # last: what is there before it is whole
        return target


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip; whatever is wrong with it is a ConfigError."""
    try:
        _check_end(path)
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (StudioError, OSError):
        raise
    except Exception as error:  # zipfile raises nearly anything on damaged files
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise ConfigError(f"{path.name!r} is damaged ({reason}); make it again: pigment bundle RUN") from None


def _check_end(path: Path) -> None:
    """Refuse what is no zip, or has a longer list of members than is read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END_BYTES - _COMMENT))
        tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise ConfigError(f"{path.name!r} is no zip, or is damaged; make it again: pigment bundle RUN")
    count, directory = struct.unpack_from("<HI", tail, at + 10)
    if count > MEMBERS or directory > DIRECTORY_BYTES:  # both are all ones where there are more
        raise ConfigError(
            f"{path.name!r} has more than {MEMBERS} files; give bundle.toml and --pictures instead"
        )


def _wanted(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """(name in the zip, SHA-256) of what a run needs."""
    learned = bundle.data
    places: tuple[tuple[str, Iterable[Kept | Taught]], ...] = (
        (PICTURES_FOLDER, (*learned.pictures, *learned.beside)),
        (CLASS_FOLDER, (*learned.class_pictures, *learned.class_beside)),
        (DRAWN_FOLDER, learned.drawn),
    )
    return ((f"{inside}/{one.name}", one.sha256) for inside, files in places for one in files)


def _check_room(archive: zipfile.ZipFile, folder: Path) -> None:
    """Refuse what unpacks to too much, or to more than the disk holds."""
    total = sum(about.file_size for about in archive.infolist())
    if total > TOTAL_BYTES:
        raise ConfigError(
            f"{_name(archive)!r} unpacks to more than {TOTAL_BYTES >> 30} GB; unpack it by hand"
        )
    folder.mkdir(parents=True)
    if shutil.disk_usage(folder).free < total + _FREE_BYTES:
        raise ConfigError(f"{str(folder)!r} has no room for {total >> 20} MB of pictures; make room")


def _read(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Read one small member. Raises: ConfigError where it isn't there or is too large."""
    if name not in archive.NameToInfo:
        raise ConfigError(f"{_name(archive)!r} has no {name}; give a zip that `pigment bundle` has made")
    with _opened(archive, name) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ConfigError(f"{name!r} in {_name(archive)!r} has more than {most:,} bytes")
    return content


def _name(archive: zipfile.ZipFile) -> str:
    """What people call a zip."""
    return Path(archive.filename or "").name


def _opened(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    about = archive.NameToInfo[name]
    if (
        about.flag_bits & 0x1
        or about.compress_type not in _METHODS
        or stat.S_ISLNK(about.external_attr >> 16)
    ):
        raise ConfigError(
            f"{name!r} in {_name(archive)!r} is locked, a link, or packed in a way that isn't read"
        )
    return archive.open(about)


def _unpack(archive: zipfile.ZipFile, name: str, path: Path, sha256: str) -> None:
    """Unpack one member, at most as large as it says. Raises: ConfigError where it is another file."""
    left, digest = archive.NameToInfo[name].file_size, hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _opened(archive, name) as packed, path.open("xb") as file:
            while (piece := packed.read(_PIECE)) and left >= 0:
                left -= len(piece)
                digest.update(piece)
                file.write(piece)
    except (zipfile.BadZipFile, zlib.error, EOFError):
        digest.update(b"damaged")
    if digest.hexdigest() != sha256:
        path.unlink(missing_ok=True)
        raise ConfigError(
            f"{name!r} in {_name(archive)!r} isn't what its {BUNDLE_NAME} says; make the zip again"
        )


def _seal(bundle: Bundle, folder: Path) -> None:
    """Let the class pictures that were unpacked count as drawn ones."""
    groups: dict[Path, dict[str, str]] = {}
    for one in bundle.data.drawn:
        path = folder / DRAWN_FOLDER / one.name
        if path.is_file():
            groups.setdefault(path.parent, {})[path.name] = one.sha256
    for place, sealed in groups.items():
        about: dict[str, Any] = {"prompts": [], "sha256": sealed}
        write_atomic(place / GROUP, [json.dumps(about).encode()])
