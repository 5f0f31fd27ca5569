"""Class pictures: broad, made once, and the same after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import trainers.prior
from pipelines.base import Base
from trainers.config import TrainConfig
from trainers.events import TrainEvent
from trainers.prior import ClassPicture, cache_folder, make_class_pictures, plan

Make = Callable[..., TrainConfig]


def made(base: Base, planned: list[ClassPicture], cache: Path) -> tuple[list[TrainEvent], list[Image.Image]]:
    """Run the generator: its events, and what it returns."""
    generator, events = make_class_pictures(base, planned, cache, 16), []
    while True:
        try:
            events.append(next(generator))
        except StopIteration as stop:
            return events, stop.value


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
    assert {picture.size for picture in first} == {(16, 16)} and len(first) == 10
    events, second = made(tiny_base, planned, tmp_path)
    assert events == [] and len(drawn) == 2
    assert [one.tobytes() for one in first] == [one.tobytes() for one in second]


def test_an_interrupted_making_goes_on_and_ends_the_same(
    tiny_base: Base, tmp_path: Path, drawn: list[list[str]]
) -> None:
    planned = [ClassPicture(f"a thing {index}", index) for index in range(10)]
    _, whole = made(tiny_base, planned, tmp_path / "whole")
    interrupted = make_class_pictures(tiny_base, planned, tmp_path / "cut", 16)
    next(interrupted)
    interrupted.close()
    drawn.clear()
    _, resumed = made(tiny_base, planned, tmp_path / "cut")
    assert [len(call) for call in drawn] == [2]
    assert [one.tobytes() for one in whole] == [one.tobytes() for one in resumed]


def test_a_damaged_group_is_made_again(tiny_base: Base, tmp_path: Path, drawn: list[list[str]]) -> None:
    planned = [ClassPicture("a thing", 0), ClassPicture("a thing", 1)]
    _, first = made(tiny_base, planned, tmp_path)
    (file,) = tmp_path.rglob("001.png")
    file.write_bytes(file.read_bytes()[:40])
    _, second = made(tiny_base, planned, tmp_path)
    assert len(drawn) == 2
    assert [one.tobytes() for one in first] == [one.tobytes() for one in second]


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
