"""The slider strip: one adapter from end to end, as a picture and as a loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.adapter import Adapter
from pipelines.base import Base
from pipelines.errors import AdapterError, ConfigError, PictureError
from pipelines.generate import AdapterUse, GenerationConfig, generate
from pipelines.grids import psnr
from pipelines.mixer import Mixer
from pipelines.stage import Stage
from pipelines.strips import draw_strip
from tests.tiny import random_adapter

USES = (AdapterUse(name="fox", sha256="aa" * 32, weight=0.8), AdapterUse(name="ink", sha256="", weight=0.5))
FEW = GenerationConfig(prompt="a fox", num_inference_steps=2, adapters=USES, seed=3)


@pytest.fixture
def adapters(tiny_base: Base) -> list[Adapter]:
    return [random_adapter(tiny_base, seed=1, name="fox"), random_adapter(tiny_base, seed=2, name="ink")]


def test_a_strip_goes_from_end_to_end_with_the_others_as_they_are(
    tiny_base: Base, adapters: list[Adapter]
) -> None:
    with Stage(tiny_base, adapters) as stage:
        strip = draw_strip(stage, FEW, adapter="fox", count=4)
    assert strip is not None and strip.axis.values == (-1.0, 0.0, 1.0, 2.0)
    for weight, picture in zip(strip.axis.values, strip.pictures, strict=True):
        with Mixer(tiny_base) as mixer:
            for adapter in adapters:
                mixer.add(adapter.name, adapter)
            mixer.set({"fox": weight, "ink": 0.5})
            assert generate(tiny_base, FEW)[0].image.tobytes() == picture.image.tobytes()
    assert strip.whole.settings["grid"][0]["values"] == [-1.0, 0.0, 1.0, 2.0]
    assert strip.whole.image.width > 4 * 128 > 128 + 60 > strip.whole.image.height


def test_all_together_move_as_one(tiny_base: Base, adapters: list[Adapter]) -> None:
    with Stage(tiny_base, adapters) as stage:
        strip = draw_strip(stage, FEW, low=0, high=1, count=2)
        bare = stage.draw(FEW.model_copy(update={"adapters": tuple(
            use.model_copy(update={"weight": 0.0}) for use in USES)}))[0]  # fmt: skip
    assert strip is not None
    assert strip.pictures[0].image.tobytes() == bare.image.tobytes() != strip.pictures[1].image.tobytes()
    with_none = generate(tiny_base, FEW.model_copy(update={"adapters": ()}))[0]
    assert with_none.image.tobytes() == bare.image.tobytes()


def test_a_loop_runs_there_and_back(tiny_base: Base, adapters: list[Adapter], tmp_path: Path) -> None:
    with Stage(tiny_base, adapters) as stage:
        strip = draw_strip(stage, FEW, adapter="fox", count=4)
    assert strip is not None
    path = tmp_path / "fox.webp"
    strip.save_webp(path, frame_seconds=0.1)
    frames = strip.frames()
    wanted = [*frames, frames[2], frames[1]]
    with Image.open(path) as moving:
        assert moving.n_frames == 6 and moving.info["loop"] == 0  # type: ignore[attr-defined]
        durations = []
        for number, frame in enumerate(wanted):
            moving.seek(number)
            shown = moving.convert("RGB")
            durations.append(moving.info["duration"])
            fits = [psnr(shown, other) for other in frames]
            assert frames[int(np.argmax(fits))] is frame and shown.size == frame.size
    assert durations[0] == durations[3] == 400 and durations[1] == 100


def test_the_settings_come_back_out_of_a_loop(
    tiny_base: Base, adapters: list[Adapter], tmp_path: Path
) -> None:
    from pipelines.parameters.reading import restore

    with Stage(tiny_base, adapters) as stage:
        strip = draw_strip(stage, FEW, adapter="fox", count=2)
    assert strip is not None
    strip.save_webp(tmp_path / "fox.webp")
    found = restore(tmp_path / "fox.webp")
    assert found.fields["prompt"] == "a fox" and found.fields["seed"] == 3


def test_what_cant_be_a_strip_is_refused(tiny_base: Base, adapters: list[Adapter], tmp_path: Path) -> None:
    with Stage(tiny_base, adapters) as stage:
        for fields, says in (
            ({"count": 1}, "a strip has 2 to 64 pictures; got 1"),
            ({"count": 65}, "got 65"),
            ({"low": 1, "high": 1}, "has no length"),
            ({"high": 3.5}, "Weight|expected less than or equal to 3"),
        ):
            with pytest.raises(ConfigError, match=says):
                draw_strip(stage, FEW, **fields)
        with pytest.raises(AdapterError, match="no adapter 'owl'"):
            draw_strip(stage, FEW, adapter="owl")
        assert draw_strip(stage, FEW, count=3, on_step=lambda step: step.done < 3) is None
        strip = draw_strip(stage, FEW, count=2)
    assert strip is not None
    with pytest.raises(PictureError, match=r"ending in \.webp"):
        strip.save_webp(tmp_path / "fox.gif")
