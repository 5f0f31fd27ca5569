"""Covers: the picture shown for an adapter, kept small beside its file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from pathlib import Path
from typing import Any

from pipelines.errors import PictureError
from pipelines.files import write_atomic
from studio.entries import Entry
from studio.examples import example_sets
from studio.library import Library
from studio.workspace import Workspace

SIDE = 512  # pixels
THUMBNAILS = ("modelspec.thumbnail", "ssmd_cover_images")
"""Where other tools keep a picture in a file's metadata; a data URL, or JSON with one in it."""

_DATA_URL = re.compile(r"data:image/(?:png|jpe?g|webp);base64,([A-Za-z0-9+/=\s]+)")
_SAFE = re.compile(r"[A-Za-z0-9_-]{1,80}(\.png)?")


def address_file(workspace: Workspace, address: str) -> Path | None:
    """The file of an address as `Entry.cover` has them, or None where there is none (any more)."""
    kind, *rest = address.split("/")
    if not all(_SAFE.fullmatch(part) for part in rest):
        return None
    found = _PLACES[kind](workspace, *rest) if kind in _PLACES and len(rest) == _PARTS[kind] else None
    return found if found is not None and found.is_file() else None


def _example(workspace: Workspace, set_id: str, number: str) -> Path | None:
    found = [picture for one in example_sets() if one.id == set_id for picture in one.pictures]
    return found[int(number)] if number.isdecimal() and int(number) < len(found) else None


def _picture(workspace: Workspace, sha256: str) -> Path | None:
    with workspace.read() as db:
        row = db.execute("SELECT file FROM pictures WHERE sha256 = ?", (sha256,)).fetchone()
    return None if row is None else workspace.root / row["file"]


_PLACES: dict[str, Any] = {
    "preview": lambda workspace, job, name: workspace.folder("runs", job, "previews", name),
    "image": lambda workspace, image: workspace.folder("images", f"{image}.png"),
    "cover": lambda workspace, adapter, name: workspace.folder("adapters", f"{adapter}.{name}.jpg"),
    "example": _example,
    "picture": _picture,
}
_PARTS = {"preview": 2, "image": 1, "cover": 2, "example": 2, "picture": 1}


def cover_file(workspace: Workspace, entry: Entry) -> Path | None:
    """The picture shown for an adapter, or None where it has none (any more)."""
    return address_file(workspace, entry.cover) if entry.cover else None


def set_cover(library: Library, adapter_id: str, source: str | Path | bytes) -> str:
    """Show a picture for an adapter: a small copy is kept, so that the picture itself may go.

    Args:
        source: an address ("image/ID", "preview/JOB/FILE" …), a picture's file, or its bytes.
    Returns:
        The address of the copy.
    Raises:
        AdapterError: no such adapter, or the picture can't be read.
        PictureError: no such picture.
    """
    entry = library.get(adapter_id)
    if isinstance(source, str):
        found = address_file(library.workspace, source)
        if found is None:
            raise PictureError(f"picture {source[:80]!r} is gone; choose another one")
        source = found
    address = keep_copy(library.workspace, entry.id, source)
    library.update(entry.id, cover=address)
    clear_copies(library.workspace, entry.id, address)
    return address


def keep_copy(workspace: Workspace, adapter_id: str, source: Path | bytes) -> str:
    """Keep a small copy of a picture as an adapter's cover, beside an older one; its address.

    Raises:
        AdapterError: it can't be read.
    """
    from pipelines.formats.editing import cover_jpeg

    small = cover_jpeg(source, SIDE)
    name = hashlib.sha256(small).hexdigest()[:12]
    write_atomic(workspace.folder("adapters", f"{adapter_id}.{name}.jpg"), [small])
    return f"cover/{adapter_id}/{name}"


def clear_copies(workspace: Workspace, adapter_id: str, address: str) -> None:
    """Remove an adapter's older covers, once the index says which one it has now: address."""
    kept = f"{adapter_id}.{address.rpartition('/')[2]}.jpg"
    for old in workspace.folder("adapters").glob(f"{adapter_id}.*.jpg"):
        if old.name != kept:
            old.unlink(missing_ok=True)


def embedded(metadata: dict[str, str]) -> bytes | None:
    """The picture that other tools put into a file's metadata; None where there is none."""
    for key in THUMBNAILS:
        found = _DATA_URL.search(str(metadata.get(key, "")))
        try:
            if found:
                return base64.b64decode(found[1], validate=False)
        except (ValueError, binascii.Error):
            continue
    return None
