"""A training, and what it has told of: checkpoints, candidates, its adapter, its record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from tests.faults.ground import tiny_training
from tests.faults.power_cut_calls import watching
from tests.faults.power_cut_promises import Held, Promises, replay
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

    from trainers.config import TrainConfig
    from trainers.events import TrainEvent


def tiny_config(output: Path, **fields: Any) -> TrainConfig:
    """Six steps on the tiny base: a checkpoint and a look every two, a candidate at each look."""
    usual: dict[str, Any] = {
        "rank": 2, "alpha": 2.0, "preview_every": 6, "preview_prompts": ("a zuv disc",), "evaluate_every": 2,
        "measured_on": ("held_out",), "samples": 0, "report": True,
    }  # fmt: skip
    return tiny_training(output, **{**usual, **fields})


def at_checkpoint(step: int) -> Held:
    """The newest checkpoint is of that step or later, and whole."""

    def held(left: Path) -> str | None:
        from trainers import checkpoint

        found, notes = checkpoint.latest(left / "run" / "checkpoints")
        if found is None or found.step < step or notes:
            return f"the newest is {found and found.path.name}, {notes}"
        for name in ("adapter", "optimizer", "averages", "random", "streams"):
            found.tensors(name)
        return None if found.state()["step"] == found.step else "its state is of another step"

    return held


def measured_at(step: int) -> Held:
    """What was measured at a step is there, and its candidate."""

    def held(left: Path) -> str | None:
        from pipelines.formats import read_adapter
        from trainers.evidence.candidates import Kept
        from trainers.settings import EvidenceConfig

        kept = Kept(left / "run", EvidenceConfig())
        kept.read(10**6)
        if step not in kept.steps or (step and step not in kept.files()):
            return f"measured {sorted(kept.steps)}, kept {sorted(kept.files())}"
        for path in kept.files().values():
            read_adapter(path)
        return None

    return held


def done_with(event: TrainEvent) -> Held:
    """The run's file is what was told, and what was measured of it can be read."""

    def held(left: Path) -> str | None:
        from trainers.bundle import BUNDLE_NAME
        from trainers.bundle_format import read_bundle
        from trainers.evidence.record import REPORT_NAME, read_record

        content = (left / "run" / event.data["adapter"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != event.data["sha256"]:
            return f"the adapter has {len(content)} bytes, and isn't the one that was told"
        read_bundle(left / "run" / "bundle" / BUNDLE_NAME)
        report = left / "run" / REPORT_NAME
        return None if read_record(left / "run") and report.read_bytes() else "what was measured is gone"

    return held


def nothing_half(left: Path) -> str | None:
    """Whatever has its name is whole: a reader never takes half of something for a thing."""
    from pipelines.formats import read_adapter
    from trainers import checkpoint

    run = left / "run"
    if notes := checkpoint.latest(run / "checkpoints")[1]:
        return str(notes)
    for path in (run / "candidates").glob("step-*.safetensors"):
        read_adapter(path)
    for path in (*run.glob("*.json"), *(run / "evidence").glob("*.json")):
        json.loads(path.read_bytes())
    if (adapter := run / "adapter.safetensors").exists():
        read_adapter(adapter)
    return None


PROMISED: dict[str, Callable[[TrainEvent], tuple[str, Held]]] = {
    "checkpoint": lambda event: ("the checkpoint", at_checkpoint(event.step)),
    "measured": lambda event: (f"what was measured at step {event.step}", measured_at(event.step)),
    "done": lambda event: ("the adapter", done_with(event)),
}


def run(task: Task, tally: Tally) -> None:
    """Train once, watched, then cut the power again and again."""
    from trainers.evidence.choice import RULES, Rule

    # An early step is the better one, on whatever processor: so the run's file is taken from a candidate.
    early = Rule(lambda record: {one.step: one.step for one in record.measured if one.step}, 0.0, "the step")
    with mock.patch.dict(RULES, {"held_out": early}):
        _run(task, tally)


def _run(task: Task, tally: Tally) -> None:
    from trainers import events
    from trainers.loop import train

    root = task.folder / "disk"
    root.mkdir()
    ended: TrainEvent | None = None
    with watching(root) as disk:
        promises = Promises(disk, nothing_half)
        for event in train(tiny_config(root)):
            events.append(root / "run", event)
            if event.kind in PROMISED and (event.kind != "measured" or event.step):
                promises.give(*PROMISED[event.kind](event))
            ended = event
    assert ended is not None and ended.kind == "done"
    tally.measured("step of the adapter", ended.data["step"], most=5)

    def goes_on(left: Path) -> str | None:
        """Going on from what is left ends in the same file."""
        config = tiny_config(left)
        *_, last = train(config)
        same = last.data["sha256"] == ended.data["sha256"]
        return None if same else "going on ended in another adapter"

    replay(task, tally, disk, promises, goes_on)


def no_sync_of_files(patch: MonkeyPatch) -> None:
    """Files are renamed before their contents are on the disk."""
    from trainers import checkpoint

    patch.setattr(checkpoint, "_write_synced", lambda path, content: path.write_bytes(content))


def no_sync_of_folders(patch: MonkeyPatch) -> None:
    """Names are believed to last by themselves."""
    from trainers import checkpoint

    patch.setattr(checkpoint, "sync_folder", lambda folder: None)


def manifest_first(patch: MonkeyPatch) -> None:
    """A checkpoint has its name from the start; its files come into it after the manifest."""
    from pipelines.files import make_folder
    from trainers import checkpoint

    def commit(folder: Path, step: int, tensors: Any, state: Any, *, keep: int = 2) -> Path:
        final = folder / f"step-{step:06d}"
        make_folder(final)
        contents = {f"{name}.safetensors": checkpoint._serialise(part) for name, part in tensors.items()}
        contents["state.json"] = json.dumps(dict(state), allow_nan=False).encode()
        manifest = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        for name, content in {"MANIFEST.json": json.dumps(manifest).encode(), **contents}.items():
            (final / name).unlink(missing_ok=True)
            checkpoint._write_synced(final / name, content)
            checkpoint.sync_folder(final)
        checkpoint.sync_folder(folder)
        checkpoint._prune(folder, keep)
        return final

    patch.setattr(checkpoint, "commit", commit)


PLANTS = {
    "no fsync of files": no_sync_of_files,
    "no fsync of folders": no_sync_of_folders,
    "manifest before the data": manifest_first,
}
