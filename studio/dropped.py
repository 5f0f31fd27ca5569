"""What people drop on the page, sorted by its names: pictures, captions beside them, masks, zips of those.

Names are data: they say what belongs together and stand in what is shown, and never become a path.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipelines.errors import PictureError
from pipelines.files import write_atomic

NAME_LENGTH = 255
CAPTIONS = (".txt", ".caption")
MASK = ".mask"
MASKS = "masks"
"""End of a mask's stem, and the folder in a zip that holds masks by their pictures' names."""
FOREIGN = {
    **dict.fromkeys((".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz"), "is an archive that isn't read; "
                    "make it a .zip, or drop the pictures"),
    **dict.fromkeys((".ckpt", ".pt", ".pth", ".bin", ".safetensors"), "is a model, no picture; import "
                    "adapters in the library"),
    **dict.fromkeys((".mp4", ".mov", ".webm", ".mkv", ".avi"), "is a film; save single pictures of it"),
    **dict.fromkeys((".psd", ".xcf", ".svg", ".jxl", ".jp2", ".tga", ".raw", ".dng", ".cr2", ".cr3", ".nef",
                     ".arw", ".pdf"), "is in a format that isn't read; save it as PNG or JPEG"),
}  # fmt: skip
"""What is refused by its name alone, with the reason."""
_REPEATS = re.compile(r"\d+_.+")


@dataclass(frozen=True)
class Dropped:
    """A file that was dropped. name: its own, as shown. place: what it lay in ("" or a folder of a zip)."""

    path: Path
    name: str
    place: str = ""

    @property
    def suffix(self) -> str:
        """The end of its name, in lower case."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def shown(self) -> str:
        """Its name with what it lay in."""
        return f"{self.place}/{self.name}" if self.place else self.name


@dataclass(frozen=True)
class Refused:
    """A file that wasn't taken. reason: what is wrong and what to do, to be read after the name."""

    name: str
    reason: str

    def line(self) -> str:
        """The whole as one line."""
        return f"{self.name}: {self.reason}"


@dataclass
class Sorted:
    """Files by what they are. captions and masks: by what their picture is called, see `key`."""

    pictures: list[Dropped] = field(default_factory=list)
    tables: list[Dropped] = field(default_factory=list)
    captions: dict[tuple[str, str], Dropped] = field(default_factory=dict)
    masks: dict[tuple[str, str], Dropped] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def key(place: str, name: str) -> tuple[str, str]:
    """What a picture, its caption and its mask share: where they lie, and the name without its ends."""
    return place, PurePosixPath(name).stem.casefold().removesuffix(MASK)


def one_name(name: str) -> str:
    """A file's own name as it is shown: the last part, on one line, NAME_LENGTH characters at most."""
    from trainers.tables import one_line

    last = one_line(name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])
    if len(last) > NAME_LENGTH:
        end = PurePosixPath(last).suffix[:12]
        last = last[: NAME_LENGTH - len(end) - 1] + "…" + end
    return last or "nameless"


def sort(files: Sequence[Dropped]) -> Sorted:
    """Say of each file what it is, by its name: what a picture is, its content says later."""
    from trainers.tables import TABLE_NAMES

    found = Sorted()
    for one in files:
        inside = PurePosixPath(one.place)
        if one.suffix in CAPTIONS:
            found.captions[key(one.place, one.name)] = one
        elif one.name.lower() in TABLE_NAMES:
            found.tables.append(one)
        elif one.suffix in FOREIGN:
            found.refused.append(Refused(one.shown, FOREIGN[one.suffix]))
        elif PurePosixPath(one.name).stem.lower().endswith(MASK):
            found.masks[key(one.place, one.name)] = one
        elif inside.name.lower() == MASKS and len(inside.parts) > 1:
            found.masks[key(inside.parent.as_posix(), one.name)] = one
        else:
            found.pictures.append(one)
    return found


def unzipped(files: Sequence[Dropped], folder: Path) -> tuple[list[Dropped], list[Refused]]:
    """Put what is in zips into their place, unpacked into `folder`; the second are those that can't be."""
    from studio.archives import unpack

    found: list[Dropped] = []
    refused: list[Refused] = []
    for one in files:
        if one.suffix != ".zip":
            found.append(one)
            continue
        try:
            for member in unpack(one.path, folder):
                place = "/".join([one.name, *(one_name(part) for part in member.place.split("/") if part)])
                inside = Dropped(member.path or one.path, one_name(member.name), place)
                if member.path is None:
                    refused.append(Refused(inside.shown, member.reason))
                else:
                    found.append(inside)
        except (PictureError, OSError) as error:
            refused.append(Refused(one.name, reason_of(error)))
    return found, refused


def repeating(place: str) -> bool:
    """Whether a folder's name says how often its pictures come, as for kohya's scripts."""
    return _REPEATS.fullmatch(place.rsplit("/", 1)[-1]) is not None


def reason_of(error: Exception) -> str:
    """What an error says, to be read after a file's name."""
    if isinstance(error, OSError):
        return f"can't be read ({error.strerror or error}); drop it again"
    return str(error)


def read_tables(rest: Sorted, folder: Path) -> dict[str, str]:
    """Read the tables of captions among some files: captions by what their picture is shown as."""
    from trainers.tables import MAX_TABLE_BYTES, read_table

    found: dict[str, str] = {}
    for number, one in enumerate(rest.tables):
        begin = f"{one.place}/" if one.place else ""
        inside = {folder / p.shown[len(begin) :]: p for p in rest.pictures if p.shown.startswith(begin)}
        path = folder / f"table{number}{one.suffix}"
        try:
            if one.path.stat().st_size > MAX_TABLE_BYTES:
                raise PictureError(f"has more than {MAX_TABLE_BYTES} bytes; make it smaller")
            write_atomic(path, [one.path.read_bytes()])
            rows, notes = read_table(path, list(inside))
        except (PictureError, OSError) as error:
            reason = (
                reason_of(error).removeprefix(f"table {path.name!r} ").removeprefix(f"table {path.name!r}")
            )
            rest.refused.append(Refused(one.shown, reason))
            continue
        found |= {inside[picture].shown: row.caption for picture, row in rows.items() if row.caption}
        rest.notes += [note.replace(repr(path.name), repr(one.name)) for note in notes]
        if any(row.repeats is not None or row.mask for row in rows.values()):
            rest.notes.append(f"table {one.name!r}: only its captions were taken, not repeats and masks")
    return found
