"""Settings that go together, and those that have nothing to act on."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.axes import read_axis
from pipelines.base import Base
from pipelines.drawing.agreement import check, idle, lacking
from pipelines.errors import ConfigError
from pipelines.generation import GenerationConfig, Inputs, PictureUse
from pipelines.grid_drawing import draw_grid, planned_cells
from pipelines.stage import Stage
from tests.pipelines.drawing.scenes import noisy_picture

PICTURE = PictureUse(sha256="0" * 64)
PLAIN = GenerationConfig(prompt="a fox")


@pytest.mark.parametrize(
    ("name", "value", "with_it"),
    [
        ("strength", 0.5, {"image": PICTURE}),
        ("mask_blur", 0, {"image": PICTURE, "mask": PICTURE}),
        ("mask_padding", 8, {"image": PICTURE, "mask": PICTURE}),
        ("mask_invert", True, {"image": PICTURE, "mask": PICTURE}),
        ("hires_steps", 5, {"hires_scale": 2.0}),
        ("hires_strength", 0.3, {"hires_scale": 2.0}),
        ("hires_upscaler", "lanczos", {"hires_scale": 2.0}),
        ("batch_size", 4, {"num_images": 2}),
        ("eta", 0.5, {"sampler": "ddim"}),
        ("negative_prompt", "grey", {"guidance_scale": 2.0}),
        ("guidance_rescale", 0.5, {"guidance_scale": 2.0}),
    ],
)
def test_a_setting_without_what_it_acts_on_is_named(name: str, value: Any, with_it: dict[str, Any]) -> None:
    without = PLAIN.model_copy(update={"guidance_scale": 1.0, "sampler": "euler", name: value})
    assert list(idle(without)) == [name]
    assert (
        not idle(without.model_copy(update=with_it))
        and lacking(without.model_copy(update=with_it), name) is None
    )


def test_what_is_as_it_stands_is_not_idle() -> None:
    assert not idle(PLAIN) and lacking(PLAIN, "strength") == "a picture that is drawn over"
    assert lacking(PLAIN, "prompt") is None


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigError, match="with a mask"):
        check(PLAIN.model_copy(update={"mask": PICTURE, "hires_scale": 2.0}))
    with pytest.raises(ConfigError, match="use 0, or choose 'ddim'"):
        check(PLAIN.model_copy(update={"eta": 0.5, "sampler": "euler"}))
    check(PLAIN.model_copy(update={"eta": 0.5}))
    check(PLAIN.model_copy(update={"seed": 2**53 - 2, "num_images": 2}))
    with pytest.raises(ConfigError, match="begin lower"):  # its file couldn't draw the second again
        check(PLAIN.model_copy(update={"seed": 2**53 - 1, "num_images": 2}))


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        (["strength=0.2,0.5"], "axis strength changes nothing: it needs a picture"),
        (["eta=0,1", "sampler=euler,heun"], "axis eta changes nothing"),
        (["sampler=ddim,euler", "eta=0,1"], "eta is 1, which sampler 'euler'"),
        (["seed=1,2", "seed=3"], "two axes vary seed"),
    ],
)
def test_axes_that_change_nothing_are_refused_before_anything_is_drawn(axes: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        planned_cells(PLAIN, [read_axis(text) for text in axes])


def test_a_grid_over_a_picture_handed_in_varies_its_strength(tiny_base: Base) -> None:
    few = PLAIN.model_copy(update={"num_inference_steps": 2})
    with Stage(tiny_base, inputs=Inputs(image=noisy_picture())) as stage:
        drawn = draw_grid(stage, few, [read_axis("strength=0.5,1")])
    assert drawn is not None
    assert drawn.cells[0,].image.tobytes() != drawn.cells[1,].image.tobytes()
