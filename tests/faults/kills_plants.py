"""Safeguards against kills, each taken away by patching our code."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest import MonkeyPatch

    from studio.workspace import Workspace

Plants = dict[str, Callable[["MonkeyPatch"], None]]

# ── Of trainings


def _forget(part: str) -> Callable[[MonkeyPatch], None]:
    def plant(patch: MonkeyPatch) -> None:
        from trainers.batches import Stream

        whole = Stream.load

        def load(self: Stream, state: Mapping[str, Any]) -> None:
            whole(self, {**state, part: self.state()[part]})

        patch.setattr(Stream, "load", load)

    return plant


def _forget_optimizer(patch: MonkeyPatch) -> None:
    from trainers import state

    patch.setattr(state, "restore_optimizer_state", lambda *_: None)


def _in_place(patch: MonkeyPatch) -> None:
    """A checkpoint is written under its own name from the beginning."""
    from trainers import checkpoint

    rename, mkdir = Path.rename, Path.mkdir

    def made(self: Path, *more: Any, **named: Any) -> None:
        mkdir(_own(self), *more, **named)

    def renamed(self: Path, target: Path) -> Path:
        return target if _own(self) == target else rename(self, target)

    def _own(path: Path) -> Path:
        begin, _, rest = path.name.partition(checkpoint._TEMPORARY)
        return path.with_name(f"step-{rest[:6]}") if not begin and rest[:6].isdecimal() else path

    write, sync = checkpoint._write_synced, checkpoint.sync_folder
    patch.setattr(Path, "mkdir", made)
    patch.setattr(Path, "rename", renamed)
    patch.setattr(checkpoint, "_write_synced", lambda path, data: write(_own(path.parent) / path.name, data))
    patch.setattr(checkpoint, "sync_folder", lambda folder: sync(_own(folder)))


def _pruned_first(patch: MonkeyPatch) -> None:
    """Older checkpoints go before the new one is there."""
    from trainers import checkpoint

    commit = checkpoint.commit

    def pruned(folder: Path, *more: Any, **named: Any) -> Path:
        for path in folder.glob("step-*") if folder.is_dir() else ():
            shutil.rmtree(path)
        return commit(folder, *more, **named)

    patch.setattr(checkpoint, "commit", pruned)


def _kept_temporaries(patch: MonkeyPatch) -> None:
    """What a killed run was writing stays for ever."""
    from trainers import run_folder

    patch.setattr(run_folder, "sweep_temporaries", lambda folder: None)


PLANTS: Plants = {
    "written in place": _in_place,
    "pruned first": _pruned_first,
    "without the generators": _forget("generator"),
    "without the order": _forget("position"),
    "without the optimizer": _forget_optimizer,
}
CALL_PLANTS: Plants = {
    "written in place": _in_place,
    "pruned first": _pruned_first,
    "temporary files stay": _kept_temporaries,
}


# ── Of the studio


def _nobody_recovers(patch: MonkeyPatch) -> None:
    """What died while it ran stays "running"."""
    from studio.jobs import Jobs

    patch.setattr(Jobs, "recover", lambda self, **more: [])


def _nobody_sweeps(patch: MonkeyPatch) -> None:
    """What a killed process left stays for ever."""
    from studio.work import keeping

    patch.setattr(keeping, "sweep", lambda workspace: None)


def _listed_first(patch: MonkeyPatch) -> None:
    """Pictures and adapters are listed before their file is there."""
    from pipelines.files import file_sha256
    from pipelines.formats import inspect_adapter
    from studio import library
    from studio.pictures import Picture, Pictures
    from studio.workspace import Workspace

    copy, copied = library.copy_file, Pictures.copy

    def listed(source: Path, target: Path) -> str:
        if target.parent.name != "adapters":
            return copy(source, target)
        there = library.Library(Workspace(root=target.parent.parent, lock=None))
        row = {"file": f"workspace:adapters/{target.name}", "sha256": file_sha256(source)}
        there._insert(target.stem, source.stem, inspect_adapter(source), origin="imported", **row)
        return copy(source, target)

    def entered(self: Pictures, source: Path, found: dict[str, Any], name: str) -> Picture:
        path = self.workspace.folder("pictures", found["sha256"] + found["suffix"])
        about = {key: found[key] for key in ("sha256", "width", "height", "bytes")}
        self.enter([Picture(path=path, name=name, notes=tuple(found["notes"]), created=0.0, **about)])
        return copied(self, source, found, name)

    patch.setattr(library, "copy_file", listed)
    patch.setattr(Pictures, "copy", entered)


def _old_cover_first(patch: MonkeyPatch) -> None:
    """An adapter's older cover goes before the index has the new one."""
    from studio import covers

    keep = covers.keep_copy

    def kept(workspace: Workspace, adapter_id: str, source: Path | bytes) -> str:
        address = keep(workspace, adapter_id, source)
        covers.clear_copies(workspace, adapter_id, address)
        return address

    patch.setattr(covers, "keep_copy", kept)


def _half_groups(patch: MonkeyPatch) -> None:
    """A group of class pictures is taken as it lies there, and written in place."""
    from trainers import prior

    def write(folder: Path, pictures: Any, prompts: Any) -> None:
        folder.mkdir(parents=True)
        for index, picture in enumerate(pictures):
            picture.save(folder / prior._name(index))
            prior.sync_folder(folder)

    patch.setattr(prior, "_whole", lambda folder, count: folder.is_dir())
    patch.setattr(prior, "_write", write)


WORK_PLANTS: Plants = {"nobody recovers": _nobody_recovers, "nobody sweeps": _nobody_sweeps}
GROUP_PLANTS: Plants = {"half groups": _half_groups, "nobody recovers": _nobody_recovers}
LIBRARY_PLANTS: Plants = {
    "listed first": _listed_first, "old cover first": _old_cover_first, **WORK_PLANTS,
}  # fmt: skip
def _example_in_steps(patch: MonkeyPatch) -> None:
    """A set of an example is listed before its pictures are in it."""
    from studio import dropping

    def take_new(datasets: Any, name: str, settings: Any, example: Any) -> str:
        made = datasets.new(name, settings)
        datasets.take(made.id, [(path, path.name) for path in example.pictures])
        return str(made.id)

    patch.setattr(dropping, "take_new", take_new)


DROP_PLANTS: Plants = {
    "listed first": _listed_first,
    "nobody sweeps": _nobody_sweeps,
    "an example's set in steps": _example_in_steps,
}
