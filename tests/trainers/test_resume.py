"""SIGKILL at any moment, run again, and the adapter is the same to the last bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainers.config import TrainConfig

PROGRAM = Path(__file__).parent / "killing.py"
EVERY = 7

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

Work = Callable[[TrainConfig, int | None], dict[str, Any]]


@pytest.fixture
def work() -> Iterator[Work]:
    """Run a training in a fork of one process, killed at a certain call or not at all."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        asked, answered = process.stdin, process.stdout

        def run(config: TrainConfig, kill_at: int | None = None) -> dict[str, Any]:
            job = {"config": config.model_dump(mode="json"), "kill_at": kill_at}
            asked.write(json.dumps(job) + "\n")
            asked.flush()
            line = answered.readline()
            assert line, "the program has ended"
            answer: dict[str, Any] = json.loads(line)
            return answer

        yield run
        asked.close()


@pytest.mark.slow
@pytest.mark.timeout(900)  # some 40 s of work, on machines that may be busy
def test_killed_anywhere_it_ends_the_same(
    make_config: Callable[..., TrainConfig], tmp_path: Path, work: Work
) -> None:
    def config(name: str) -> TrainConfig:
        return make_config(
            output=tmp_path / name, cache=tmp_path / f"{name}-cache", steps=5, num_class_images=2,
            preview_every=3, preview_prompts=("a zuv",),
        )  # fmt: skip

    whole = work(config("whole"), None)
    assert not whole["killed"]
    # Some 45 calls, 10 in each of the three commits: every seventh, so that most kinds are met somewhere.
    places = range(2, whole["calls"] + 1, EVERY)
    assert len(places) >= 6
    for place in places:
        name = f"killed-{place}"
        assert work(config(name), place)["killed"], f"call {place} was never reached"
        assert work(config(name), None)["sha256"] == whole["sha256"], f"killed at call {place}"
        # Killed before the pruning, one more is left.
        checkpoints = {path.name for path in (tmp_path / name / "checkpoints").iterdir()}
        assert {"step-000004", "step-000005"} <= checkpoints <= {f"step-00000{n}" for n in (2, 4, 5)}

    # Killed, and killed again while it goes on.
    middle = whole["calls"] // 2
    assert work(config("twice"), middle)["killed"]
    assert work(config("twice"), middle // 2)["killed"]
    assert work(config("twice"), None)["sha256"] == whole["sha256"]
