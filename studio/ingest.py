"""What people drop on the page, sorted and checked: pictures, captions beside them, masks, zips of those.

Names are data: they say what belongs together and stand in what is shown, and never become a path.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.errors import PictureError
from studio import processes
from studio.pictures import Picture, Pictures

SECONDS = 60.0
"""For one picture; a slow one is refused."""
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


@dataclass(frozen=True)
class Good:
    """A picture that was taken. caption, mask: as they lay beside it; None: there was none."""

    picture: Picture
    name: str
    caption: str | None = None
    mask: Picture | None = None


@dataclass
class Sorted:
    """Files by what they are. captions and masks: by what their picture is called, see `key`."""

    pictures: list[Dropped] = field(default_factory=list)
    captions: dict[tuple[str, str], Dropped] = field(default_factory=dict)
    masks: dict[tuple[str, str], Dropped] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def key(place: str, name: str) -> tuple[str, str]:
    """What a picture, its caption and its mask share: where they lie, and the name without its ends."""
    stem = PurePosixPath(name).stem
    return place, (stem.removesuffix(MASK) if stem.lower().endswith(MASK) else stem).casefold()


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
    found = Sorted()
    for one in files:
        inside = PurePosixPath(one.place)
        if one.suffix in CAPTIONS:
            found.captions[key(one.place, one.name)] = one
        elif one.suffix in FOREIGN:
            found.refused.append(Refused(one.shown, FOREIGN[one.suffix]))
        elif PurePosixPath(one.name).stem.lower().endswith(MASK):
            found.masks[key(one.place, one.name)] = one
        elif inside.name.lower() == MASKS and len(inside.parts) > 1:
            found.masks[key(inside.parent.as_posix(), one.name)] = one
        else:
            found.pictures.append(one)
    return found


class Decoder:
    """A child process that decodes, started where it is needed and again where a picture has ended it.

    seconds: that one picture may take.
    """

    def __init__(self, log: Path, seconds: float = SECONDS) -> None:
        self._log, self._seconds = log, seconds
        self._child: Any = None

    def ask(self, path: Path, preview: Callable[[str], Path] | Path | None) -> dict[str, Any]:
        """What `decoding.decode` says of a file, or {"error": reason}."""
        if self._child is None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._child = processes.spawn(
                "studio.decoding", output=self._log, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        child, late = self._child, threading.Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(self._seconds, end)
        timer.start()
        try:
            order = {"path": str(path), "preview": None if preview is None else str(preview)}
            child.stdin.write(json.dumps(order).encode() + b"\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except OSError:
            line = b""
        finally:
            timer.cancel()
        if line:
            return dict(json.loads(line))
        self.close()
        if late.is_set():
            return {"error": f"took more than {self._seconds:.0f} s to decode; save it again or smaller"}
        return {"error": "broke the decoder, so it is damaged or harmful; remove it or save it again"}

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()


@contextmanager
def decoder(pictures: Pictures, seconds: float = SECONDS) -> Iterator[Decoder]:
    """A decoder for a while."""
    one = Decoder(pictures.workspace.folder("cache", "decoding.log"), seconds)
    try:
        yield one
    finally:
        one.close()


def take_picture(pictures: Pictures, one: Dropped, by: Decoder) -> tuple[Picture, dict[str, Any]] | Refused:
    """Check a file and keep it, with a small one for the page."""
    if not one.path.is_file():
        return Refused(one.shown, "is gone; drop it again")
    if one.path.stat().st_size == 0:
        return Refused(one.shown, "is empty; remove it or save it again")
    folder = pictures.workspace.folder("cache", "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        small = Path(scratch) / "small.webp"
        found = by.ask(one.path, small)
        if "error" in found:
            return Refused(one.shown, str(found["error"]))
        try:
            picture = pictures.keep(one.path, found, one.name)
        except PictureError as error:
            return Refused(one.shown, str(error))
        if small.is_file():
            small.replace(pictures.preview(picture.sha256))
    return picture, found


def ingest(pictures: Pictures, files: Sequence[Dropped]) -> tuple[list[Good], Sorted]:
    """Take all that can be used of some files.

    Returns: what was taken, with captions and masks that lay beside; and the rest: captions and masks whose
    picture isn't among them, what was refused, and notes.
    """
    rest = sort([replace(one, name=one_name(one.name)) for one in files])
    good: list[Good] = []
    used: set[tuple[str, str]] = set()
    with decoder(pictures) as by:
        for one in rest.pictures:
            taken = take_picture(pictures, one, by)
            if isinstance(taken, Refused):
                rest.refused.append(taken)
                continue
            name = key(one.place, one.name)
            used.add(name)
            caption, mask = rest.captions.get(name), rest.masks.get(name)
            good.append(
                Good(
                    taken[0],
                    one.name,
                    None if caption is None else read_caption(caption, rest.refused),
                    None if mask is None else take_mask(pictures, mask, taken[0], by, rest.refused),
                )
            )
    for name in used:
        rest.captions.pop(name, None)
        rest.masks.pop(name, None)
    return good, rest


def read_caption(one: Dropped, refused: list[Refused]) -> str | None:
    """The text of a caption's file on one line; None, and a line in `refused`, where it can't be used."""
    from trainers.captions import read_caption as read

    try:
        return read(one.path)
    except PictureError as error:
        refused.append(Refused(one.shown, str(error).removeprefix(f"caption {one.path.name!r} ")))
        return None


def take_mask(
    pictures: Pictures, one: Dropped, picture: Picture, by: Decoder, refused: list[Refused]
) -> Picture | None:
    """Keep a picture's mask; None, and a line in `refused`, where it can't be used."""
    taken = take_picture(pictures, one, by)
    reason = ""
    if isinstance(taken, Refused):
        refused.append(taken)
        return None
    mask, found = taken
    if abs(mask.width * picture.height / (mask.height * picture.width) - 1) > 0.02:
        reason = (
            f"is a mask of {mask.width}×{mask.height} for a picture of {picture.width}×{picture.height}; "
            "draw it over the picture"
        )
    elif found["brightest"] == 0:
        reason = "is a mask that leaves nothing to learn from; make some of it white"
    if reason:
        refused.append(Refused(one.shown, reason))
        return None
    return mask
