"""Masks: what they leave keeps its bits, the part around them is found, and edges are soft."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.base import Base
from pipelines.drawing.masks import Canvas, blurred, latent_mask, make_canvas, region
from pipelines.errors import ConfigError
from pipelines.generate import GenerationConfig, Inputs, generate
from tests.pipelines.drawing.scenes import box_mask, noisy_picture

DRAW = GenerationConfig(prompt="a fox", num_inference_steps=3, guidance_scale=2.0, strength=0.9)
LARGE = noisy_picture(60, 44)
HOLE = (14, 10, 30, 25)


@pytest.mark.parametrize("padding", [None, 0, 6])
@pytest.mark.parametrize("blur", [0.0, 1.5])
def test_pixels_beyond_the_edge_keep_their_bits(tiny_base: Base, padding: int | None, blur: float) -> None:
    picture = LARGE if padding is not None else noisy_picture(32, 26)
    mask = box_mask(picture.size, HOLE)
    config = DRAW.model_copy(update={"mask_padding": padding, "mask_blur": blur})
    drawn = generate(tiny_base, config, inputs=Inputs(image=picture, mask=mask))[0].image
    assert drawn.size == picture.size
    edge = np.asarray(blurred(mask, blur))
    before, after = np.asarray(picture), np.asarray(drawn)
    assert (before[edge == 0] == after[edge == 0]).all()
    assert (before[edge == 255] != after[edge == 255]).mean() > 0.9
    assert (edge == 0).any() and (edge == 255).any()


def test_an_inverted_mask_keeps_its_inside(tiny_base: Base) -> None:
    picture = noisy_picture(32, 26)
    config = DRAW.model_copy(update={"mask_invert": True, "mask_blur": 0})
    drawn = generate(tiny_base, config, inputs=Inputs(image=picture, mask=box_mask((32, 26), HOLE)))[0].image
    assert drawn.crop(HOLE).tobytes() == picture.crop(HOLE).tobytes()
    assert drawn.tobytes() != picture.tobytes()
    inverse = Image.fromarray(255 - np.asarray(box_mask((32, 26), HOLE)))
    config = DRAW.model_copy(update={"mask_blur": 0})
    same = generate(tiny_base, config, inputs=Inputs(image=picture, mask=inverse))[0].image
    assert same.tobytes() == drawn.tobytes()


def test_only_the_masked_part_is_drawn_at_full_size(tiny_base: Base) -> None:
    config = DRAW.model_copy(update={"mask_padding": 2, "mask_blur": 0, "width": 32, "height": 16})
    inputs = Inputs(image=LARGE, mask=box_mask((60, 44), HOLE))
    canvas = make_canvas(tiny_base, config, inputs)
    assert canvas.size == (16, 32) and canvas.box == (3, 8, 41, 27)
    picture = generate(tiny_base, config, inputs=inputs)[0]
    assert picture.image.size == (60, 44)
    generation = picture.settings["generation"]
    assert (generation["width"], generation["height"]) == (32, 16)


def test_a_mask_of_another_size_is_resized_and_said(tiny_base: Base) -> None:
    canvas = make_canvas(
        tiny_base, DRAW, Inputs(image=noisy_picture(32, 32), mask=box_mask((16, 16), (4, 4, 8, 8)))
    )
    assert canvas.notes == ("the mask is 16×16: resized to 32×32",)
    assert canvas.hole is not None and canvas.hole.getbbox() == (8, 8, 16, 16)
    assert set(np.unique(np.asarray(canvas.hole))) == {0, 255}


def test_a_masks_colours_and_transparency(tiny_base: Base) -> None:
    """Painted layers come as RGBA: what is transparent isn't marked, even where its colour is white."""
    layer = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    layer.paste((255, 255, 255, 255), (2, 2, 6, 6))
    canvas = make_canvas(tiny_base, DRAW, Inputs(image=noisy_picture(), mask=layer))
    assert canvas.hole is not None and canvas.hole.getbbox() == (2, 2, 6, 6)


def test_what_was_changed_to_fit_is_in_the_settings(tiny_base: Base) -> None:
    picture = noisy_picture(20, 15).convert("RGBA")
    picture.putpixel((0, 0), (0, 0, 0, 0))
    config = DRAW.model_copy(update={"width": 16})
    inputs = Inputs(image=picture, mask=box_mask((5, 5), (1, 1, 3, 3)))
    notes = generate(tiny_base, config, inputs=inputs)[0].settings["notes"]
    assert notes == [
        "the picture is transparent in places: laid on white",
        "the mask is 5×5: resized to 20×15",
        "the picture is 20×15: resized to 16×12",
    ]


def test_a_mask_needs_a_picture_and_one_pass(tiny_base: Base) -> None:
    mask = box_mask((16, 16), (0, 0, 4, 4))
    with pytest.raises(ConfigError, match="got a mask without a picture"):
        generate(tiny_base, DRAW, inputs=Inputs(mask=mask))
    with pytest.raises(ConfigError, match="hires_scale is 2 with a mask"):
        config = DRAW.model_copy(update={"hires_scale": 2.0})
        generate(tiny_base, config, inputs=Inputs(image=noisy_picture(), mask=mask))


def test_a_thin_line_isnt_lost() -> None:
    line = box_mask((32, 32), (5, 0, 6, 32))
    mask = latent_mask(line, 8)
    assert mask.shape == (1, 1, 4, 4)
    assert torch.equal(mask[0, 0, 0], torch.tensor([1.0, 0, 0, 0]))


def test_blur_is_soft_and_ends() -> None:
    mask = box_mask((80, 80), (30, 30, 50, 50))
    soft = np.asarray(blurred(mask, 3))[40].astype(int)
    assert blurred(mask, 0) is mask
    assert soft[40] == 255 and soft[0] == soft[10] == 0
    assert abs(soft[30] - 128) < 32 and len(set(soft)) > 8


def test_nothing_is_pasted_where_nothing_is_kept() -> None:
    drawn = noisy_picture()
    assert Canvas(size=(16, 16)).finish(drawn) is drawn
    assert Canvas(size=(16, 16)).cropped(drawn) is drawn


boxes = st.tuples(st.integers(0, 50), st.integers(0, 40), st.integers(1, 20), st.integers(1, 20))


@settings(max_examples=200, deadline=None)
@given(boxes, st.integers(0, 40), st.integers(1, 40), st.integers(1, 40))
def test_the_part_around_a_mask_is_diffusers(
    box: tuple[int, int, int, int], padding: int, height: int, width: int
) -> None:
    left, top = box[:2]
    mask = box_mask((60, 44), (left, top, min(left + box[2], 60), min(top + box[3], 44)))
    found = region(mask, padding, (height, width))
    assert found == VaeImageProcessor.get_crop_region(mask, width, height, padding)
    assert 0 <= found[0] < found[2] <= 60 and 0 <= found[1] < found[3] <= 44


def test_a_crop_is_drawn_as_the_crop_alone(tiny_base: Base) -> None:
    """The same as cutting the part out, drawing over it whole, and pasting it back."""
    mask = box_mask((60, 44), HOLE)
    config = DRAW.model_copy(update={"mask_padding": 4, "mask_blur": 0})
    canvas = make_canvas(tiny_base, config, Inputs(image=LARGE, mask=mask))
    whole = generate(tiny_base, config, inputs=Inputs(image=LARGE, mask=mask))[0].image
    assert canvas.picture is not None and canvas.box is not None
    part = config.model_copy(update={"mask_padding": None})
    alone = generate(tiny_base, part, inputs=Inputs(image=canvas.picture, mask=canvas.hole))[0].image
    pasted = LARGE.copy()
    pasted.paste(alone.resize(whole.crop(canvas.box).size, Image.Resampling.LANCZOS), canvas.box[:2])
    assert np.array_equal(np.asarray(whole.crop((18, 14, 26, 21))), np.asarray(pasted.crop((18, 14, 26, 21))))
