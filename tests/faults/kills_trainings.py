"""Trainings that are killed and run again: the same losses and the same file, to the last bit."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.ground import ground, tiny_training
from tests.faults.killing import Ended, Kill, Tell, each_call, forked, moments
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from trainers.config import TrainConfig

Rows = Mapping[str, dict[str, Any]]
SPARE: dict[str, Any] = {"preview_every": 0, "samples": 0, "report": False, "measured_on": ("held_out",)}
QUICK: Rows = {"lora": {"steps": 3, "checkpoint_every": 1, "evaluate_every": 0, "held_out": 0}}
FEW: Rows = {
    "lora, adamw, class pictures": {"num_class_images": 2},
    "adalora, prodigy": {"method": "adalora", "optimizer": "prodigy"},
    "pivotal, schedule-free": {"method": "pivotal", "optimizer": "schedule_free_adamw"},
    "dora, average": {"method": "dora", "ema_decay": 0.9, "dropout": 0.2, "accumulate": 2},
}
EVERYTHING: dict[str, Any] = {
    "num_class_images": 2, "steps": 4, "checkpoint_every": 1, "evaluate_every": 2, "preview_every": 2,
    "preview_steps": 2, "samples": 0, "report": True, "measured_on": ("held_out", "class"),
}  # fmt: skip
"""A run that writes all that a run writes, in few steps: its every call is one to be killed at."""
# Of these the usual rank is more numbers than the tiny model's weights.
_SMALL: Rows = {"fourierft": {"rank": 1}, "waveft": {"rank": 1}}


def rows() -> Rows:
    """Every method and every optimizer that is here, by name."""
    from pipelines.methods import TUNINGS
    from trainers.settings import OPTIMIZER_NAMES

    here = [name for name in OPTIMIZER_NAMES if "8bit" not in name or find_spec("bitsandbytes")]
    found = {
        f"{method}, {optimizer}": {"method": method, "optimizer": optimizer, **_SMALL.get(method, {})}
        for method, optimizer in zip(TUNINGS, cycle(here), strict=False)
    }
    return {**FEW, **found}


def config_in(folder: Path, fields: Mapping[str, Any]) -> TrainConfig:
    """A training of six steps whose run and cache lie in a folder."""
    prior = 1.0 if "num_class_images" in fields else 0.0
    usual = {"prior_weight": prior, "batch_size": 2, "evaluate_every": 3, **SPARE}
    return tiny_training(folder, **{**usual, **fields})


def train_in(folder: Path, fields: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Train, or go on; tells the step of each checkpoint that is committed. Returns: of the adapter."""
    from trainers import events
    from trainers.loop import train

    config, last, begun = config_in(folder, fields), None, 0
    for last in train(config):
        events.append(config.run.output, last)
        if last.kind == "checkpoint":
            tell(last.step)
        if last.kind == "stage" and last.data.get("stage") == "resume":
            begun = last.step
    assert last is not None
    return {"sha256": last.data["sha256"], "begun": begun}


@dataclass(eq=False)
class Trainings:
    """One training, done whole once and then killed as often as wanted."""

    folder: Path
    fields: Mapping[str, Any]
    runs: int = 0
    whole: Ended = field(default_factory=Ended)
    losses: dict[tuple[str, int], set[float]] = field(default_factory=dict)

    def begin(self) -> None:
        """Do it whole."""
        ground()  # here, so that no fork makes its own
        self.whole = self._train(self.folder / "unbroken")
        assert self.whole.calls, self.whole.failed
        self.losses = losses(self.folder / "unbroken" / "run")

    def _train(self, folder: Path, kill: Kill | None = None) -> Ended:
        from trainers import checkpoint

        return forked(partial(train_in, folder, self.fields), kill, (checkpoint.commit.__code__,))

    def kill(self, kill: Kill, again: Kill | None, tally: Tally, name: str) -> None:
        """Kill one at a moment, perhaps `again` while it goes on, let it end, and look at all it left."""
        self.runs += 1
        folder = self.folder / f"run-{self.runs}"
        first = self._train(folder, kill)
        if not first.killed:
            if first.failed:
                tally.happened(f"{name}, {kill}", first.failed)
            tally.didnt_happen()
            return
        problem = damaged(folder / "run") or self._lost(folder / "run", first)
        if problem is None and again is not None:
            self._train(folder, again)
            problem = damaged(folder / "run")
        if problem is None:
            kept = steps_of(folder / "run")
            problem = self._amiss(folder, self._train(folder), max(kept, default=0))
        tally.happened(f"{name}, {kill}", problem)
        shutil.rmtree(folder, ignore_errors=True)

    def _lost(self, run: Path, first: Ended) -> str | None:
        """Whether a checkpoint that was told of isn't there."""
        told, kept = max(first.told, default=0), steps_of(run)
        if max(kept, default=0) < told:
            return f"step {told} was told to be committed, there are {sorted(kept)}"
        return None

    def _amiss(self, folder: Path, last: Ended, begun: int) -> str | None:
        """What is wrong with a run that was killed and has gone on to its end; begun: whence it had to."""
        run, every = folder / "run", config_in(folder, self.fields).run.checkpoint_every
        if last.answer is None:
            return f"it doesn't go on: {last.failed or 'killed'}"
        if last.answer["begun"] != begun:
            return f"it went on from step {last.answer['begun']}, not from {begun}"
        if last.answer["sha256"] != self.whole.answer["sha256"]:
            return "another adapter than the unbroken run's"
        if hashlib.sha256((run / "adapter.safetensors").read_bytes()).hexdigest() != last.answer["sha256"]:
            return "the adapter's file isn't the one that was told of"
        if not same(losses(run), self.losses):
            return "other losses than the unbroken run's"
        total = max(self.whole.told)
        kept, newest = steps_of(run), {total, total - every}
        # Killed between a commit and its pruning, one more is left.
        if not (newest & set(self.whole.told) <= kept and len(kept) <= 3):
            return f"checkpoints {sorted(kept)} are left, expected {sorted(newest)}"
        return damaged(run) or left_over(folder)


def losses(run: Path) -> dict[tuple[str, int], set[float]]:
    """Every loss that a run folder's log tells of, by kind and step: one value each, if all is well."""
    from trainers import events

    found: dict[tuple[str, int], set[float]] = {}
    for event in events.read(run):
        if event.kind in ("step", "held_out"):
            found.setdefault((event.kind, event.step), set()).add(event.data["loss"])
    return found


def same(found: Mapping[Any, set[float]], expected: Mapping[Any, set[float]]) -> bool:
    """Whether a run that was killed has told of every step, and of nothing that the unbroken one hasn't."""
    steps = {key for key in expected if key[0] == "step"}
    return steps <= found.keys() and all(expected.get(key) == one for key, one in found.items())


def steps_of(run: Path) -> set[int]:
    """The steps whose checkpoint is there under its own name."""
    return {int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*")}


def damaged(run: Path) -> str | None:
    """The first file that has its own name in a run folder and isn't whole."""
    for path in sorted(run.rglob("*")):
        place = path.relative_to(run).parts
        if path.is_dir() or any(part.startswith(".") for part in place) or path.suffix not in _READ:
            continue
        try:
            _READ[path.suffix](path)
        except Exception as error:
            return f"{path.relative_to(run)} is there and damaged ({type(error).__name__}: {error})"
    for folder in (run / "checkpoints").glob("step-*"):
        try:
            sealed = json.loads((folder / "MANIFEST.json").read_bytes())
            names = {path.name for path in folder.iterdir()} - {"MANIFEST.json"}
            if names != set(sealed) or not names:
                return f"{folder.name} has {sorted(names)}, its manifest says {sorted(sealed)}"
            for name, sha256 in sealed.items():
                if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sha256:
                    return f"{folder.name}/{name} isn't what its manifest says"
        except FileNotFoundError as error:
            return f"{folder.name} is there without {Path(str(error.filename)).name}"
    return None


def _tensors(path: Path) -> None:
    from safetensors.numpy import load

    load(path.read_bytes())


def _picture(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as opened:
        opened.load()


_READ: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_bytes()), ".safetensors": _tensors, ".png": _picture,
}  # fmt: skip


def left_over(folder: Path) -> str | None:
    """What a run that has ended still has lying about under a name that isn't its own."""
    for path in sorted((folder / "run").rglob(".*")):
        return f"{path.relative_to(folder)} is left behind"
    return None


# ── Checks


def random_kills(task: Task, tally: Tally) -> None:
    """Kill trainings of every kind at random moments, half of them while they save."""
    found, chance = rows() if task.count > 20 else FEW if task.count > 6 else QUICK, random.Random(task.seed)
    share = -(-task.count // len(found))
    for number, (name, fields) in enumerate(found.items()):
        one = Trainings(task.folder / f"{number}", fields)
        one.begin()
        goal = min(tally.tried + share, task.count)
        for index, kill in enumerate(moments(one.whole, share, chance)):
            if tally.tried >= goal:
                break
            again = Kill(at=chance.randint(1, len(one.whole.calls) // 2)) if index % 4 == 3 else None
            one.kill(kill, again, tally, name)
        shutil.rmtree(one.folder, ignore_errors=True)


def every_call(task: Task, tally: Tally) -> None:
    """Kill one training at its every call that makes something last."""
    one = Trainings(task.folder, EVERYTHING)
    one.begin()
    chance = random.Random(task.seed)
    for kill in each_call(one.whole, task.count, chance):
        if tally.tried >= task.count:
            break
        one.kill(kill, None, tally, one.whole.calls[kill.at - 1].name if kill.at else "at random")
    calls = len(one.whole.calls)
    tally.measured("calls", calls, most=task.count, held=task.whole)
