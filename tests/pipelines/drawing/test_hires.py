"""The second pass: larger, drawn over, and counted with the first."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from pipelines.base import Base
from pipelines.drawing.hires import UPSCALERS, enlarged, hires_size
from pipelines.drawing.images import to_images
from pipelines.generate import GenerationConfig, Inputs, Step, generate
from tests.pipelines.drawing.scenes import diffusers_pipeline, latents_of, levels_apart, noisy_picture

DRAW = GenerationConfig(
    prompt="a fox", num_inference_steps=4, guidance_scale=2.0, seed=5, hires_scale=2.0, hires_steps=3,
    hires_strength=0.5,
)  # fmt: skip


@pytest.mark.parametrize("upscaler", UPSCALERS)
def test_every_upscaler_draws_larger(tiny_base: Base, upscaler: str) -> None:
    config = DRAW.model_copy(update={"hires_upscaler": upscaler})
    seen: list[Step] = []
    picture = generate(tiny_base, config.model_copy(update={"num_images": 2}), on_step=seen.append)[1]
    assert picture.image.size == (32, 32)
    assert [(step.done, step.total) for step in seen] == [(done, 14) for done in range(1, 15)]
    assert [step.latents.shape[-1] for step in seen] == [8] * 4 + [16] * 3 + [8] * 4 + [16] * 3
    again = GenerationConfig.model_validate(picture.settings["generation"])
    assert (again.width, again.hires_scale, again.hires_upscaler) == (16, 2.0, upscaler)
    assert generate(tiny_base, again)[0].image.tobytes() == picture.image.tobytes()


def test_upscalers_differ(tiny_base: Base) -> None:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = [enlarged(tiny_base, upscaler, latents, (20, 28)) for upscaler in UPSCALERS]
    assert {tuple(one.shape) for one in found} == {(1, 4, 10, 14)}
    assert len({one.numpy().tobytes() for one in found}) == len(UPSCALERS)
    assert {row.label for row in UPSCALERS.values()} >= {"Latent", "Lanczos", "Nearest"}


@pytest.mark.parametrize("upscaler", ["latent", "lanczos"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_second_pass_is_image_to_image(
    tiny_base: Base, tiny_sdxl: Base, upscaler: str, family: str
) -> None:
    """Diffusers' image-to-image over the enlarged latents, its schedule finer by the strength."""
    base = {"sd15": tiny_base, "sdxl": tiny_sdxl}[family]
    config = DRAW.model_copy(update={"hires_upscaler": upscaler})
    ours = generate(base, config)[0].image
    seen: list[Step] = []
    generate(base, config.model_copy(update={"hires_scale": 1.0}), on_step=seen.append)
    name = base.family.pipeline_class.replace("Pipeline", "Img2ImgPipeline")
    theirs = diffusers_pipeline(base, name)(
        "a fox",
        image=enlarged(base, upscaler, seen[-1].latents, (32, 32)),
        num_inference_steps=6,
        strength=0.5,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(5),
    ).images[0]
    assert levels_apart(ours, theirs) <= 1


def test_a_second_pass_of_no_strength_only_enlarges(tiny_base: Base) -> None:
    config = DRAW.model_copy(update={"hires_strength": 0.0, "hires_upscaler": "nearest"})
    seen: list[Step] = []
    larger = generate(tiny_base, config, on_step=seen.append)[0].image
    assert [step.total for step in seen] == [4] * 4
    first = generate(tiny_base, config.model_copy(update={"hires_scale": 1.0}))[0].image
    doubled = first.resize((32, 32), 0)
    own = tiny_base.decode_latents(latents_of(tiny_base, doubled))
    assert levels_apart(larger, to_images(own)[0]) <= 1


def test_a_drawn_over_picture_gets_a_second_pass_too(tiny_base: Base) -> None:
    picture = generate(tiny_base, DRAW, inputs=Inputs(image=noisy_picture(20, 16)))[0]
    assert picture.image.size == (40, 32)


def test_stopping_between_the_passes(tiny_base: Base) -> None:
    done: list[int] = []

    def watch(step: Step) -> bool:
        done.append(step.done)
        return step.done < 4

    assert generate(tiny_base, DRAW, on_step=watch) == [] and done == [1, 2, 3, 4]


def test_sizes_are_whole_latents(tiny_base: Base) -> None:
    for scale, expected in ((1.5, (24, 30)), (1.3, (20, 26)), (4.0, (64, 80))):
        config = DRAW.model_copy(update={"hires_scale": scale})
        assert hires_size(tiny_base, config, (16, 20)) == expected


def test_an_unknown_upscaler_offers_the_nearest() -> None:
    with pytest.raises(ValidationError, match="did you mean 'lanczos'"):
        GenerationConfig(prompt="", hires_upscaler="lanczo")
