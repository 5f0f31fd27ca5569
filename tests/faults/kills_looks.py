"""What a workspace shows, whether all that is listed is whole, and what lies about in it.

Shown is by what people call it, without ids and times: so two workspaces can be compared.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.workspace import Workspace

Shown = dict[str, str]
"""What a workspace shows: the value of each thing, by what it is called."""
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{10}(\.[0-9a-f]{8}(?=\.safetensors))?")
_MADE_BY_EACH = re.compile(r"-(wal|shm)$|\.lock$|^cache/(pictures|hashes)\.json$")
"""Of these there is one, now or later: what is known of pictures and bases is kept once they are older."""


def shape(root: Path) -> Counter[str]:
    """How many files there are of each kind, by path without ids."""
    found: Counter[str] = Counter()
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not _MADE_BY_EACH.search(name):
            found[_ID.sub("ID", name)] += 1
    return found


def amiss(workspace: Workspace) -> str | None:
    """The first thing that is listed and isn't whole."""
    return next((said for look in _LOOKS for said in look(workspace)), None)


def _adapters(workspace: Workspace) -> Iterator[str]:
    from pipelines.files import file_sha256
    from pipelines.formats import inspect_adapter
    from studio.covers import cover_file
    from studio.library import Library

    with workspace.read() as db:
        listed = db.execute("SELECT count(*) FROM adapters").fetchone()[0]
    entries = [entry for trashed in (False, True) for entry in Library(workspace).entries(trashed=trashed)]
    if listed != len(entries):
        yield f"{listed - len(entries)} adapters are listed without a file"
    for entry in entries:
        inspect_adapter(entry.path)
        if file_sha256(entry.path) != entry.sha256:
            yield f"adapter {entry.name!r} is another file than the one that is listed"
        if entry.cover and cover_file(workspace, entry) is None:
            yield f"adapter {entry.name!r} has lost its cover"


def _pictures(workspace: Workspace) -> Iterator[str]:
    from PIL import Image

    from pipelines.files import file_sha256

    with workspace.read() as db:
        for row in db.execute("SELECT sha256, file, name FROM pictures").fetchall():
            path = workspace.folder("pictures", row["file"])
            if not path.is_file() or file_sha256(path) != row["sha256"]:
                yield f"picture {row['name']!r} is listed, and its file isn't whole"
        query = "SELECT dataset_pictures.name FROM dataset_pictures LEFT JOIN pictures USING (sha256)"
        for row in db.execute(f"{query} WHERE pictures.sha256 IS NULL").fetchall():
            yield f"picture {row['name']!r} of a set isn't known"
        for row in db.execute("SELECT file FROM images").fetchall():
            try:
                with Image.open(workspace.root / row["file"]) as opened:
                    opened.load()
            except OSError as error:
                yield f"drawn picture {row['file']} is listed, and isn't whole ({error})"


def _examples(workspace: Workspace) -> Iterator[str]:
    """Sets made of an example, in which nobody has changed anything."""
    from studio.datasets import Datasets
    from studio.examples import example_sets

    whole, datasets = {one.id: len(one.pictures) for one in example_sets()}, Datasets(workspace)
    for one in datasets.recent():
        expected = whole.get(one.settings.get("example", ""))
        if expected is not None and (there := len(datasets.get(one.id).items)) != expected:
            yield f"the set of example {one.name!r} has {there} of {expected} pictures"


def _jobs(workspace: Workspace) -> Iterator[str]:
    from studio.exporting import exported
    from studio.jobs import Jobs

    for job in Jobs(workspace).find():
        if job.state == "running":
            yield f"job {job.title!r} runs, and nothing runs"
        if job.kind == "export" and job.state == "done" and exported(workspace, job) is None:
            yield f"export {job.title!r} is done, and its file is gone"
        if job.kind == "train" and job.state != "queued" and not Jobs(workspace).folder(job).is_dir():
            yield f"the folder of job {job.title!r} is gone"


_LOOKS: tuple[Callable[[Workspace], Iterator[str]], ...] = (_adapters, _pictures, _examples, _jobs)


def shown(workspace: Workspace) -> Shown:
    """All that is there and done, by what people call it."""
    from pipelines.files import file_sha256
    from studio.covers import cover_file
    from studio.datasets import Datasets
    from studio.exporting import exported
    from studio.jobs import Jobs
    from studio.library import Library

    found: Shown = {}
    for trashed in (False, True):
        for entry in Library(workspace).entries(trashed=trashed):
            cover = cover_file(workspace, entry) if entry.cover else None
            said = [entry.sha256, *entry.tags, entry.notes, *entry.triggers, trashed]
            said.append("no cover" if cover is None else file_sha256(cover))
            found[f"adapter {entry.name}"] = json.dumps(said)
    for one in Datasets(workspace).recent():
        found[f"set {one.name}"] = json.dumps(one.settings, sort_keys=True)
        for item in Datasets(workspace).get(one.id).items:
            found[f"set {one.name}/{item.name}"] = json.dumps([item.sha256, item.caption, item.mask])
    for job in Jobs(workspace).find(states=("done",)):
        path = exported(workspace, job)
        said = [job.kind, *([] if path is None else [_content(path)])]
        found[f"job {job.title}"] = json.dumps(said)
    return found


def _content(path: Path) -> str:
    """What a file that is downloaded holds: of a zip its members, since it also has the time."""
    import zipfile

    from pipelines.files import file_sha256

    if path.suffix != ".zip":
        return file_sha256(path)
    with zipfile.ZipFile(path) as archive:
        return " ".join(f"{_ID.sub('ID', one.filename)} {one.CRC}" for one in archive.infolist())


def orphans(root: Path, seconds: float = 10.0) -> str | None:
    """A process that a killed one had started and that goes on: it writes its log into the workspace."""
    begun = time.monotonic()
    while (left := _writing_below(root)) and time.monotonic() - begun < seconds:
        time.sleep(0.1)
    return f"process {left[0]} goes on without the one that was killed" if left else None


def _writing_below(root: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "fd" / "2").readlink().is_relative_to(root):
                found.append(int(process.name))
        except OSError:
            continue
    return found
