"""What many pictures cost, measured here on a tiny base and without processes of their own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import trainers.bench.sizes
from pipelines.errors import StudioError
from trainers import memory
from trainers.bench.sizes import WARM_UP, Plan, measure_sizes


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Let processes be calls; their arguments."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        calls.append(command[command.index("trainers.bench.sizes") + 1 :])
        monkeypatch.setattr(sys, "argv", command[command.index("trainers.bench.sizes") :])
        returncode = trainers.bench.sizes.main()
        return type("Done", (), {"returncode": returncode, "stdout": capsys.readouterr().out, "stderr": ""})

    monkeypatch.setattr(memory.Peak, "__init__", memory.Peak.__init__)
    monkeypatch.setattr(trainers.bench.sizes.subprocess, "run", run)
    monkeypatch.setattr(trainers.bench.sizes.time, "sleep", lambda seconds: None)
    return calls


def test_counts_are_measured_in_turns(here: list[list[str]], tiny_folder: Path) -> None:
    plan = Plan(base=str(tiny_folder), resolution=16, steps=3, rounds=2)
    found = measure_sizes([3, 9], plan)
    assert [(kind, Path(folder).name, number) for kind, folder, number, *_ in here] == [
        ("fill", "3", "0"), ("fill", "9", "0"), ("train", "3", "0"), ("train", "9", "0"),
        ("train", "3", "1"), ("train", "9", "1"), ("train", "3", "2"), ("train", "9", "2"),
    ]  # fmt: skip
    assert set(found) == {"3", "9", "ratios"}
    assert all(value > 0 for count in ("3", "9") for value in found[count].values())
    assert found["9"]["first_step_s"] >= found["9"]["start_s"]
    assert found["ratios"]["step"] == found["9"]["step_s"] / found["3"]["step_s"]
    more = found["9"]["start_s"] - found["3"]["start_s"]
    assert found["ratios"]["start_seconds_per_1000_pictures"] == pytest.approx(1000 * more / 6)
    json.dumps(found)


def test_the_peak_is_that_of_the_whole_process(
    here: list[list[str]], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [9 * 2**40]
    monkeypatch.setattr(memory, "_forget_peak", lambda: held.append(7))
    monkeypatch.setattr("trainers.bench.loading.peak", lambda: held[-1])
    plan = Plan(base=str(tiny_folder), resolution=16, steps=3)
    trainers.bench.sizes.draw(tmp_path / "pictures", 2, 16)
    assert trainers.bench.sizes._child("train", tmp_path, 1, plan)["peak_bytes"] == held[0]
    assert held[-1] == 7


def test_pictures_are_encoded_by_nobody(
    here: list[list[str]], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latents of random numbers are found under the names that a training looks for."""
    plan = Plan(base=str(tiny_folder), resolution=16, steps=3)
    trainers.bench.sizes.draw(tmp_path / "pictures", 4, 16)
    trainers.bench.sizes._child("fill", tmp_path, 0, plan)
    monkeypatch.setattr("pipelines.base.Base.encode_images", None)
    trainers.bench.sizes._child("train", tmp_path, 1, plan)
    events = (tmp_path / "run-1").glob("checkpoints/*")
    assert [path.name for path in events] == [f"step-{WARM_UP + 3:06d}"]


def test_what_a_process_said_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = type("Done", (), {"returncode": 1, "stdout": "", "stderr": "Traceback\n  …\nno such base\n"})
    given: list[dict[str, Any]] = []

    def run(command: list[str], **more: Any) -> Any:
        given.append(more)
        return failed

    monkeypatch.setattr(trainers.bench.sizes.subprocess, "run", run)
    with pytest.raises(StudioError, match=r"pictures failed: no such base$"):
        trainers.bench.sizes._child("train", tmp_path, 1, Plan())
    assert given[0]["env"]["HF_HUB_OFFLINE"] == "1"
    assert Path(given[0]["env"]["PYTHONPATH"].split(os.pathsep)[0], "trainers").is_dir()
