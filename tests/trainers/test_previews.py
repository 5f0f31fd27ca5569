"""Previews: each prompt with each seed, the same every time, and no chance of the run's is touched."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

import trainers.previews
from pipelines.base import Base
from pipelines.errors import ConfigError
from trainers.config import TrainConfig
from trainers.previews import at_rest, draw_previews, preview_settings
from trainers.tuning import injected

Make = Callable[..., TrainConfig]


@pytest.fixture
def make(make_config: Make) -> Make:
    """Configs whose previews take two steps."""

    def small(**fields: Any) -> TrainConfig:
        return make_config(**{"preview_every": 1, "preview_steps": 2, **fields})

    return small


def drawn(base: Base, config: TrainConfig, folder: Path, step: int = 3) -> list[Image.Image]:
    folder.mkdir(exist_ok=True)
    data = draw_previews(base, config, folder, step)
    return [Image.open(folder / file) for file in data["files"]]


def differ(first: Image.Image, second: Image.Image) -> bool:
    return ImageChops.difference(first, second).getbbox() is not None


@pytest.mark.parametrize("family", ["tiny_base", "tiny_sd2", "tiny_sdxl"])
def test_each_prompt_is_drawn_with_each_seed(
    family: str, request: pytest.FixtureRequest, make: Make, tmp_path: Path
) -> None:
    base: Base = request.getfixturevalue(family)
    config = make(preview_prompts=("a", "b"), preview_seeds=(1, 5))
    (tmp_path / "run").mkdir()
    data = draw_previews(base, config, tmp_path / "run", 12)
    assert data["prompts"] == ["a", "a", "b", "b"] and data["seeds"] == [1, 5, 1, 5]
    assert data["files"][3] == "previews/step-000012-03.png"
    pictures = [Image.open(tmp_path / "run" / file) for file in data["files"]]
    assert {picture.size for picture in pictures} == {(16, 16)}
    assert all(differ(pictures[0], other) for other in pictures[1:])
    again = drawn(base, config, tmp_path / "again")
    assert not any(differ(one, two) for one, two in zip(pictures, again, strict=True))


def test_without_words_of_their_own_previews_show_the_pictures_and_the_class(
    tiny_base: Base, make: Make, tmp_path: Path
) -> None:
    data = draw_previews(tiny_base, make(seed=2**60 + 7), tmp_path, 0)
    assert data["prompts"] == ["a zuv disc", "a disc"] and data["seeds"] == [2**60 % 2**53 + 7] * 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("preview_steps", 5),
        ("preview_sampler", "ddpm"),
        ("preview_guidance", 8.0),
        ("preview_negative", "b"),
        ("preview_seeds", (9,)),
        ("preview_prompts", ("c",)),
    ],
)
def test_every_setting_changes_the_picture(
    tiny_base: Base, make: Make, tmp_path: Path, field: str, value: Any
) -> None:
    plain = drawn(tiny_base, make(), tmp_path / "plain")[0]
    assert differ(plain, drawn(tiny_base, make(**{field: value}), tmp_path / "other")[0])


def test_the_size_is_what_is_learned_unless_it_is_said(tiny_base: Base, make: Make, tmp_path: Path) -> None:
    assert drawn(tiny_base, make(resolution=24), tmp_path / "a")[0].size == (24, 24)
    asked = make(preview_width=24, preview_height=16)
    assert drawn(tiny_base, asked, tmp_path / "b")[0].size == (24, 16)
    assert preview_settings(tiny_base, make()).width == 16


def test_settings_with_nothing_to_act_on_are_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"preview_sampler: there are no previews; set run\.preview_every"):
        make(preview_every=0, preview_steps=16, preview_sampler="euler")
    with pytest.raises(ConfigError, match=r"preview_negative: without guidance"):
        make(preview_guidance=1.0, preview_negative="b")
    with pytest.raises(ConfigError, match=r"preview_sampler.*'euler'"):
        make(preview_sampler="eular")


def test_no_generator_of_the_run_moves(
    tiny_base: Base, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(*arguments: Any, **more: Any) -> list[Image.Image]:
        torch.rand(3), np.random.rand(3), random.random()
        return [Image.new("RGB", (16, 16))] * 2

    def state() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    before = state()
    drawn(tiny_base, make(), tmp_path / "a")
    assert state() == before
    monkeypatch.setattr(trainers.previews, "generate_prompts", careless)
    drawn(tiny_base, make(), tmp_path / "b")
    assert state() == before


def test_nothing_drops_out_and_training_goes_on_afterwards(
    tiny_base: Base, make: Make, tmp_path: Path
) -> None:
    with injected(tiny_base, make().adapter):
        tiny_base.unet.train()
        flags = [module.training for module in tiny_base.unet.modules()]
        with pytest.raises(ValueError, match="oops"), at_rest(tiny_base):
            assert not any(module.training for module in tiny_base.unet.modules())
            raise ValueError("oops")
        assert [module.training for module in tiny_base.unet.modules()] == flags and any(flags)
        tiny_base.unet.eval()
