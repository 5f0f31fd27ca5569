"""What people do in the studio, and what it tells them is done: adapters, pictures, jobs, exports."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.ground import ground
from tests.faults.power_cut_calls import watching
from tests.faults.power_cut_promises import Promises, replay
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

    from studio.context import Context
    from studio.entries import Entry
    from studio.workspace import Workspace

Looked = Callable[["Workspace"], str | None]


@cache
def adapter_files() -> tuple[Path, ...]:
    """Three adapters for the tiny base."""
    from pipelines.base import load_base
    from pipelines.formats import write_adapter
    from tests.tiny import random_adapter

    base, paths = load_base(str(ground() / "base"), device="cpu"), []
    for seed in range(3):
        paths.append(ground() / f"adapter-{seed}.safetensors")
        write_adapter(random_adapter(base, seed=seed, name=f"disc {seed}"), paths[-1])
    return tuple(paths)


@contextmanager
def opened(left: Path) -> Iterator[Workspace]:
    """Open what a cut has left of a workspace, as the studio does."""
    from studio.jobs import Jobs
    from studio.work import keeping
    from studio.workspace import Workspace

    workspace = Workspace.open(left / "workspace")
    try:
        keeping.sweep(workspace)
        Jobs(workspace).recover()
        with workspace.read() as db:  # one connection that stays, as the server has it
            db.execute("SELECT count(*) FROM jobs").fetchone()
            yield workspace
    finally:
        workspace.close()


def whole(workspace: Workspace) -> str | None:
    """Whether all that the studio shows is whole, whenever the power went."""
    from studio.amending import check
    from studio.datasets import Datasets
    from studio.exporting import exported
    from studio.jobs import Jobs
    from studio.library import Library

    for entry in Library(workspace).entries():
        check(entry)
    for one in Datasets(workspace).recent():
        for item in Datasets(workspace).get(one.id).items:
            picture = Datasets(workspace).pictures.get(item.sha256)
            if hashlib.sha256(picture.path.read_bytes()).hexdigest() != item.sha256:
                return f"picture {item.name} has changed"
    for job in Jobs(workspace).find():
        if (path := exported(workspace, job)) is not None and (problem := _whole_file(path)):
            return problem
    return None


def _whole_file(path: Path) -> str | None:
    from pipelines.formats import read_adapter

    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    read_adapter(path)
    return None


@dataclass(eq=False)
class Acts:
    """One person's afternoon, watched. Each act tells what it was told."""

    context: Context
    promises: Promises

    def promise(self, about: str, look: Looked) -> None:
        """The studio has said that something is done."""
        self.promises.give(about, look)

    def adapter(self) -> None:
        """Take an adapter in, name what it is, change what its file says; another goes and comes back."""
        from studio import covers
        from studio.amending import amend, check
        from studio.library import Library

        library = self.context.library
        entry, _ = library.add(adapter_files()[0], name="one")

        def there(**wanted: Any) -> Looked:
            def look(workspace: Workspace) -> str | None:
                found = Library(workspace).get(entry.id)
                check(found)
                said = {name: getattr(found, name) for name in wanted}
                return None if said == wanted else f"{said}, {wanted} was told"

            return look

        self.promise("the adapter", there(name="one"))
        self.promises.give("its tags", None)
        library.tag(entry.id, ["red"])
        self.promise("its tags", there(tags=("red",)))
        cover = covers.set_cover(library, entry.id, ground() / "pictures" / "00.png")

        def shown(workspace: Workspace) -> str | None:
            from PIL import Image

            found = covers.address_file(workspace, str(Library(workspace).get(entry.id).cover))
            if found is None:
                return "there is none"
            Image.open(found).load()
            return None if cover else "none was told"

        self.promise("its cover", shown)
        self.promises.give("the adapter", None)
        amend(library, entry.id, {"description": "a disc"})
        self.promise("the adapter", there(sha256=library.get(entry.id).sha256))
        self._trash(library.add(adapter_files()[1], name="two")[0])

    def _trash(self, other: Entry) -> None:
        from studio.library import Library

        library = self.context.library
        library.trash(other.id)

        def trashed(workspace: Workspace) -> str | None:
            Library(workspace).restore(other.id)
            return None if Library(workspace).find("two") else "it doesn't come back"

        self.promise("the trash", trashed)
        self.promises.give("the trash", None)
        library.empty_trash()

    def pictures(self) -> None:
        """Drop pictures on a new set, say what one shows, and teach with it."""
        from studio.datasets import Datasets
        from studio.jobs import Jobs
        from studio.teaching import Lesson, start

        datasets = Datasets(self.context.workspace)
        made = datasets.new("discs")
        files = sorted((ground() / "pictures").iterdir())
        taken = datasets.take(made.id, [(path, path.name) for path in files])
        assert taken.added == len(files), taken
        self.promise("the pictures", lambda workspace: _short(Datasets(workspace).get(made.id).items, 5))
        datasets.caption(made.id, datasets.get(made.id).items[0].sha256, "a white disc")
        job = start(self.context, Lesson(dataset=made.id, trigger="zuv", class_name="disc"))
        folder = self.context.workspace.folder("pictures", job.id)
        laid = {path.name: path.read_bytes() for path in folder.iterdir()}

        def queued(workspace: Workspace) -> str | None:
            state = Jobs(workspace).get(job.id).state
            there = workspace.folder("pictures", job.id)
            found = {path.name: path.read_bytes() for path in there.iterdir()} if there.is_dir() else {}
            if found != laid:
                return f"{len(found)} of {len(laid)} files of what is to be learned are there"
            return None if state == "queued" else f"it is {state}"

        self.promise("the queued training", queued)

    def done(self, kind: str, title: str, config: dict[str, Any]) -> str:
        """Do a job to its end, as its process would; returns its id."""
        from studio import worker

        jobs = self.context.jobs
        job = jobs.submit(kind, title, config)
        self._work(job.id, worker.run)
        return job.id

    def _work(self, job_id: str, run: Callable[..., int]) -> None:
        import psutil  # type: ignore[import-untyped]

        jobs = self.context.jobs
        assert jobs.claim(job_id, os.getpid(), psutil.Process().create_time())
        run(self.context.workspace, job_id, threading.Event())
        assert jobs.get(job_id).state == "done", jobs.get(job_id).error

    def exports(self) -> None:
        """Export an adapter as a file and as PEFT's folder; remove that job, and bring it back."""
        from studio.exporting import exported
        from studio.jobs import Jobs

        entry = self.context.library.entries()[0]
        for form in ("kohya", "peft"):
            config = {"adapter": entry.id, "format": form, "picture": False}
            job_id = self.done("export", entry.name, config)

            def there(workspace: Workspace, job_id: str = job_id) -> str | None:
                path = exported(workspace, Jobs(workspace).get(job_id))
                return "its file is gone" if path is None else _whole_file(path)

            self.promise(f"the export as {form}", there)
        jobs = self.context.jobs
        for about in ("the export as peft", "the removed job"):
            self.promises.give(about, None)
        jobs.remove(job_id)

        def removed(workspace: Workspace) -> str | None:
            Jobs(workspace).restore(job_id)
            return None if Jobs(workspace).get(job_id).state == "done" else "it comes back as another"

        self.promise("the removed job", removed)
        self.promises.give("the removed job", None)
        jobs.restore(job_id)
        self.promise("the removed job", lambda workspace: None if Jobs(workspace).get(job_id) else "gone")

    def imports(self) -> None:
        """Drop an adapter on the library."""
        from studio import worker
        from studio.amending import check
        from studio.importing import folder_of, staged, start
        from studio.jobs import Jobs
        from studio.library import Library

        content = adapter_files()[2].read_bytes()
        job = start(self.context, [(adapter_files()[2], "three.safetensors")])

        def kept(workspace: Workspace) -> str | None:
            found = Jobs(workspace).get(job.id)
            [(path, _)] = staged(folder_of(workspace, found), found.config["names"])
            return None if path.read_bytes() == content else "another file is kept"

        self.promise("the dropped adapter", kept)
        self.promises.give("the dropped adapter", None)
        self._work(job.id, worker.run)
        [taken] = self.context.jobs.get(job.id).result["adapters"]
        self.promise("the dropped adapter", lambda workspace: check(Library(workspace).get(taken)))


def _short(items: tuple[Any, ...], wanted: int) -> str | None:
    return None if len(items) == wanted else f"{len(items)} of {wanted} are there"


def run(task: Task, tally: Tally) -> None:
    """Do everything once, watched, then cut the power again and again."""
    from studio.context import Context
    from studio.runner import Runner
    from studio.workspace import Workspace

    adapter_files()
    root = task.folder / "disk"
    root.mkdir()
    with watching(root) as disk:
        promises = Promises(disk, whole, opened)
        workspace = Workspace.open(root / "workspace")
        base = str(ground() / "base")
        acts = Acts(Context(workspace, Runner(workspace, base=base), base), promises)
        acts.promise("the workspace", lambda workspace: None)
        for act in (acts.adapter, acts.pictures, acts.exports, acts.imports):
            act()
        workspace.close()
    replay(task, tally, disk, promises)


def no_sync_of_files(patch: MonkeyPatch) -> None:
    """A file is renamed before its contents are on the disk."""
    from pipelines import files
    from studio import entries, pictures

    def write(path: Path, chunks: Any) -> str:
        content = b"".join(chunks)
        path.write_bytes(content)
        files.sync_folder(path.parent)
        return hashlib.sha256(content).hexdigest()

    for module in (entries, pictures):
        patch.setattr(module, "write_atomic", write)


def no_sync_of_folders(patch: MonkeyPatch) -> None:
    """Names are believed to last by themselves."""
    from pipelines import files

    patch.setattr(files, "sync_folder", lambda folder: None)


def no_sync_of_the_index(patch: MonkeyPatch) -> None:
    """SQLite isn't asked to sync."""
    from studio.workspace import Workspace

    real = Workspace.read

    @contextmanager
    def read(self: Workspace) -> Any:
        with real(self) as db:
            yield _Unsynced(db)

    patch.setattr(Workspace, "read", read)


class _Unsynced:
    """A connection on which `PRAGMA synchronous` is OFF whatever it is told."""

    def __init__(self, db: Any) -> None:
        self._db = db
        db.execute("PRAGMA synchronous = OFF")

    def execute(self, sql: str, *arguments: Any) -> Any:
        if "synchronous = FULL" in sql:
            return None
        return self._db.execute(sql, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


PLANTS = {
    "no fsync of files": no_sync_of_files,
    "no fsync of folders": no_sync_of_folders,
    "no fsync of the index": no_sync_of_the_index,
}
