"""What the Teach tab says before a training starts: figures for each preset, crops, findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from studio import estimates, looking
from studio.context import Context
from studio.datasets import Datasets
from studio.teaching import Lesson
from trainers.config import PRESET_NAMES, TrainConfig


@pytest.fixture
def lesson(filled: str) -> Lesson:
    return Lesson(dataset=filled)


def test_every_preset_says_its_minutes_and_memory(
    context: Context, lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def estimate(context: Context, config: TrainConfig, pictures: int) -> estimates.Estimate:
        seen.append((config.run.steps, pictures))
        return estimates.Estimate(60.0 * len(seen), 1_240_000_000, "by guessing")

    monkeypatch.setattr(estimates, "estimate", estimate)
    found = looking.weigh(context, lesson, Datasets(context.workspace).get(lesson.dataset))
    assert list(found.figures) == list(PRESET_NAMES)
    assert found.figures["sketch"] == "about 60 s · 1.2 GB"
    assert (found.basis, found.error) == ("By guessing", "")
    assert [pictures for _, pictures in seen] == [5, 5, 5]
    assert len({steps for steps, _ in seen}) == 3, "each with its own preset"


def test_a_wrong_setting_is_said_though_no_word_is_written(context: Context, lesson: Lesson) -> None:
    found = looking.weigh(context, replace(lesson, advanced={"optimizer.learning_rate": "7"}), None)
    assert found.error.startswith("optimizer.learning_rate: got 7.0")
    assert "\n" not in found.error


def test_crops_and_findings_go_to_their_pictures(
    context: Context, lesson: Lesson, put: Callable[..., None], tmp_path: Path
) -> None:
    datasets = Datasets(context.workspace)
    wide = tmp_path / "a wide one.png"
    Image.effect_noise((200, 100), 90).convert("RGB").save(wide)
    put(lesson.dataset, wide)
    *small, last = datasets.get(lesson.dataset).items
    datasets.caption(lesson.dataset, small[0].sha256, "a disc without the word")
    found = looking.look(context, replace(lesson, trigger="zuv"))
    assert set(found.crops) == {item.sha256 for item in (*small, last)}
    [crop] = found.crops[last.sha256]
    assert crop["width"] > crop["height"]
    assert all(0 <= share <= 1 for share in crop["box"])
    assert any("smaller" in line or "pixels" in line for line in found.own[small[0].sha256]), found.own
    lines = [*found.general, *(line for own in found.own.values() for line in own)]
    assert any("zuv" in line for line in lines), lines
    assert not any("000" in line for line in lines), "the names are the person's"
    assert not list(context.workspace.folder("cache").glob("tmp*"))
    three = looking.look(context, replace(lesson, trigger="zuv", advanced={"data.center_crop": False}))
    assert len(three.crops[last.sha256]) > 1


def test_what_was_looked_at_is_kept(
    context: Context, lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = looking.look(context, lesson)
    monkeypatch.setattr(looking, "_look", lambda *_: pytest.fail("the pictures were read again"))
    assert looking.look(context, lesson) is first
