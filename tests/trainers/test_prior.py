"""Class pictures: broad, made once, and the same after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from PIL import Image

import trainers.prior
from pipelines.base import Base
from pipelines.errors import ConfigError, PictureError, StudioError
from trainers.config import TrainConfig
from trainers.events import TrainEvent
from trainers.prior import (
    ClassPicture,
    cache_folder,
    class_frames,
    draw_class_pictures,
    drawn_at_once,
    joined_sha256,
    plan,
    read_class_pictures,
)

Make = Callable[..., TrainConfig]
Result = TypeVar("Result")


def finished(generator: Generator[TrainEvent, None, Result]) -> tuple[list[TrainEvent], Result]:
    """Run a generator: its events, and what it returns."""
    events = []
    while True:
        try:
            events.append(next(generator))
        except StopIteration as stop:
            return events, stop.value


def made(base: Base, planned: list[ClassPicture], cache: Path) -> tuple[list[TrainEvent], list[Path]]:
    """Draw class pictures of 16 pixels: the events, and the files."""
    return finished(draw_class_pictures(base, planned, cache, 16))


def contents(paths: list[Path]) -> list[bytes]:
    """The pixels of pictures."""
    return [Image.open(path).convert("RGB").tobytes() for path in paths]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The prompts of each call that drew pictures; five steps are enough here."""
    monkeypatch.setitem(trainers.prior._SETTINGS, "num_inference_steps", 2)
    calls: list[list[str]] = []
    real: Any = trainers.prior.generate_prompts

    def counted(base: Base, prompts: list[str], *rest: Any, **more: Any) -> Any:
        calls.append(list(prompts))
        return real(base, prompts, *rest, **more)

    monkeypatch.setattr(trainers.prior, "generate_prompts", counted)
    return calls


def test_the_plan_is_half_of_the_class_and_half_of_other_things(make_config: Make) -> None:
    planned = plan(make_config(num_class_images=20, class_prompt="a photo of a robot").data)
    prompts = [one.prompt for one in planned]
    assert len(planned) == 20 and len(set(planned)) == 20
    assert sum(prompt.startswith("a photo of a robot") for prompt in prompts[:10]) == 10
    assert len(set(prompts[:10])) == 10 and len(set(prompts[10:])) == 10
    assert "a photo of an owl" in " ".join(prompts)


@pytest.mark.parametrize(("breadth", "of_class"), [(0.0, 8), (0.25, 6), (1.0, 0)])
def test_breadth_sets_the_share_of_other_things(make_config: Make, breadth: float, of_class: int) -> None:
    planned = plan(make_config(num_class_images=8, prior_breadth=breadth, class_prompt="a zap").data)
    assert sum(one.prompt.startswith("a zap") for one in planned) == of_class


def test_without_a_class_all_are_other_things(make_config: Make) -> None:
    planned = plan(make_config(num_class_images=5, class_prompt="").data)
    assert all(one.prompt.startswith("a photo of a") for one in planned)


def test_no_prompt_has_the_trigger(make_config: Make) -> None:
    assert not any("zuv" in one.prompt for one in plan(make_config(num_class_images=100).data))


def test_pictures_are_made_once(tiny_base: Base, tmp_path: Path, drawn: list[list[str]]) -> None:
    planned = [ClassPicture(f"a thing {index}", index) for index in range(10)]
    events, first = made(tiny_base, planned, tmp_path)
    assert [len(call) for call in drawn] == [8, 2]
    assert [event.data["done"] for event in events] == [8, 10] and events[-1].data["of"] == 10
    assert {Image.open(path).size for path in first} == {(16, 16)} and len(set(first)) == 10
    before = contents(first)
    events, second = made(tiny_base, planned, tmp_path)
    assert events == [] and len(drawn) == 2 and contents(second) == before


def test_an_interrupted_making_goes_on_and_ends_the_same(
    tiny_base: Base, tmp_path: Path, drawn: list[list[str]]
) -> None:
    planned = [ClassPicture(f"a thing {index}", index) for index in range(10)]
    _, whole = made(tiny_base, planned, tmp_path / "whole")
    interrupted = draw_class_pictures(tiny_base, planned, tmp_path / "cut", 16)
    next(interrupted)
    interrupted.close()
    drawn.clear()
    _, resumed = made(tiny_base, planned, tmp_path / "cut")
    assert [len(call) for call in drawn] == [2]
    assert contents(whole) == contents(resumed)


@pytest.mark.parametrize("fault", ["cut", "flipped", "another", "gone", "manifest"])
def test_a_damaged_group_is_made_again(
    tiny_base: Base, tmp_path: Path, drawn: list[list[str]], fault: str
) -> None:
    planned = [ClassPicture("a thing", 0), ClassPicture("a thing", 1)]
    _, paths = made(tiny_base, planned, tmp_path)
    before, whole = contents(paths), paths[1].read_bytes()
    if fault == "cut":
        paths[1].write_bytes(whole[:40])
    elif fault == "flipped":
        paths[1].write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    elif fault == "another":
        paths[1].write_bytes(paths[0].read_bytes())
    elif fault == "gone":
        paths[1].unlink()
    else:
        paths[1].with_name("group.json").write_text("[]")
    _, again = made(tiny_base, planned, tmp_path)
    assert len(drawn) == 2 and contents(again) == before
    assert not list(tmp_path.glob("class_pictures/.writing-*"))


def test_another_base_prompt_seed_or_setting_is_another_picture(
    tiny_base: Base, tmp_path: Path, drawn: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tiny_base, [ClassPicture("a thing", 0)], tmp_path)
    made(tiny_base, [ClassPicture("a thing", 1)], tmp_path)
    made(tiny_base, [ClassPicture("one thing", 0)], tmp_path)
    monkeypatch.setitem(trainers.prior._SETTINGS, "guidance_scale", 2.0)
    made(tiny_base, [ClassPicture("a thing", 0)], tmp_path)
    tiny_base.__dict__["sha256"] = "0" * 64
    made(tiny_base, [ClassPicture("a thing", 0)], tmp_path)
    assert len(drawn) == 5


def test_the_cache_folder_is_chosen_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PIGMENT_CACHE", raising=False)
    assert cache_folder(None) == tmp_path / "pigment"
    monkeypatch.setenv("PIGMENT_CACHE", str(tmp_path / "own"))
    assert cache_folder(None) == tmp_path / "own"
    assert cache_folder(tmp_path / "given") == tmp_path / "given"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of two class pictures, one with words of its own."""
    folder = tmp_path / "own"
    folder.mkdir()
    Image.new("RGB", (32, 16), "teal").save(folder / "a.png")
    Image.new("RGB", (16, 16), "gold").save(folder / "b.png")
    (folder / "b.txt").write_text("a golden disc")
    return folder


@pytest.mark.parametrize("family", ["tiny_base", "tiny_sd2", "tiny_sdxl"])
def test_given_pictures_come_first_and_what_is_missing_is_drawn(
    family: str, request: pytest.FixtureRequest, make_config: Make, own: Path, tmp_path: Path,
    drawn: list[list[str]],
) -> None:  # fmt: skip
    base: Base = request.getfixturevalue(family)
    data = make_config(class_images=own, num_class_images=5, resolution=16).data
    given = read_class_pictures(data)
    _, found = finished(class_frames(base, data, given, tmp_path / "cache", 4, 7))
    assert [frame.caption for frame in found[:2]] == ["a disc", "a golden disc"]
    # Of the five planned, the first two of the class are there already.
    assert [frame.caption for frame in found[2:]] == [one.prompt for one in plan(data)[2:]]
    assert [prompt for call in drawn for prompt in call] == [one.prompt for one in plan(data)[2:]]
    assert found[0].size[1] > found[0].size[0] and {frame.size for frame in found[1:]} == {(16, 16)}
    assert found[2].numbers() == (16, 16, 0, 0, 16, 16) and found[2].cut().picture.size == (16, 16)
    assert len({frame.key() for frame in found}) == 5


def test_enough_given_pictures_mean_that_none_is_drawn(
    tiny_base: Base, make_config: Make, own: Path, tmp_path: Path, drawn: list[list[str]]
) -> None:
    data = make_config(class_images=own, num_class_images=1, resolution=16).data
    events, found = finished(class_frames(tiny_base, data, read_class_pictures(data), tmp_path / "c", 4))
    assert events == [] and drawn == [] and len(found) == 2


def test_given_pictures_without_words_or_use_are_refused(make_config: Make, own: Path) -> None:
    with pytest.raises(ConfigError, match=r"'a\.png' has no words; write a\.txt, or set data\.class_prompt"):
        read_class_pictures(make_config(class_images=own, class_prompt="").data)
    with pytest.raises(ConfigError, match=r"class_images: got .*set data\.prior_weight"):
        make_config(class_images=own, prior_weight=0.0)
    with pytest.raises(PictureError, match="has none"):
        read_class_pictures(make_config(class_images=own.parent / "pictures" / "..").data)
    assert read_class_pictures(make_config().data) == []


def test_given_pictures_are_part_of_the_runs_data(make_config: Make, own: Path) -> None:
    data = make_config(class_images=own).data
    first = joined_sha256("0", read_class_pictures(data))
    assert (
        first
        == joined_sha256("0", read_class_pictures(data))
        != joined_sha256("1", read_class_pictures(data))
    )
    (own / "b.txt").write_text("a disc of gold")
    assert joined_sha256("0", read_class_pictures(data)) != first
    assert joined_sha256("0", []) == "0"


def test_a_full_device_draws_one_by_one(
    tiny_base: Base, tmp_path: Path, drawn: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = trainers.prior.generate_prompts
    sizes: list[int] = []

    def full(base: Base, prompts: list[str], *rest: Any, batch_size: int) -> Any:
        sizes.append(batch_size)
        if batch_size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(base, prompts, *rest, batch_size=batch_size)

    monkeypatch.setattr(trainers.prior, "generate_prompts", full)
    _, paths = made(tiny_base, [ClassPicture("a", 0), ClassPicture("b", 1)], tmp_path)
    assert sizes == [2, 1] and len(paths) == 2


def test_large_pictures_are_drawn_few_at_once() -> None:
    assert [drawn_at_once(side, side) for side in (64, 512, 768, 1024, 2048)] == [8, 4, 1, 1, 1]


def test_a_cache_that_cannot_be_written_is_said_in_one_line(tiny_base: Base, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StudioError, match=r"can't be kept in .*set run\.cache to a folder"):
        made(tiny_base, [ClassPicture("a disc", 1)], tmp_path / "cache")


def test_given_pictures_may_have_names_that_are_no_utf8(make_config: Make, pictures: Path) -> None:
    item = read_class_pictures(make_config(class_images=pictures).data)[0]
    odd = replace(item, name="a\udcff.png")
    assert joined_sha256("0", [odd]) != joined_sha256("0", [item])
