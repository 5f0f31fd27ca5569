"""Bit rot: one bit of a library's adapter turns, and whoever uses it says so instead of drawing with it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.model_files_seeds import MODEL, Seed, seeds, tiny_base
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

    from studio.library import Entry, Library
    from studio.workspace import Workspace

ENOUGH = 5  # failures, after which no more is tried
SAYS = ("has changed since", "is damaged", "isn't a safetensors file", "can't be read", "is cut off")


@dataclass(frozen=True)
class Worn:
    """A library with two adapters, of which the first isn't as it was."""

    workspace: Workspace
    library: Library
    entry: Entry
    other: Entry


def run(task: Task, tally: Tally) -> None:
    """Turn a bit of a file's numbers, and use the adapter in every way there is."""
    from studio.library import Library
    from studio.workspace import Workspace

    workspace = Workspace.open(task.folder / "workspace", own=False)
    library = Library(workspace)
    chance = random.Random(task.seed)
    sound = [one for one in seeds() if one.main == MODEL and not one.name.endswith("words")]
    other = _added(library, sound[0], task.folder)
    for number in range(task.count):
        use = list(USES)[number % len(USES)]
        seed = chance.choice(sound[1:])
        entry = _added(library, seed, task.folder)
        place = _turned(entry.path, chance)
        worn = Worn(workspace, library, entry, other)
        tally.happened(f"{seed.name}, bit {place}, {use}", _used(USES[use], worn))
        library.trash(entry.id)
        library.empty_trash()
        if len(tally.failures) >= ENOUGH:
            break
    tally.measured("ways of use", min(len(USES), task.count))


def _added(library: Library, seed: Seed, folder: Path) -> Entry:
    (folder / "sound.safetensors").write_bytes(seed.files[MODEL])
    return library.add(folder / "sound.safetensors", name=seed.name)[0]


def _turned(path: Path, chance: random.Random) -> int:
    """Turn one bit of a file's numbers; returns which."""
    from pipelines.formats.container import read_header

    begin = read_header(path).data_start
    raw = bytearray(path.read_bytes())
    at, bit = chance.randrange(begin, len(raw)), chance.randrange(8)
    raw[at] ^= 1 << bit
    path.write_bytes(raw)
    return at * 8 + bit


def _used(use: Callable[[Worn], object], worn: Worn) -> str | None:
    """What was wrong with how a worn adapter was used."""
    from pipelines.errors import StudioError

    try:
        use(worn)
    except StudioError as refusal:
        said = str(refusal)
        if "\n" in said or len(said) > 400:
            return f"a refusal of several lines: {said[:200]!r}"
        return None if any(words in said for words in SAYS) else f"it says {said[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "it was used"


class _Held:
    """Stands in for the process that draws, with the random base."""

    def __init__(self, worn: Worn) -> None:
        self.workspace = worn.workspace


def _mounted(worn: Worn) -> None:
    """As the process that draws mounts what a mix names."""
    from pipelines.mixer import Mixer
    from studio.making.held import Held

    with Mixer(tiny_base()) as mixer:
        held: Any = _Held(worn)
        Held.attach(held, mixer, [worn.other.id, worn.entry.id])


def _blocks(worn: Worn) -> None:
    """As the page asks which blocks an adapter reaches."""
    from studio.making.advice import blocks

    held: Any = _Held(worn)
    blocks(held, [worn.entry.id])


def _compared(worn: Worn) -> None:
    """As the page asks what two adapters do to each other."""
    from studio.making.advice import _two
    from studio.mixing import MixPart

    held: Any = _Held(worn)
    _two(held, [MixPart(id=worn.entry.id), MixPart(id=worn.other.id)])


def _job(worn: Worn, kind: str, config: dict[str, Any]) -> Any:
    from studio.jobs import Jobs

    jobs = Jobs(worn.workspace)
    return jobs.get(jobs.submit(kind, kind, config).id)


def _exported(worn: Worn) -> None:
    from studio.exporting import ExportRequest
    from studio.work.exporting import run as export

    request = ExportRequest(adapter=worn.entry.id, format="pigment")
    export(worn.workspace, _job(worn, "export", request.model_dump(mode="json")), threading.Event())


def _merged(worn: Worn) -> None:
    from studio.reworking import MergeRequest
    from studio.work.reworking import merge

    parts = [{"id": worn.other.id, "weight": 1.0}, {"id": worn.entry.id, "weight": 1.0}]
    request = MergeRequest.model_validate({"parts": parts})
    merge(worn.workspace, _job(worn, "merge", request.model_dump(mode="json")), threading.Event())


def _named(worn: Worn) -> None:
    """As a command names it: `pigment generate --adapter NAME` and all others."""
    import argparse

    from studio.commands.arguments import adapter_file

    adapter_file(worn.entry.name, argparse.Namespace(workspace=str(worn.workspace.root)))


def _sent(worn: Worn) -> None:
    """As the page hands it out."""
    from types import SimpleNamespace

    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from pipelines.errors import StudioError
    from studio.jobs import Jobs
    from studio.routes.files import add

    app, jobs = FastAPI(), Jobs(worn.workspace)
    context: Any = SimpleNamespace(workspace=worn.workspace, jobs=jobs, library=worn.library)
    add(app, context)
    answer = TestClient(app).get(f"/files/adapter/{worn.entry.id}")
    if answer.status_code == 409:
        raise StudioError(answer.json()["detail"])


def _amended(worn: Worn) -> None:
    """As somebody changes what its file says."""
    from studio.amending import amend

    amend(worn.library, worn.entry.id, {"author": "Ada"})


def _listed(worn: Worn) -> None:
    """As `pigment library check` goes through all of them."""
    from studio.amending import check

    for entry in worn.library.entries():
        check(entry)


USES: dict[str, Callable[[Worn], object]] = {
    "mounted": _mounted, "asked for its blocks": _blocks, "compared": _compared, "exported": _exported,
    "merged": _merged, "named by a command": _named, "checked": _listed,
    "handed out": _sent, "given an author": _amended,
}  # fmt: skip


def _unread(patch: MonkeyPatch) -> None:
    """The index's hash isn't compared with the file's."""
    patch.setattr("studio.amending.check", lambda entry: None)


PLANTS = {"the index's hash isn't looked at": _unread}
