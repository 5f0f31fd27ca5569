"""Drawing over pictures: as diffusers does, with noise of the seed alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipelines.base import Base, load_base
from pipelines.drawing.images import encoded, to_images, to_pixels
from pipelines.drawing.plans import hires_steps
from pipelines.errors import ConfigError
from pipelines.generate import GenerationConfig, Inputs, PictureUse, Step, generate, read_settings
from pipelines.grids import psnr
from pipelines.latent_preview import fit
from tests.pipelines.drawing.scenes import (
    box_mask,
    diffusers_pipeline,
    latents_of,
    levels_apart,
    noisy_picture,
)
from tests.tiny import save_tiny_pipeline

# One level of 255: both round in fp32, in another order.
TOLERANCE = 1
DRAW = GenerationConfig(prompt="a fox", num_inference_steps=6, guidance_scale=4.0, seed=3, strength=0.6)
SAMPLERS = ("ddim", "euler", "heun", "dpm2", "dpmpp_2m_karras", "unipc", "lms", "lcm", "plms", "euler_a")
PICTURE = noisy_picture()
MASK = box_mask((16, 16), (4, 2, 12, 12))


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A base whose UNet sees a mask and the masked picture."""
    folder = save_tiny_pipeline(tmp_path_factory.mktemp("inpaint") / "b", unet={"in_channels": 9})
    return load_base(folder, device="cpu")


def theirs(base: Base, name: str, sampler: str, config: GenerationConfig = DRAW, **given: Any) -> Any:
    """The picture of a plain diffusers pipeline."""
    pipeline = diffusers_pipeline(base, name, sampler)
    return pipeline(
        config.prompt,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        strength=config.strength,
        generator=torch.Generator().manual_seed(config.seed),
        **given,
    ).images[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_image_to_image_equals_diffusers(base_of: Callable[[str], Base], sampler: str) -> None:
    base = base_of("sd15")
    config = DRAW.model_copy(update={"sampler": sampler})
    ours = generate(base, config, inputs=Inputs(image=PICTURE))[0].image
    plain = theirs(base, "StableDiffusionImg2ImgPipeline", sampler, image=latents_of(base, PICTURE))
    assert levels_apart(ours, plain) <= TOLERANCE
    assert levels_apart(ours, generate(base, config)[0].image) > 20 * TOLERANCE


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_image_to_image_of_every_family_equals_diffusers(base_of: Callable[[str], Base], family: str) -> None:
    base = base_of(family)
    name = base.family.pipeline_class.replace("Pipeline", "Img2ImgPipeline")
    given: dict[str, Any] = {"image": latents_of(base, PICTURE)}
    ours = generate(base, DRAW, inputs=Inputs(image=PICTURE))[0].image
    assert levels_apart(ours, theirs(base, name, "ddim", **given)) <= TOLERANCE


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m_karras"])
def test_image_to_image_by_v_prediction_equals_diffusers(tmp_path: Path, sampler: str) -> None:
    folder = save_tiny_pipeline(tmp_path / "v", family="sd2", prediction_type="v_prediction")
    base = load_base(folder, device="cpu")
    config = DRAW.model_copy(update={"sampler": sampler})
    ours = generate(base, config, inputs=Inputs(image=PICTURE))[0].image
    plain = theirs(base, "StableDiffusionImg2ImgPipeline", sampler, image=latents_of(base, PICTURE))
    assert levels_apart(ours, plain) <= TOLERANCE


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_inpainting_equals_diffusers(base_of: Callable[[str], Base], sampler: str, strength: float) -> None:
    base = base_of("sd15")
    config = DRAW.model_copy(update={"sampler": sampler, "strength": strength, "mask_blur": 0})
    ours = generate(base, config, inputs=Inputs(image=PICTURE, mask=MASK))[0].image
    given: dict[str, Any] = {"image": latents_of(base, PICTURE)}
    given["masked_image_latents"] = given["image"]
    size = {"width": 16, "height": 16}
    plain = theirs(base, "StableDiffusionInpaintPipeline", sampler, config, mask_image=MASK, **given, **size)
    # Beyond the mask ours has the picture's own pixels, theirs what the autoencoder makes of them.
    assert levels_apart(_masked(ours), _masked(plain)) <= TOLERANCE
    assert levels_apart(_masked(ours), _masked(PICTURE)) > 20 * TOLERANCE


def _masked(image: Any) -> Any:
    return image.crop((4, 2, 12, 12))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_inpainting_of_sdxl_equals_diffusers(base_of: Callable[[str], Base], strength: float) -> None:
    base = base_of("sdxl")
    config = DRAW.model_copy(update={"strength": strength, "mask_blur": 0})
    ours = generate(base, config, inputs=Inputs(image=PICTURE, mask=MASK))[0].image
    given: dict[str, Any] = {
        "image": latents_of(base, PICTURE),
        "mask_image": MASK,
        "width": 16,
        "height": 16,
    }
    given["masked_image_latents"] = given["image"]
    plain = theirs(base, "StableDiffusionXLInpaintPipeline", "ddim", config, **given)
    assert levels_apart(_masked(ours), _masked(plain)) <= TOLERANCE


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m_karras"])
def test_an_inpainting_unet_equals_diffusers(inpainting: Base, sampler: str, strength: float) -> None:
    config = DRAW.model_copy(update={"sampler": sampler, "strength": strength, "mask_blur": 0})
    ours = generate(inpainting, config, inputs=Inputs(image=PICTURE, mask=MASK))[0].image
    pixels = (to_pixels(PICTURE) * 2 - 1) * (to_pixels(MASK) < 0.5)
    given: dict[str, Any] = {
        "image": latents_of(inpainting, PICTURE),
        "masked_image_latents": encoded(inpainting, pixels),
    }
    plain = theirs(
        inpainting, "StableDiffusionInpaintPipeline", sampler, config, mask_image=MASK, width=16, height=16,
        **given,
    )  # fmt: skip
    assert levels_apart(_masked(ours), _masked(plain)) <= TOLERANCE
    other = generate(inpainting, config, inputs=Inputs(image=PICTURE))[0].image
    assert levels_apart(_masked(ours), _masked(other)) > 5 * TOLERANCE


def test_an_inpainting_unet_draws_from_text_too(inpainting: Base) -> None:
    """As with a mask over everything: the UNet is told that nothing is given."""
    everywhere = box_mask((16, 16), (0, 0, 16, 16))
    plain = generate(inpainting, DRAW)[0].image
    config = DRAW.model_copy(update={"strength": 1.0})
    over = generate(inpainting, config, inputs=Inputs(image=PICTURE, mask=everywhere))[0].image
    assert plain.tobytes() == over.tobytes()
    larger = generate(inpainting, DRAW.model_copy(update={"hires_scale": 2.0}))[0].image
    assert larger.size == (32, 32)


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "dpmpp_2m_karras", "heun"])
def test_full_strength_is_text_to_image(tiny_base: Base, sampler: str) -> None:
    config = DRAW.model_copy(update={"sampler": sampler, "strength": 1.0})
    over = generate(tiny_base, config, inputs=Inputs(image=PICTURE))[0].image
    assert over.tobytes() == generate(tiny_base, config)[0].image.tobytes()


def test_no_strength_gives_the_picture_as_the_autoencoder_has_it(tiny_base: Base) -> None:
    seen: list[Step] = []
    config = DRAW.model_copy(update={"strength": 0.0})
    drawn = generate(tiny_base, config, inputs=Inputs(image=PICTURE), on_step=seen.append)[0].image
    own = to_images(tiny_base.decode_latents(latents_of(tiny_base, PICTURE)))[0]
    assert drawn.tobytes() == own.tobytes() and not seen


@pytest.mark.parametrize(("strength", "walked"), [(0.01, 1), (0.5, 3), (0.99, 5), (1.0, 6)])
def test_strength_is_the_share_of_steps(tiny_base: Base, strength: float, walked: int) -> None:
    seen: list[tuple[int, int]] = []
    config = DRAW.model_copy(update={"strength": strength})
    generate(
        tiny_base, config, inputs=Inputs(image=PICTURE), on_step=lambda s: seen.append((s.done, s.total))
    )
    assert seen == [(step, walked) for step in range(1, walked + 1)]


def test_a_single_step_of_a_picture_doesnt_start_from_noise(tiny_base: Base) -> None:
    config = DRAW.model_copy(update={"num_inference_steps": 1, "strength": 0.5})
    one = generate(tiny_base, config, inputs=Inputs(image=PICTURE))[0].image
    other = generate(tiny_base, config, inputs=Inputs(image=noisy_picture(seed=9)))[0].image
    assert levels_apart(one, other) > 20


def test_a_mask_over_everything_is_image_to_image(tiny_base: Base) -> None:
    everywhere = box_mask((16, 16), (0, 0, 16, 16))
    masked = generate(tiny_base, DRAW, inputs=Inputs(image=PICTURE, mask=everywhere))[0].image
    assert masked.tobytes() == generate(tiny_base, DRAW, inputs=Inputs(image=PICTURE))[0].image.tobytes()


def test_an_empty_mask_leaves_the_picture(tiny_base: Base) -> None:
    for padding in (None, 4):
        config = DRAW.model_copy(update={"mask_padding": padding})
        empty = box_mask((16, 16), (0, 0, 0, 0))
        picture = generate(tiny_base, config, inputs=Inputs(image=PICTURE, mask=empty))[0]
        assert picture.image.tobytes() == PICTURE.tobytes()
        assert "the mask marks nothing" in picture.settings["notes"][0]


def test_a_pictures_settings_draw_it_again(tiny_base: Base, tmp_path: Path) -> None:
    large = noisy_picture(40, 26)
    config = DRAW.model_copy(
        update={"mask_padding": 3, "num_images": 2, "prompt": "a {fox|cat|dog|crow}", "seed": 8}
    )
    inputs = Inputs(image=large, mask=box_mask((40, 26), (5, 6, 17, 14)))
    picture = generate(tiny_base, config, inputs=inputs)[1]
    picture.save(tmp_path / "p.png")
    settings = read_settings(tmp_path / "p.png")
    again = GenerationConfig.model_validate(settings["generation"])
    assert settings["template"] == "a {fox|cat|dog|crow}" != again.prompt
    assert again.image == PictureUse.of(large)
    redrawn = generate(tiny_base, again, inputs=inputs)[0]
    assert redrawn.image.tobytes() == picture.image.tobytes()
    with pytest.raises(ConfigError, match="the picture isn't the one that the settings name"):
        generate(tiny_base, again, inputs=Inputs(image=noisy_picture(40, 26, seed=1), mask=inputs.mask))
    with pytest.raises(ConfigError, match=r"the settings name a mask, sha256 .*, which wasn't given"):
        generate(tiny_base, again, inputs=Inputs(image=large))


def test_a_seeds_picture_doesnt_depend_on_what_else_is_drawn(tiny_base: Base) -> None:
    inputs = Inputs(image=PICTURE, mask=MASK)
    config = DRAW.model_copy(update={"sampler": "euler_a"})
    many = generate(tiny_base, config.model_copy(update={"num_images": 3}), inputs=inputs)
    for picture in many:
        alone = generate(tiny_base, config.model_copy(update={"seed": picture.seed}), inputs=inputs)[0]
        assert alone.image.tobytes() == picture.image.tobytes()
    batch = config.model_copy(update={"num_images": 3, "batch_size": 3})
    for one, other in zip(many, generate(tiny_base, batch, inputs=inputs), strict=True):
        assert levels_apart(one.image, other.image) <= 1


@pytest.mark.parametrize(
    ("steps", "hires", "strength", "expected"),
    [(20, None, 0.5, (40, 20)), (20, 10, 0.6, (16, 10)), (20, 7, 1.0, (7, 7)), (20, 7, 0.0, (7, 0)),
     (1000, None, 0.6, (1000, 600))],
)  # fmt: skip
def test_the_second_pass_walks_the_steps_asked_for(
    steps: int, hires: int | None, strength: float, expected: tuple[int, int]
) -> None:
    config = GenerationConfig(
        prompt="", num_inference_steps=steps, hires_steps=hires, hires_strength=strength
    )
    assert hires_steps(config) == expected


def test_steps_show_rough_pictures_of_every_pass(tiny_base: Base) -> None:
    seen: list[tuple[Step, Image.Image]] = []
    config = DRAW.model_copy(update={"hires_scale": 2.0, "hires_steps": 2})
    generate(tiny_base, config, on_step=lambda step: seen.append((step, step.preview())))
    assert [picture.size for _, picture in seen] == [(16, 16)] * 6 + [(32, 32)] * 2
    step, picture = seen[3]
    assert picture.tobytes() == fit(tiny_base).picture(step.estimate()).tobytes()
    assert len({picture.tobytes() for _, picture in seen}) == len(seen)


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("dtype", ["bf16", pytest.param("fp16", marks=pytest.mark.gpu)])
def test_half_precision_draws_in_every_way(tiny_folder: Path, dtype: str, strength: float) -> None:
    """Close to what full precision draws: nothing overflows, nothing is left in another type."""
    device = "cpu" if dtype == "bf16" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA card")
    half = load_base(tiny_folder, device=device, dtype=dtype)
    whole = load_base(tiny_folder, device="cpu")
    ways: list[tuple[dict[str, Any], Inputs]] = [
        ({}, Inputs()),
        ({"hires_scale": 2.0}, Inputs()),
        ({"hires_scale": 2.0, "hires_upscaler": "lanczos"}, Inputs(image=PICTURE)),
        ({"sampler": "dpmpp_2m_karras"}, Inputs(image=PICTURE, mask=MASK)),
        ({"mask_padding": 2, "guidance_rescale": 0.5}, Inputs(image=PICTURE, mask=MASK)),
    ]
    for fields, inputs in ways:
        config = DRAW.model_copy(update={"strength": strength, "guidance_scale": 2.0, **fields})
        types = set()
        one = generate(half, config, inputs=inputs, on_step=lambda step: types.add(step.latents.dtype))  # noqa: B023
        other = generate(whole, config, inputs=inputs)
        assert types == {half.dtype}
        assert psnr(one[0].image, other[0].image) > 25, fields
