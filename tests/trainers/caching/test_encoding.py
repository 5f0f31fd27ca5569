"""Latents kept on disk: the same objective, the right key, and nothing believed that was damaged."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import trainers.caching.encoding
from pipelines.base import Base, load_base
from pipelines.errors import BaseError
from tests.tiny import save_tiny_pipeline
from trainers.caching import LatentCache, encode_frames
from trainers.config import TrainConfig
from trainers.dataset import load_dataset
from trainers.events import TrainEvent
from trainers.frames import Frame, frames
from trainers.images import to_pixels

Make = Callable[..., TrainConfig]


def encoded(*arguments: Any, **more: Any) -> tuple[list[TrainEvent], LatentCache]:
    """Run the generator: its events, and what it returns."""
    generator: Generator[TrainEvent, None, LatentCache] = encode_frames(*arguments, **more)
    events = []
    while True:
        try:
            events.append(next(generator))
        except StopIteration as stop:
            return events, stop.value


@pytest.fixture
def cut(make_config: Make) -> Callable[..., list[Frame]]:
    """Frames of 16 pixels of the pictures, all of them learned from."""

    def make(**fields: Any) -> list[Frame]:
        data = make_config(held_out=0, **fields).data
        return frames(load_dataset(data).learn, data, 16, 4)

    return make


@pytest.fixture
def calls(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the VAE's encoder has had."""
    counted: list[int] = []
    real = Base.encode_images

    def encode_images(self: Base, pixels: torch.Tensor) -> Any:
        counted.append(len(pixels))
        return real(self, pixels)

    monkeypatch.setattr(Base, "encode_images", encode_images)
    return counted


def same(first: LatentCache, second: LatentCache) -> bool:
    """Whether two caches hold the same bits."""
    pairs = [
        (a, b)
        for ours, theirs in zip(first.pictures, second.pictures, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return first.captions == second.captions and all(
        torch.equal(a.mean, b.mean) and torch.equal(a.std, b.std) and a.frame == b.frame for a, b in pairs
    )


def test_the_objective_is_the_one_without_a_cache(
    tiny_base: Base, cut: Callable[..., list[Frame]], tmp_path: Path
) -> None:
    found = cut()
    encoded(tiny_base, found, tmp_path)
    _, cache = encoded(tiny_base, found, tmp_path)  # as it was read back
    generator = torch.Generator()
    for frame, (one,) in zip(found, cache.pictures, strict=True):
        with torch.no_grad():
            wanted = tiny_base.vae.encode(to_pixels([frame.cut().picture])).latent_dist
        generator.manual_seed(5)
        directly = wanted.sample(generator)[0] * tiny_base.scaling_factor
        drawn = one.mean + one.std * torch.randn(one.mean.shape, generator=generator.manual_seed(5))
        torch.testing.assert_close(drawn, directly, atol=1e-6, rtol=1e-5)
        assert one.std.min() > 0


def test_pictures_are_encoded_once_and_read_back_bitwise(
    tiny_base: Base, cut: Callable[..., list[Frame]], tmp_path: Path, calls: list[int]
) -> None:
    events, first = encoded(tiny_base, cut(), tmp_path, total=9)
    assert calls == [1] * 5 and events[-1].message == "latents 5/5" and events[-1].total == 9
    events, second = encoded(tiny_base, cut(), tmp_path)
    assert events == [] and len(calls) == 5 and same(first, second)
    _, third = encoded(tiny_base, cut(), None)
    assert len(calls) == 10 and same(first, third)
    assert first.shapes == ((8, 8),) * 5 and first.pictures[0][0].frame == (24, 24, 0, 0, 16, 16)


def test_an_interrupted_call_goes_on(
    tiny_base: Base, cut: Callable[..., list[Frame]], tmp_path: Path, calls: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(trainers.caching.encoding, "_NOTED_EVERY", 2)
    cutting = encode_frames(tiny_base, cut(), tmp_path)
    next(cutting)
    cutting.close()
    assert len(calls) == 2
    encoded(tiny_base, cut(), tmp_path)
    assert len(calls) == 5


def test_a_flipped_byte_is_found_anywhere(
    tiny_base: Base, cut: Callable[..., list[Frame]], tmp_path: Path, calls: list[int]
) -> None:
    _, first = encoded(tiny_base, cut()[:1], tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    for place in (3, 20, len(whole) // 2, len(whole) - 1):
        calls.clear()
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        events, again = encoded(tiny_base, cut()[:1], tmp_path)
        assert calls == [1] and same(first, again) and file.read_bytes() == whole
        assert any("1 damaged entries of the cached latents" in event.message for event in events)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_half_written_entry_is_made_again(
    tiny_base: Base, cut: Callable[..., list[Frame]], tmp_path: Path, calls: list[int], length: int
) -> None:
    encoded(tiny_base, cut()[:1], tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:length])
    encoded(tiny_base, cut()[:1], tmp_path)
    assert len(calls) == 2 and file.read_bytes() == whole


def test_an_entry_under_anothers_name_is_not_believed(
    tiny_base: Base, cut: Callable[..., list[Frame]], tmp_path: Path, calls: list[int]
) -> None:
    _, first = encoded(tiny_base, cut()[:2], tmp_path)
    one, two = tmp_path.rglob("*.safetensors")
    one.write_bytes(two.read_bytes())
    _, again = encoded(tiny_base, cut()[:2], tmp_path)
    assert len(calls) == 3 and same(first, again)


def test_what_a_killed_writer_left_is_swept(
    tiny_base: Base, cut: Callable[..., list[Frame]], tmp_path: Path
) -> None:
    encoded(tiny_base, cut()[:1], tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    old, fresh = file.with_name(".a.0.tmp"), file.with_name(".b.1.tmp")
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    encoded(tiny_base, cut()[:1], tmp_path)
    assert not old.exists() and fresh.exists() and file.exists()


def test_another_vae_dtype_or_picture_is_another_entry(
    tiny_base: Base, cut: Callable[..., list[Frame]], tmp_path: Path, calls: list[int], pictures: Path
) -> None:
    encoded(tiny_base, cut()[:1], tmp_path)
    weight = tiny_base.vae.encoder.conv_in.bias
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0] += 1e-3
    encoded(tiny_base, cut()[:1], tmp_path)
    with torch.no_grad():
        weight.copy_(before)
    assert len(calls) == 2
    tiny_base.vae.to(torch.bfloat16)
    encoded(tiny_base, cut()[:1], tmp_path)
    tiny_base.vae.to(torch.float32)
    assert len(calls) == 3
    Image.new("RGB", (24, 24), "pink").save(pictures / "00.png")
    encoded(tiny_base, cut()[:1], tmp_path)
    assert len(calls) == 4
    scaling = tiny_base.scaling_factor
    tiny_base.vae.register_to_config(scaling_factor=0.25)
    encoded(tiny_base, cut()[:1], tmp_path)
    tiny_base.vae.register_to_config(scaling_factor=scaling)
    assert len(calls) == 5 and len(list(tmp_path.rglob("latents/*/*.safetensors"))) == 5


def test_masks_and_variants_come_along(
    tiny_base: Base, cut: Callable[..., list[Frame]], tmp_path: Path, pictures: Path, calls: list[int]
) -> None:
    mask = Image.new("L", (24, 24), 0)
    mask.paste(255, (0, 0, 12, 24))
    mask.save(pictures / "00.mask.png")
    found = cut(masks="file", flip=True)
    for _ in range(2):
        _, cache = encoded(tiny_base, found, tmp_path, unmasked=0.25)
        plain, mirrored = cache.pictures[0]
        assert plain.mask is not None and mirrored.mask is not None
        assert plain.mask.shape == (1, 8, 8)
        assert plain.mask[0, :, 0].tolist() == [1.0] * 8 and plain.mask[0, :, -1].tolist() == [0.25] * 8
        assert torch.equal(plain.mask.flip(-1), mirrored.mask)
        assert not torch.equal(plain.mean, mirrored.mean)
        assert cache.pictures[1][0].mask is None and len(calls) == 10
    _, other = encoded(tiny_base, found, tmp_path, unmasked=0.0)
    assert other.pictures[0][0].mask is not None and float(other.pictures[0][0].mask.min()) == 0.0


def test_a_vae_that_overflows_is_refused_and_nothing_kept(
    tiny_base: Base, cut: Callable[..., list[Frame]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = torch.full((1, 4, 8, 8), float("nan"))
    monkeypatch.setattr(Base, "encode_images", lambda self, pixels: (nothing, nothing))
    with pytest.raises(BaseError, match=r"no numbers \(NaN\) of picture '00.png'.*run.precision"):
        encoded(tiny_base, cut(), tmp_path)
    assert not list(tmp_path.rglob("latents/*/*.safetensors"))


def test_a_full_device_hands_the_picture_to_the_cpu(
    tiny_base: Base, cut: Callable[..., list[Frame]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, wanted = encoded(tiny_base, cut()[:1], None)

    def full(self: Base, pixels: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Base, "encode_images", full)
    monkeypatch.setattr(tiny_base, "device", torch.device("mps"))  # any but the CPU, which isn't asked
    events, found = encoded(tiny_base, cut()[:1], None)
    assert same(wanted, found) and "1 pictures were encoded on the CPU" in events[-1].message


def test_a_disk_that_takes_nothing_ends_no_run(
    tiny_base: Base, cut: Callable[..., list[Frame]], tmp_path: Path, calls: list[int]
) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    events, cache = encoded(tiny_base, cut(), tmp_path / "cache")
    assert len(cache) == 5 and "can't be kept in the cache folder" in events[-1].message


def test_another_process_thread_count_is_another_entry(
    tiny_base: Base, cut: Callable[..., list[Frame]], tmp_path: Path, calls: list[int]
) -> None:
    encoded(tiny_base, cut()[:1], tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        encoded(tiny_base, cut()[:1], tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert len(calls) == 2


def test_another_base_with_the_same_vae_shares_latents(
    tiny_base: Base, cut: Callable[..., list[Frame]], tmp_path: Path, calls: list[int]
) -> None:
    encoded(tiny_base, cut()[:1], tmp_path)
    other = load_base(save_tiny_pipeline(tmp_path / "other", prediction_type="v_prediction"), device="cpu")
    encoded(other, cut()[:1], tmp_path)
    assert len(calls) == 1
