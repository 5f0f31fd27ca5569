"""The store: two writers at once, a killed one, a bound."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers.caching.store import Store, key_of, tensors_sha256


def write_on_and_on(folder: Path, begun: Any) -> None:
    """Write the same entries over and over, from a process of its own."""
    store = Store(folder)
    while store.failed is None:
        for index in range(4):
            store.write(key_of(index), {"mean": torch.full((64, 64), float(index))})
        begun.set()


def writer(folder: Path) -> multiprocessing.process.BaseProcess:
    """Start a process that writes entries to a store; return when it writes."""
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=write_on_and_on, args=(folder, begun), daemon=True)
    process.start()
    assert begun.wait(30)
    return process


def test_two_writers_and_a_reader_see_whole_entries_even_when_killed(tmp_path: Path) -> None:
    first, second = writer(tmp_path), writer(tmp_path)
    store, read = Store(tmp_path), 0
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        for index in range(4):
            found = store.read(key_of(index))
            if found is not None:
                read += 1
                assert found["mean"].unique().tolist() == [float(index)]
    for process in (first, second):
        assert process.is_alive()  # still in the middle of writing
        process.kill()
        process.join()
    assert read > 20 and store.damaged == 0
    assert all(store.read(key_of(index)) is not None for index in range(4)) and store.damaged == 0


def test_what_is_longest_unused_goes_first_above_the_limit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for index in range(5):
        store.write(key_of(index), {"mean": torch.zeros(100)})
        (file,) = tmp_path.rglob(f"{key_of(index)}*")
        os.utime(file, (time.time() - 1000 + index,) * 2)
    size = file.stat().st_size
    other = Store(tmp_path)
    assert other.read(key_of(0)) is not None  # used just now, so it stays
    assert other.tidy(limit=3 * size) == 2 * size
    assert [other.read(key_of(index)) is not None for index in range(5)] == [True, False, False, True, True]
    assert other.tidy(limit=0) == 0  # what this run uses is never removed


def test_a_disks_coarse_clock_lets_nothing_go_that_is_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(key_of(0), {"mean": torch.zeros(2)})
    (file,) = tmp_path.rglob("*.safetensors")
    os.utime(file, (time.time() - 1.0,) * 2)  # written since, and said to be from before
    assert store.tidy(limit=0) == 0 and file.exists()


def test_entries_of_others_that_can_only_be_read_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.write(key_of(0), {"mean": torch.zeros(2)})

    def refused(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("trainers.caching.store.os.utime", refused)
    assert store.has(key_of(0)) and store.read(key_of(0)) is not None
    assert not store.has(key_of(1))


def test_numbers_that_are_none_are_neither_kept_nor_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept once, they would break every later run on the same pictures."""
    store, key = Store(tmp_path), key_of("one")
    broken = {"mean": torch.tensor([1.0, float("inf")])}
    store.write(key, broken)
    assert not store.has(key)
    with monkeypatch.context() as patch:
        patch.setattr("trainers.caching.store._finite", lambda tensors: True)
        store.write(key, broken)
    assert store.has(key) and store.read(key) is None and store.damaged == 1


def test_the_hash_sees_names_shapes_and_types() -> None:
    zeros = torch.zeros(4)
    hashes = {
        tensors_sha256(tensors)
        for tensors in (
            {"a": zeros},
            {"b": zeros},
            {"a": zeros.reshape(2, 2)},
            {"a": torch.zeros(4, dtype=torch.int32)},
            {"a": torch.tensor([0.0, 0.0, 0.0, 1e-20])},
            {"a": zeros, "b": zeros},
        )
    }
    assert len(hashes) == 6
