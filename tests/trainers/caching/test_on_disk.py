"""More pictures than memory is meant for: read as they are drawn, and the same bits as from memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import trainers.caching.encoding
import trainers.conditions
from pipelines.base import Base
from pipelines.errors import StudioError
from pipelines.formats.container import read_header
from tests.trainers.caching.test_encoding import calls, cut, encoded, same
from trainers.batches import Stream, draw_step
from trainers.caching import LatentCache, Store
from trainers.caching.latents import OnDisk
from trainers.conditions import PromptEncoder
from trainers.frames import Frame
from trainers.loop import train
from trainers.objective import noise_levels
from trainers.settings import ObjectiveConfig

__all__ = ["calls", "cut"]  # fixtures

Cut = Callable[..., list[Frame]]


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of the latents stay in memory."""
    monkeypatch.setattr(trainers.caching.encoding, "MEMORY_BYTES", 0)


def test_pictures_on_disk_are_those_in_memory_and_none_is_read_before_it_is_drawn(
    tiny_base: Base, cut: Cut, tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, held = encoded(tiny_base, cut(flip=True), tmp_path)
    read: list[str] = []
    real = Store.read

    def counted(self: Store, key: str) -> Any:
        read.append(key)
        return real(self, key)

    monkeypatch.setattr(Store, "read", counted)
    monkeypatch.setattr(trainers.caching.encoding, "MEMORY_BYTES", 0)
    events, cache = encoded(tiny_base, cut(flip=True), tmp_path)
    assert isinstance(cache.pictures, OnDisk) and events == [] and read == [] and len(calls) == 10
    assert cache.shapes == held.shapes and cache.repeats == held.repeats and read == []
    assert same(held, cache) and len(read) == 10 and len(cache.pictures[0]) == 2
    assert [len(one) for one in cache.pictures[1:3]] == [2, 2] and len(cache.pictures[-1][:1]) == 1
    with pytest.raises(IndexError):
        cache.pictures[5]
    with pytest.raises(IndexError):
        cache.pictures[0][2]


def test_the_same_batches_are_drawn(tiny_base: Base, cut: Cut, tmp_path: Path, little_memory: None) -> None:
    _, cache = encoded(tiny_base, cut(flip=True), tmp_path)
    _, held = encoded(tiny_base, cut(flip=True), None)  # nothing is kept on disk, so all is held
    assert isinstance(held.pictures, tuple)
    levels, objective = noise_levels(tiny_base, ObjectiveConfig()), ObjectiveConfig()
    ours, theirs = (Stream.of("instance", one, 3, 1.0, 7) for one in (cache, held))
    for _ in range(4):
        (a,), (b,) = draw_step([ours], levels, objective), draw_step([theirs], levels, objective)
        assert torch.equal(a.latents, b.latents) and torch.equal(a.noise, b.noise)
        assert torch.equal(a.frames, b.frames) and a.captions == b.captions


def test_what_is_damaged_or_removed_meanwhile_is_made_again(
    tiny_base: Base, cut: Cut, tmp_path: Path, calls: list[int], little_memory: None
) -> None:
    _, cache = encoded(tiny_base, cut(), tmp_path)
    _, held = encoded(tiny_base, cut(), None)
    calls.clear()
    first, second, *_ = sorted(tmp_path.rglob("*.safetensors"))
    whole, start = first.read_bytes(), read_header(first, StudioError).data_start
    first.write_bytes(whole[:start] + bytes([whole[start] ^ 1]) + whole[start + 1 :])
    second.unlink()
    assert same(held, cache) and calls == [1, 1]
    assert first.read_bytes() == whole and second.exists()
    assert same(held, cache) and calls == [1, 1]


def test_what_the_disk_doesnt_take_stays_in_memory(
    tiny_base: Base, cut: Cut, tmp_path: Path, calls: list[int], little_memory: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def full(path: Path, parts: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainers.caching.store.write_atomic", full)
    events, cache = encoded(tiny_base, cut(), tmp_path)
    assert calls == [1] * 5 and "No space left" in events[-1].message
    _, held = encoded(tiny_base, cut(), None)
    calls.clear()
    assert same(held, cache) and calls == []


def test_what_will_be_drawn_isnt_tidied_away(
    tiny_base: Base, cut: Cut, tmp_path: Path, little_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded(tiny_base, cut(), tmp_path)
    monkeypatch.setattr(Store.tidy, "__defaults__", (1,))
    events, _ = encoded(tiny_base, cut(), tmp_path)
    assert events == [] and len(list(tmp_path.rglob("*.safetensors"))) == 5


def test_a_run_learns_the_same_and_goes_on_bitwise(
    make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From memory at once, against from disk with an interruption."""
    usual = {"flip": True, "prior_weight": 0.0, "class_prompt": "", "evaluate_every": 0}
    whole = make_config(output=tmp_path / "a", **usual)
    losses = [event.data["loss"] for event in train(whole) if event.kind == "step"]
    monkeypatch.setattr(trainers.caching.encoding, "MEMORY_BYTES", 0)
    monkeypatch.setattr(trainers.conditions, "_MEMORY_BYTES", 1)
    again = make_config(output=tmp_path / "b", **usual)
    found: list[float] = []
    for _ in range(2):
        training = train(again)
        for event in training:
            if event.kind == "step":
                found.append(event.data["loss"])
                if event.step == 2:
                    training.close()
                    break
    assert found == losses
    first, second = (tmp_path / name / "adapter.safetensors" for name in ("a", "b"))
    data = [path.read_bytes()[read_header(path, StudioError).data_start :] for path in (first, second)]
    assert data[0] == data[1]


def test_captions_beyond_the_memory_are_only_looked_for_and_read_when_they_are_drawn(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = [f"picture {index}" for index in range(6)]
    first = PromptEncoder(tiny_base, trained=False, folder=tmp_path)
    list(first.prepare(captions))
    size = first(captions[:1]).hidden.nbytes
    read: list[str] = []
    real = Store.read

    def counted(self: Store, key: str) -> Any:
        read.append(key)
        return real(self, key)

    monkeypatch.setattr(Store, "read", counted)
    monkeypatch.setattr(trainers.conditions, "_MEMORY_BYTES", 2 * size)
    second = PromptEncoder(tiny_base, trained=False, folder=tmp_path)
    assert list(second.prepare(captions)) == [] and len(read) == 2
    for caption in captions * 2:
        assert torch.equal(second([caption]).hidden, first([caption]).hidden)
    assert len(second._kept) == 2 and second._bytes == 2 * size


def test_a_cache_says_the_sides_of_its_latents() -> None:
    with pytest.raises(AssertionError):
        LatentCache(OnDisk(lambda picture, variant: None, [1, 1]), ("a", "b"), None, ((8, 8),))  # type: ignore
