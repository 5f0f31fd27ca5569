"""Checkpoints: whole or not there, the last good one found, every source of chance back."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.errors import StudioError
from trainers import checkpoint
from trainers.checkpoint import (
    Checkpoint,
    commit,
    latest,
    random_state,
    restore_random_state,
    sweep,
)

TENSORS = {"adapter": {"a.down": torch.arange(6.0).reshape(2, 3), "a.up": torch.zeros(3, 2)}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_committed_comes_back(tmp_path: Path) -> None:
    assert commit(tmp_path / "c", 7, TENSORS, {"step": 7}) == tmp_path / "c" / "step-000007"
    saved, notes = latest(tmp_path / "c")
    assert saved is not None and saved.step == 7 and notes == []
    assert saved.state() == {"step": 7}
    assert all(torch.equal(saved.tensors("adapter")[name], t) for name, t in TENSORS["adapter"].items())


def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    assert latest(tmp_path / "none") == (None, [])


def test_the_newest_two_are_kept_by_number(tmp_path: Path) -> None:
    for step in (2, 999_999, 1_000_000, 50):
        commit(tmp_path, step, TENSORS, {})
    assert names(tmp_path) == ["step-1000000", "step-999999"]
    saved, _ = latest(tmp_path)
    assert saved is not None and saved.step == 1_000_000


def test_at_least_two_are_kept_whatever_is_asked(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        commit(tmp_path, step, TENSORS, {}, keep=0)
    assert names(tmp_path) == ["step-000002", "step-000003"]


def test_a_step_can_be_committed_again(tmp_path: Path) -> None:
    commit(tmp_path, 1, TENSORS, {"try": 1})
    commit(tmp_path, 1, TENSORS, {"try": 2})
    saved, _ = latest(tmp_path)
    assert saved is not None and saved.state() == {"try": 2}
    assert names(tmp_path) == ["step-000001"]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: flip_a_bit(path / "adapter.safetensors"), "adapter.safetensors has changed"),
        (lambda path: flip_a_bit(path / "state.json"), "state.json has changed"),
        (lambda path: (path / "adapter.safetensors").unlink(), "adapter.safetensors is missing"),
        (lambda path: (path / "MANIFEST.json").unlink(), "MANIFEST.json is missing"),
        (lambda path: (path / "MANIFEST.json").write_text("{"), "MANIFEST.json isn't readable"),
        (lambda path: (path / "MANIFEST.json").write_text("[]"), "MANIFEST.json isn't readable"),
        (lambda path: (path / "MANIFEST.json").write_text("{}"), "state.json is missing"),
    ],
)
def test_a_damaged_one_is_passed_over_with_a_note(tmp_path: Path, harm: Any, words: str) -> None:
    commit(tmp_path, 1, TENSORS, {})
    harm(commit(tmp_path, 2, TENSORS, {}))
    saved, notes = latest(tmp_path)
    assert saved is not None and saved.step == 1
    assert len(notes) == 1 and words in notes[0] and "step-000002" in notes[0]


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("number", range(8))
def test_a_disk_that_fills_up_leaves_the_last_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    commit(tmp_path, 1, TENSORS, {"step": 1})
    real, count = getattr(os, call), 0

    def full(*arguments: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        if count == number + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **more)

    monkeypatch.setattr(os, call, full)
    failed = False
    try:
        commit(tmp_path, 2, TENSORS, {"step": 2})
    except StudioError as error:
        failed = True
        assert "disk full" in str(error)
    monkeypatch.undo()
    saved, notes = latest(tmp_path)
    assert saved is not None and notes == []
    # The last sync comes after the rename: the new one is there then, and whole.
    assert saved.step == 1 if failed and count < 5 else saved.step in (1, 2)
    assert not any(name.startswith(".writing") for name in names(tmp_path))


def test_a_full_memory_leaves_nothing_half_and_says_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(tmp_path, 1, TENSORS, {"step": 1})

    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(checkpoint, "_write_synced", full)
    with pytest.raises(StudioError, match=r"checkpoint of step 2 .* lower adapter\.rank"):
        commit(tmp_path, 2, TENSORS, {"step": 2})
    assert names(tmp_path) == ["step-000001"]


def test_other_errors_are_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "fsync", denied)
    with pytest.raises(PermissionError):
        commit(tmp_path, 1, TENSORS, {})
    assert names(tmp_path) == []


def test_orphans_are_swept_and_checkpoints_stay(tmp_path: Path) -> None:
    commit(tmp_path, 1, TENSORS, {})
    (tmp_path / ".writing-000002-77").mkdir()
    (tmp_path / ".writing-000002-77" / "state.json").write_text("{")
    assert latest(tmp_path)[0] is not None
    sweep(tmp_path)
    assert names(tmp_path) == ["step-000001"]
    sweep(tmp_path / "none")


def test_a_missing_part_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match=r"no optimizer\.safetensors"):
        Checkpoint(commit(tmp_path, 1, TENSORS, {}), 1).tensors("optimizer")


def chances(generator: torch.Generator) -> list[Any]:
    return [
        torch.randn(3, generator=generator).tolist(),
        torch.rand(2).tolist(),
        np.random.rand(2).tolist(),
        np.random.randn(3).tolist(),
        random.random(),
        random.gauss(0, 1),
    ]


def test_every_source_of_chance_comes_back_through_files(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    chances(generator)  # numpy and Python hold half a pair of normal numbers now
    tensors, values = random_state({"instance": generator})
    saved = Checkpoint(commit(tmp_path, 1, {"random": tensors}, {"random": values}), 1)
    expected = chances(generator)
    restore_random_state(saved.tensors("random"), saved.state()["random"], {"instance": generator})
    assert chances(generator) == expected


@pytest.mark.parametrize("missing", ["torch", "generator.instance", "numpy"])
def test_a_missing_source_of_chance_is_an_error(missing: str) -> None:
    generator = torch.Generator()
    tensors, values = random_state({"instance": generator})
    del tensors[missing]
    with pytest.raises(StudioError, match=missing):
        restore_random_state(tensors, values, {"instance": generator})


def test_a_manifest_covers_every_file(tmp_path: Path) -> None:
    path = commit(tmp_path, 1, TENSORS, {})
    manifest = json.loads((path / "MANIFEST.json").read_text())
    assert set(manifest) == {file.name for file in path.iterdir()} - {"MANIFEST.json"}
    assert checkpoint.KEEP >= 2
