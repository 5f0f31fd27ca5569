"""An adapter of the library: what is known of it, and what of that the index keeps to search by."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import AdapterError
from pipelines.files import write_atomic
from studio import examples

NAME_LENGTH = 80  # characters
TAG_LENGTH, MAX_TAGS = 32, 24
NOTES_LENGTH = 4000  # characters
KEPT_VALUE, KEPT_VALUES = 160, 24  # characters of a metadata value, and values, that the index keeps

SIZE_LIMIT = 4 << 30  # bytes; the largest adapters people share are about 2 GB

ORIGINS = {
    "trained": "taught here",
    "imported": "imported",
    "made": "made from others",
    "example": "comes with Pigment",
}
"""Where an adapter came from, in words."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An adapter in the library.

    Attributes:
        path: its safetensors file.
        origin: a key of ORIGINS.
        info: what `inspect_adapter` read from the file's header, without its longest texts.
        job: the id of the job that made it.
        cover: the picture shown for it, as the server's address below /files: "preview/JOB/FILE",
            "example/SET/0", "image/ID", "cover/ID/NAME".
        created, trashed: seconds since 1970; trashed is None while it isn't in the trash.
        tags, notes: a person's own. family, method, bytes: of `info`, as the index has them to filter by.
    """

    id: str
    name: str
    path: Path
    origin: str
    sha256: str
    info: dict[str, Any]
    job: str | None
    cover: str | None
    created: float
    trashed: float | None
    tags: tuple[str, ...] = ()
    notes: str = ""
    family: str = ""
    method: str = ""
    bytes: int = 0

    @property
    def triggers(self) -> list[str]:
        """The words that call what the adapter learned."""
        return [str(word) for word in self.info.get("triggers") or ()]

    @property
    def rank(self) -> int | None:
        """The rank, the largest where modules differ; None where the method has none."""
        rank = self.info.get("rank")
        return rank if isinstance(rank, int) and rank > 0 else None

    @property
    def slug(self) -> str:
        """The name as the stem of a file: ASCII letters, digits, `-`, `_`; never empty."""
        return slug(self.name)

    @property
    def short(self) -> str:
        """What to offer people who misspelt it: its name, or of an example its set's, which can be typed."""
        return self.id.removeprefix("example-") if self.id.startswith("example-") else self.name

    def called(self, name: str) -> bool:
        """Whether people mean it by `name`: its name, file name or, of an example, its set, in any case."""
        names = (self.name.casefold(), self.slug.casefold(), self.id, self.short.casefold())
        return name.casefold() in names

    @property
    def former(self) -> list[str]:
        """The SHA-256 that its file had before its metadata were edited."""
        return [str(one) for one in self.info.get("former") or ()]

    @property
    def missing(self) -> bool:
        """Whether its file is gone."""
        return not self.path.is_file()

    @property
    def file_name(self) -> str:
        """The name as a file's."""
        return f"{self.slug}.safetensors"


def slug(name: str) -> str:
    """A name as the stem of a file: ASCII letters, digits, `-`, `_`; never empty."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60] or "adapter"


def entry_of(row: sqlite3.Row, root: Path) -> Entry:
    """A row of the index as an Entry; `root` is the workspace's folder."""
    values = dict(row)
    scheme, _, rest = values.pop("file").partition(":")
    del values["words"]
    values.update(info=json.loads(values["info"]), tags=tuple(json.loads(values["tags"])))
    return Entry(path=(examples.EXAMPLES if scheme == "example" else root) / rest, **values)


def columns_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """What the index keeps of an adapter's header: `info` as text, family, method and bytes.

    Long texts (tables of tags, pictures) are left out, so that ten thousand rows are searched at once; the
    file has them.
    """
    metadata = info.get("metadata") or {}
    kept = {key: value for key, value in metadata.items() if len(str(value)) <= KEPT_VALUE}
    short = {**info, "metadata": dict(list(kept.items())[:KEPT_VALUES])}
    return {
        "info": json.dumps(short, default=str),
        "family": str(info.get("family", "")),
        "method": str(info.get("method", "")),
        "bytes": int(info.get("bytes") or 0),
    }


def words_of(name: str, info: Mapping[str, Any], tags: Iterable[str], notes: str) -> str:
    """The text that a search looks in, case-folded."""
    metadata = info.get("metadata") or {}
    said = [str(metadata.get(f"modelspec.{field}", "")) for field in ("title", "description", "author")]
    words = [name, *tags, notes, *map(str, info.get("triggers") or ()), *said]
    words += [str(info.get(field, "")) for field in ("title", "family", "method")]
    return "\n".join(word for word in words if word).casefold()


def clean_name(name: str) -> str:
    """`name` on one line without surrounding space.

    Raises:
        AdapterError: it is empty or longer than `NAME_LENGTH` characters.
    """
    cleaned = " ".join(name.split())
    if not cleaned:
        raise AdapterError("the name is empty; an adapter needs a name")
    if len(cleaned) > NAME_LENGTH:
        raise AdapterError(f"the name has {len(cleaned)} characters, at most {NAME_LENGTH} fit; shorten it")
    return cleaned


def clean_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags on one line each, in their order, none twice (whatever its case).

    Raises:
        AdapterError: one is too long, or there are too many.
    """
    found: dict[str, str] = {}
    for tag in tags:
        cleaned = " ".join(str(tag).replace(",", " ").split()).lstrip("#")
        if len(cleaned) > TAG_LENGTH:
            raise AdapterError(
                f"tag “{cleaned[:40]}…” has {len(cleaned)} characters, at most {TAG_LENGTH} fit; shorten it"
            )
        if cleaned:
            found.setdefault(cleaned.casefold(), cleaned)
    if len(found) > MAX_TAGS:
        raise AdapterError(f"{len(found)} tags are too many, at most {MAX_TAGS} fit; leave some out")
    return tuple(found.values())


def clean_notes(notes: str) -> str:
    """Notes without surrounding space. Raises: AdapterError for more than `NOTES_LENGTH` characters."""
    if len(notes) > NOTES_LENGTH:
        raise AdapterError(f"the notes have {len(notes):,} characters, at most {NOTES_LENGTH:,} fit; shorten")
    return notes.strip()


def copy_file(source: Path, target: Path) -> str:
    """Copy a file so that `target` is the old one or the whole new one; returns its SHA-256."""
    with source.open("rb") as read:
        return write_atomic(target, iter(lambda: read.read(1 << 20), b""))


def refuse_early(path: Path) -> None:
    """Raise AdapterError for what its name and size tell to be no adapter file."""
    if not path.is_file():
        raise AdapterError(f"no file {path}; expected a .safetensors file")
    if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin", ".pkl"):
        raise AdapterError(
            f"{path.name} is a pickle file, which can run code when opened; convert it to .safetensors first"
        )
    if path.suffix.lower() != ".safetensors":
        raise AdapterError(f"{path.name} is not a .safetensors file; only that format can be imported")
    if path.stat().st_size > SIZE_LIMIT:
        raise AdapterError(
            f"{path.name} has {path.stat().st_size >> 20} MB, at most {SIZE_LIMIT >> 20} are read"
        )
