"""SIGKILL at random moments, run again: the same losses and the same file, to the last bit.

The suite takes 4 moments, shared by a few methods and optimizers; `PIGMENT_STORM=20` takes so many, and
more than 20 go over all of them. PIGMENT_STORM_SEED chooses other moments.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from pipelines.methods import TUNINGS
from tests.trainers.conftest import draw_pictures
from trainers import events
from trainers.config import TrainConfig, preset_config
from trainers.settings import OPTIMIZER_NAMES

PROGRAM = Path(__file__).parents[1] / "trainers" / "killing.py"
MOMENTS = int(os.environ.get("PIGMENT_STORM", "4"))
SEED = int(os.environ.get("PIGMENT_STORM_SEED", "0"))

FEW: dict[str, dict[str, Any]] = {
    "lora, adamw, class pictures": {"num_class_images": 2},
    "adalora, prodigy": {"method": "adalora", "optimizer": "prodigy"},
    "pivotal, schedule-free": {"method": "pivotal", "optimizer": "schedule_free_adamw"},
    "dora, average": {"method": "dora", "ema_decay": 0.9, "dropout": 0.2, "accumulate": 2},
}
HERE = [name for name in OPTIMIZER_NAMES if "8bit" not in name or find_spec("bitsandbytes")]
# Of these the usual rank is more numbers than the tiny model's weights.
SMALL: dict[str, dict[str, Any]] = {"fourierft": {"rank": 1}, "waveft": {"rank": 1}}
MANY = {
    f"{method}, {optimizer}": {"method": method, "optimizer": optimizer, **SMALL.get(method, {})}
    for method, optimizer in zip(TUNINGS, cycle(HERE), strict=False)
}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@dataclass(eq=False)
class Storm:
    """Trains in forks of one process, killed at will. pictures, base: what is learned, and on what."""

    process: subprocess.Popen[str]
    pictures: Path
    base: Path
    folder: Path
    runs: int = field(default=0)

    def config(self, fields: dict[str, Any]) -> TrainConfig:
        """A training of six steps in a folder of its own."""
        self.runs += 1
        usual: dict[str, Any] = {
            "instance_images": self.pictures, "trigger": "zuv", "instance_prompt": "a zuv disc",
            "class_prompt": "a disc", "prior_weight": 1.0 if "num_class_images" in fields else 0.0,
            "held_out": 1, "base": str(self.base), "output": self.folder / f"run-{self.runs}",
            "cache": self.folder / f"cache-{self.runs}", "steps": 6, "batch_size": 2, "checkpoint_every": 2,
            "preview_every": 0, "evaluate_every": 3, "threads": 1, "device": "cpu",
        }  # fmt: skip
        return preset_config("sketch", "subject", **{**usual, **fields})

    def train(self, config: TrainConfig, **kill: Any) -> dict[str, Any]:
        """Train, or go on; kill: see the program's jobs."""
        job = {"config": config.model_dump(mode="json"), **kill}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the program has ended; its last words are above"
        answer: dict[str, Any] = json.loads(line)
        return answer


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Storm]:
    """The process that trains."""
    folder = tmp_path_factory.mktemp("storm")
    pictures = draw_pictures(folder / "pictures")
    with subprocess.Popen(
        [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        yield Storm(process, pictures, tiny_folder, folder)
        assert process.stdin is not None
        process.stdin.close()


def losses(config: TrainConfig) -> dict[tuple[str, int], set[float]]:
    """Every loss that a run folder's log tells of, by kind and step: one value each, if all is well."""
    found: dict[tuple[str, int], set[float]] = {}
    for event in events.read(config.run.output):
        if event.kind in ("step", "held_out"):
            found.setdefault((event.kind, event.step), set()).add(event.data["loss"])
    return found


def same(found: dict[tuple[str, int], set[float]], expected: dict[tuple[str, int], set[float]]) -> bool:
    """Whether a run that was killed has told of every step, and of nothing that the unbroken one hasn't.

    Killed between a checkpoint and what is measured there, it goes on without that.
    """
    steps = {key for key in expected if key[0] == "step"}
    return steps <= found.keys() and all(expected.get(key) == values for key, values in found.items())


def moments(count: int, whole: dict[str, Any], chance: random.Random) -> Iterator[dict[str, Any]]:
    """Where to kill: every second time within what makes things last, else anywhere."""
    for index in range(count):
        if index % 2:
            yield {"kill_after": chance.uniform(0.01, 0.9) * whole["seconds"]}
        else:
            yield {"kill_at": chance.randint(1, whole["calls"])}


@pytest.mark.slow
@pytest.mark.timeout(3600 if MOMENTS > 20 else 900)
def test_killed_at_any_moment_it_ends_the_same(storm: Storm) -> None:
    rows = FEW if MOMENTS <= 20 else {**FEW, **MANY}
    share, chance, killed = -(-MOMENTS // len(rows)), random.Random(SEED), 0
    for name, fields in rows.items():
        unbroken = storm.config(fields)
        whole = storm.train(unbroken)
        assert not whole["killed"]
        expected = losses(unbroken)
        for index, moment in enumerate(moments(share, whole, chance)):
            config = storm.config(fields)
            killed += storm.train(config, **moment)["killed"]
            if index % 4 == 3:  # and once more while it goes on
                storm.train(config, kill_at=chance.randint(1, whole["calls"] // 2))
            assert storm.train(config)["sha256"] == whole["sha256"], f"{name}, killed at {moment}"
            assert same(losses(config), expected), f"{name}, killed at {moment}"
            kept = {path.name for path in (config.run.output / "checkpoints").iterdir()}
            # Killed before the pruning, one more is left.
            assert {"step-000004", "step-000006"} <= kept <= {f"step-00000{n}" for n in (2, 4, 6)}
    # A run may end before its moment comes, on a machine that has less to do than before.
    assert killed >= 0.6 * share * len(rows)


@pytest.fixture(scope="module")
def unbroken(storm: Storm) -> tuple[str, dict[tuple[str, int], set[float]]]:
    """Hash and losses of four steps that nothing happened to."""
    config = storm.config({"steps": 4})
    return storm.train(config)["sha256"], losses(config)


@pytest.mark.parametrize("plant", ["chance", "optimizer", "order"])
def test_a_resume_that_forgets_something_is_noticed(
    storm: Storm, unbroken: tuple[str, dict[tuple[str, int], set[float]]], plant: str
) -> None:
    sha256, expected = unbroken
    config = storm.config({"steps": 4})
    assert storm.train(config, kill_step=3)["killed"]
    assert storm.train(config, plant=plant)["sha256"] != sha256
    assert not same(losses(config), expected)
