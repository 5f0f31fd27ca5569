"""Parcels of zips, names and captions dropped one by one, and ten thousand pictures at once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.pictures_made import chunk, png
from tests.faults.pictures_parcels import Parcel, parcels
from tests.faults.suites import Plant, Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

    from studio.datasets import Datasets, Taken

PARCELS = 110
"""In the table."""
_KEPT = r"pictures/[0-9a-f]{64}\.\w+|cache/(pictures/[0-9a-f]{64}-\d+\.webp|decoding\.log)|index\.sqlite.*"
CANARY = b"nobody wrote here"
SECONDS_PER_FILE = 0.1
"""That one of very many may take, held where the machine is quiet."""


def drop_parcels(task: Task, tally: Tally) -> None:
    """Drop each parcel on a set of its own."""
    from pytest import MonkeyPatch

    from studio.datasets import Datasets
    from studio.workspace import Workspace

    found = parcels()
    assert len(found) == PARCELS, f"{len(found)} parcels in the table"
    root = task.folder / "a" / "b" / "workspace"
    datasets = Datasets(Workspace.open(root, own=False))
    canaries = [task.folder / "up.png", root.parent / "up.png", root / "up.png"]
    for canary in canaries:
        canary.write_bytes(CANARY)
    before = _tree(task.folder)
    with MonkeyPatch.context() as patch, _one_decoder(datasets, patch):
        for number, parcel in enumerate(found[: task.count]):
            files = []
            for order, (name, content) in enumerate(parcel.files.items()):
                path = root / "uploads" / f"{number}-{order}"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content())
                files.append((path, name))
            made = datasets.new()
            try:
                problem = _problem(parcel, datasets, made.id, datasets.take(made.id, files))
            except Exception as error:
                problem = f"raised {type(error).__name__}: {error}"
            for path, _ in files:
                path.unlink()
            tally.happened(parcel.name, problem)
    strangers = {path for path in _tree(task.folder) - before if not _known(path, root)}
    tally.measured("files in strange places", len(strangers), most=0)
    tally.measured("files overwritten", sum(one.read_bytes() != CANARY for one in canaries), most=0)


def _tree(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def _known(path: Path, root: Path) -> bool:
    """Whether a file lies where the workspace keeps such, and is called by content."""
    inside = path.relative_to(root).as_posix() if path.is_relative_to(root) else ""
    return re.fullmatch(_KEPT, inside) is not None


@contextmanager
def _one_decoder(datasets: Datasets, patch: MonkeyPatch) -> Iterator[None]:
    """Let one process decode for all parcels: to start one takes longer than they do."""
    from studio.decoder import decoder

    with decoder(datasets.workspace) as shared:

        @contextmanager
        def the_same(*_: object) -> Iterator[object]:
            yield shared

        patch.setattr("studio.ingest.decoder", the_same)
        yield


def _problem(parcel: Parcel, datasets: Datasets, dataset_id: str, taken: Taken) -> str | None:
    """What is wrong with what became of a parcel; None: nothing."""
    there = {item.name: item.caption for item in datasets.get(dataset_id).items}
    if there != dict(parcel.taken):
        return f"taken is {_short(there)}, {_short(dict(parcel.taken))} was wanted; {taken.refused[:2]}"
    lines = {one.name: one.line() for one in taken.refused}
    if set(lines) != set(parcel.refused) or len(lines) != len(taken.refused):
        return f"refused is {_short(lines)}, {sorted(parcel.refused)} was wanted"
    for name, pattern in parcel.refused.items():
        if len(lines[name].splitlines()) != 1 or not re.search(pattern, lines[name]):
            return f"refused with {lines[name][:200]!r}, not {pattern!r}"
        if str(datasets.workspace.root) in lines[name]:
            return f"a path is told: {lines[name]}"
    laid = datasets.workspace.folder("cache", "laid out", dataset_id)
    called = datasets.lay_out(dataset_id, laid)
    odd = [name for name in called if not re.fullmatch(r"\d+\.\w+", name)]
    for path in laid.iterdir():
        path.unlink()
    return f"laid out as {odd}" if odd or list(called.values()) != list(there) else None


def _short(value: Any) -> str:
    return repr(value)[:300]


# ── Ten thousand


def many(task: Task, tally: Tally) -> None:
    """Drop very many pictures at once, then some of them again, one, and none."""
    from pytest import MonkeyPatch

    from studio.datasets import Datasets
    from studio.workspace import Workspace

    folder = task.folder / "dropped"
    folder.mkdir()
    files = []
    for number in range(task.count):
        path = folder / f"{number:05d}"
        path.write_bytes(_numbered(number))
        files.append((path, f"picture {number}.png"))
    datasets = Datasets(Workspace.open(task.folder / "workspace", own=False))
    with MonkeyPatch.context() as patch, _one_decoder(datasets, patch):
        made, began = datasets.new(), time.monotonic()
        taken = datasets.take(made.id, files)
        seconds = time.monotonic() - began
        names = {item.name for item in datasets.get(made.id).items}
        refused = {one.name: one.reason for one in taken.refused}
        for _, name in files:
            tally.happened(name, None if name in names else refused.get(name, "is lost"))
        tally.measured("pictures", task.count)
        tally.measured("seconds", seconds, most=SECONDS_PER_FILE * task.count, held=task.whole)
        again = datasets.take(made.id, files[: task.count // 10 + 1])
        said = [one for one in again.refused if "is there already; once is enough" in one.reason]
        tally.measured("taken twice", again.added + len(again.refused) - len(said), most=0)
        twins = [(files[0][0], "a.png"), (files[0][0], "b.png")]
        tally.measured("twins taken", datasets.take(datasets.new().id, twins).added, most=1)
        nothing = datasets.take(datasets.new().id, [])
        tally.measured("taken of nothing", nothing.added + len(nothing.refused), most=0)
        one = datasets.take(datasets.new().id, files[-1:])
        tally.measured("lost of one", 1 - one.added, most=0)


def _numbered(number: int) -> bytes:
    """A small picture that has its number in its pixels."""
    digits = number.to_bytes(3)
    return png((8, 8), 8, 2, (b"\0" + digits * 8) * 8, chunk(b"tEXt", b"n\0" + str(number).encode()))


# ── Safeguards, taken away


def _names_as_they_are(patch: MonkeyPatch) -> None:
    patch.setattr("studio.ingest.one_name", lambda name: name)


def _any_ratio(patch: MonkeyPatch) -> None:
    patch.setattr("studio.archives.RATIO", 1 << 40)


def _any_count(patch: MonkeyPatch) -> None:
    patch.setattr("studio.archives.MEMBERS", 1 << 30)


def _captions_without_end(patch: MonkeyPatch) -> None:
    patch.setattr("trainers.captions.MAX_CAPTION_BYTES", 1 << 40)
    patch.setattr("studio.datasets.NAME_LENGTH", 1 << 40)


def _links_are_files(patch: MonkeyPatch) -> None:
    patch.setattr("studio.archives.stat.S_ISLNK", lambda mode: False)


def _lost_on_the_way(patch: MonkeyPatch) -> None:
    from studio.ingest import Ingest

    take: Any = Ingest._one
    calls: list[None] = []

    def now_and_then(self: Ingest, *given: Any) -> Any:
        calls.append(None)
        return None if len(calls) % 97 == 50 else take(self, *given)

    patch.setattr("studio.ingest.Ingest._one", now_and_then)


PARCEL_PLANTS: dict[str, Plant] = {
    "names as they are": _names_as_they_are, "any ratio unpacked": _any_ratio,
    "any number unpacked": _any_count,
    "captions without end": _captions_without_end, "links unpacked": _links_are_files,
}  # fmt: skip
MANY_PLANTS: dict[str, Plant] = {"lost on the way": _lost_on_the_way}
