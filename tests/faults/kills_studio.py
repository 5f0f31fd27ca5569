"""What the studio does and a kill may end: teaching, class pictures, imports, exports, drops of pictures."""

from __future__ import annotations

import json
import os
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.ground import ground
from tests.faults.kills_ways import Way

if TYPE_CHECKING:
    from studio.context import Context
    from studio.work.job import Job
    from studio.workspace import Workspace

Told = Callable[[], None]


@cache
def adapter_files() -> Path:
    """A folder of what people drop on the library: `disc`, with sidecar and picture; `zip`, of two forms."""
    folder = ground() / "adapters"
    folder.mkdir()
    from pipelines.base import load_base
    from pipelines.formats import write_adapter
    from tests.tiny import random_adapter

    base = load_base(ground() / "base", device="cpu")
    for seed, name in enumerate(("disc", "second")):
        write_adapter(random_adapter(base, seed=seed, name=name), folder / f"{name}.safetensors")
    write_adapter(random_adapter(base, seed=5, name="folded"), folder / "folded", format="peft")
    (folder / "disc.json").write_text(json.dumps({"activation text": "zib", "description": "a disc"}))
    shutil.copy(ground() / "pictures" / "00.png", folder / "disc.png")
    with zipfile.ZipFile(folder / "zip.zip", "w") as archive:
        archive.write(folder / "second.safetensors", "a/second.safetensors")
        for path in (one for one in sorted((folder / "folded").rglob("*")) if one.is_file()):
            archive.write(path, f"folded/{path.relative_to(folder / 'folded').as_posix()}")
    return folder


def context_of(workspace: Workspace, base: str = "") -> Context:
    """The studio behind the page; nothing runs in it."""
    from studio.context import Context
    from studio.runner import Runner

    return Context(workspace, Runner(workspace, warm=False), base or str(ground() / "base"))


def worked_off(workspace: Workspace, title: str, submit: Callable[[], Job]) -> None:
    """Submit a job, unless one of that title is there; do it to its end, again where it was interrupted."""
    import psutil  # type: ignore[import-untyped]

    from studio import worker
    from studio.jobs import Jobs

    jobs = Jobs(workspace)
    there = [job for job in jobs.find() if job.title == title]
    job = there[0] if there else submit()
    if job.state == "interrupted":
        job = jobs.retry(job.id)
    if job.state == "queued":
        assert jobs.claim(job.id, os.getpid(), psutil.Process().create_time())
        worker.run(workspace, job.id, threading.Event())
        job = jobs.get(job.id)
    assert job.state == "done", f"{title} is {job.state}: {job.error}"


def _nothing(workspace: Workspace) -> None:
    """A new workspace will do."""


# ── Teaching, and class pictures


def _training(workspace: Workspace, base: str, **run: Any) -> dict[str, Any]:
    return {
        "data": {
            "instance_images": str(ground() / "pictures"), "trigger": "zuv", "prior_weight": 1.0,
            "instance_prompt": "a photo of a zuv disc", "class_prompt": "a disc", "num_class_images": 2,
            "held_out": 1,
        },
        "adapter": {"rank": 2},
        "evidence": {"samples": 0},
        "run": {
            "base": base, "cache": str(workspace.folder("cache")), "steps": 2, "batch_size": 1, "threads": 1,
            "checkpoint_every": 1, "evaluate_every": 1, "preview_every": 2, "preview_steps": 2,
            "preview_prompts": ["a zuv disc"], **run,
        },
    }  # fmt: skip


def teach(base: Callable[[], str], **run: Any) -> Way:
    """A training through the worker, with previews, evidence, and its adapter in the library."""

    def do(workspace: Workspace, told: Told) -> None:
        from studio.jobs import Jobs
        from studio.workspace import new_id

        def submit() -> Job:
            job_id = new_id()
            config = _training(workspace, base(), output=str(workspace.folder("runs", job_id)), **run)
            return Jobs(workspace).submit("train", "Zuv", config, id=job_id)

        worked_off(workspace, "Zuv", submit)
        told()

    return Way(ground, _nothing, do)


def _class_pictures(workspace: Workspace, told: Told) -> None:
    from studio.jobs import Jobs

    config = _training(workspace, str(ground() / "base"), output=str(workspace.folder("runs", "none")))
    config["data"]["num_class_images"] = 20
    worked_off(workspace, "Class", lambda: Jobs(workspace).submit("class_pictures", "Class", config))
    told()


CLASS_PICTURES = Way(ground, _nothing, _class_pictures)


# ── The library


def _import(workspace: Workspace, told: Told) -> None:
    from studio.importing import start

    files, context = adapter_files(), context_of(workspace)
    drops = {"3 files": ("disc.safetensors", "disc.json", "disc.png"), "zip.zip": ("zip.zip",)}
    for title, names in drops.items():
        worked_off(workspace, title, partial(start, context, [(files / name, name) for name in names]))
        told()


def _one_adapter(workspace: Workspace) -> None:
    from studio.covers import set_cover
    from studio.library import Library

    library, files = Library(workspace), adapter_files()
    entry, _ = library.add(files / "disc.safetensors", name="Disc")
    set_cover(library, entry.id, files / "disc.png")


def _export(workspace: Workspace, told: Told) -> None:
    from studio.exporting import ExportRequest, checked
    from studio.jobs import Jobs
    from studio.library import Library

    [entry] = Library(workspace).entries()
    for form in ("kohya", "peft", "diffusers"):
        request = checked(ExportRequest(adapter=entry.id, format=form, picture=False), entry)
        config = request.model_dump(mode="json") | {"base": str(ground() / "base")}
        worked_off(workspace, form, partial(Jobs(workspace).submit, "export", form, config))
        told()


def _shelf(workspace: Workspace, told: Told) -> None:
    """What people do with an adapter: another cover, another trigger, into the trash and out of it."""
    from studio.amending import amend
    from studio.covers import set_cover
    from studio.library import Library

    library, pictures = Library(workspace), ground() / "pictures"
    [entry] = [*library.entries(), *library.entries(trashed=True)]
    if entry.name == "Disc":
        set_cover(library, entry.id, pictures / "01.png")
        told()
        amend(library, entry.id, {"triggers": "zob", "description": "another disc"})
        told()
        library.tag(entry.id, ["round"])
        told()
        library.note(entry.id, "Use at 0.7")
        told()
        library.trash(entry.id)
        told()
        library.restore(entry.id)
        told()
        library.rename(entry.id, "Dots")
        told()


IMPORT = Way(adapter_files, _nothing, _import)
EXPORT = Way(adapter_files, _one_adapter, _export)
SHELF = Way(adapter_files, _one_adapter, _shelf)


# ── Pictures


class _Here:
    """The decoder without a process of its own."""

    def ask(self, path: Path, preview: Path | None) -> dict[str, Any]:
        from studio.decoding import answer

        return answer({"path": str(path), "preview": None if preview is None else str(preview)})


@contextmanager
def _deciding_here(workspace: Workspace, seconds: float = 0.0) -> Iterator[_Here]:
    yield _Here()


@cache
def dropped_pictures() -> Path:
    """A folder of what people drop on a set: pictures, a caption, a mask, and a zip of two with captions."""
    from PIL import Image

    folder = Path(shutil.copytree(ground() / "pictures", ground() / "dropped"))
    (folder / "00.txt").write_text("a white disc")
    Image.new("L", (24, 24), 255).save(folder / "01.mask.png")
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        for number, colour in enumerate(("pink", "lime")):
            Image.new("RGB", (20, 20), colour).save(folder / f"{colour}.webp")
            archive.write(folder / f"{colour}.webp", f"{colour}.webp")
            archive.writestr(f"{colour}.txt", f"only {colour} {number}")
    return folder


def _drop(workspace: Workspace, told: Told, *, apart: bool) -> None:
    """Drop pictures and a zip on a set, and make one of an example. apart: decoded in their own process."""
    from studio import ingest
    from studio.datasets import Datasets
    from studio.examples import example_sets

    datasets, folder = Datasets(workspace), dropped_pictures()
    if not apart:
        setattr(ingest, "decoder", _deciding_here)  # noqa: B010 (this process is a fork)
    found = [one for one in datasets.recent() if one.name == "Discs"]
    dataset = found[0] if found else datasets.new("Discs")
    told()
    for names in (["00.png", "00.txt", "01.png", "01.mask.png", "02.png"], ["more.zip"]):
        datasets.take(dataset.id, [(folder / name, name) for name in names])
        told()
    datasets.caption(dataset.id, datasets.get(dataset.id).items[2].sha256, "the third")
    told()
    datasets.settings(dataset.id, {"kind": "subject"})
    told()
    if not any("example" in one.settings for one in datasets.recent()):
        datasets.from_example(example_sets()[0].id)
    told()


DROP = Way(dropped_pictures, _nothing, partial(_drop, apart=False))
DROP_APART = Way(dropped_pictures, _nothing, partial(_drop, apart=True))
