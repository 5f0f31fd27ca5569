"""Every sampler draws what plain diffusers draws with its scheduler, each picture by its own seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.base import Base, load_base
from pipelines.errors import ConfigError
from pipelines.generate import GenerationConfig, Inputs, generate, generate_prompts
from pipelines.samplers import (
    SAMPLERS,
    make_scheduler,
    sampler_named,
    set_timesteps,
    spellings,
    step_arguments,
)
from tests.pipelines.drawing.scenes import latents_of, noisy_picture
from tests.tiny import save_tiny_pipeline

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Should have tb<=t1:UserWarning"),  # by plain diffusers
]
FEW = GenerationConfig(prompt="a fox", num_inference_steps=4, guidance_scale=2.0)


@pytest.fixture(scope="module")
def base_by_prediction(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Base]:
    """Tiny bases by prediction type, loaded once."""
    loaded: dict[str, Base] = {}

    def get(prediction: str) -> Base:
        if prediction not in loaded:
            folder = tmp_path_factory.mktemp(prediction) / "base"
            loaded[prediction] = load_base(
                save_tiny_pipeline(folder, prediction_type=prediction), device="cpu"
            )
        return loaded[prediction]

    return get


def apart(first: Image.Image, second: Image.Image) -> int:
    """The largest difference of two pictures in levels of 255."""
    return int(np.abs(np.asarray(first, int) - np.asarray(second, int)).max())


def plain_diffusers(
    base: Base, config: GenerationConfig, kind: str | None = None, **given: Any
) -> Image.Image:
    """The picture by a plain pipeline with a scheduler made by diffusers from the base's config.

    kind: the pipeline's class, None for text-to-image.
    """
    import diffusers

    row = SAMPLERS[config.sampler]
    pipeline: Any = base.pipeline()
    if kind is not None:
        pipeline = getattr(diffusers, kind)(**pipeline.components, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
    else:
        given = {"height": 16, "width": 16}
    arguments = dict(row.arguments)
    if row.scheduler == "DPMSolverSDEScheduler":
        arguments["noise_sampler_seed"] = config.seed
    pipeline.scheduler = getattr(diffusers, row.scheduler).from_config(base.scheduler.config, **arguments)
    found = pipeline(
        config.prompt, negative_prompt=config.negative_prompt,
        num_inference_steps=config.num_inference_steps, guidance_scale=config.guidance_scale,
        generator=torch.Generator().manual_seed(config.seed),
        eta=0.3 if config.sampler == "tcd" else 0.0, **given,
    )  # fmt: skip
    picture: Image.Image = found.images[0]
    return picture


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_drawing_over_a_picture_equals_plain_diffusers_within_one_level(
    base_by_prediction: Callable[[str], Base], sampler: str
) -> None:
    base = base_by_prediction("epsilon")
    picture = noisy_picture()
    config = FEW.model_copy(update={"sampler": sampler, "seed": 3, "num_inference_steps": 6, "strength": 0.6})
    ours = generate(base, config, inputs=Inputs(image=picture))[0].image
    given = {"image": latents_of(base, picture), "strength": 0.6}
    assert apart(ours, plain_diffusers(base, config, "StableDiffusionImg2ImgPipeline", **given)) <= 1
    assert apart(ours, generate(base, config)[0].image) > 5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pictures_equal_plain_diffusers_within_one_level(
    base_by_prediction: Callable[[str], Base], sampler: str, prediction: str
) -> None:
    base = base_by_prediction(prediction)
    config = FEW.model_copy(update={"sampler": sampler, "seed": 3, "negative_prompt": "grey"})
    ours, theirs = generate(base, config)[0].image, plain_diffusers(base, config)
    assert apart(ours, theirs) <= 1
    assert np.asarray(ours).std() > 5, "a flat picture compares with anything"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_gives_its_picture_whatever_it_is_drawn_with(
    base_by_prediction: Callable[[str], Base], sampler: str
) -> None:
    base = base_by_prediction("epsilon")
    config = FEW.model_copy(update={"sampler": sampler})
    images = generate_prompts(base, ["a fox"] * 2, [7, 8], config)
    for seed, image in zip([7, 8], images, strict=True):
        alone = generate(base, config.model_copy(update={"seed": seed}))[0].image
        assert apart(alone, image) <= 1
    again = generate(base, config.model_copy(update={"seed": 8}))[0].image
    assert again.tobytes() == alone.tobytes()
    assert apart(images[0], images[1]) > 5


@pytest.mark.parametrize("steps", [1, 2, 5, 60])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_any_number_of_steps_ends_in_numbers(
    base_by_prediction: Callable[[str], Base], sampler: str, steps: int
) -> None:
    scheduler: Any = make_scheduler(base_by_prediction("epsilon"), sampler)
    timesteps = set_timesteps(scheduler, steps)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((1, 4, 8, 8), generator=generator) * scheduler.init_noise_sigma
    extra = step_arguments(scheduler, sampler, latents, [generator])
    assert len(timesteps) >= steps and torch.equal(timesteps, scheduler.timesteps)
    for timestep in timesteps:
        inputs = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(0.9 * inputs.tanh(), timestep, latents, return_dict=False, **extra)[0]
    assert latents.isfinite().all() and latents.shape == (1, 4, 8, 8)


@pytest.mark.parametrize("sampler", ["lcm", "tcd"])
def test_distilled_samplers_take_more_steps_than_they_were_made_for(tiny_base: Base, sampler: str) -> None:
    for steps, first in ((4, 999), (50, 999), (51, 999), (251, 999), (1000, 999)):
        timesteps = set_timesteps(make_scheduler(tiny_base, sampler), steps)
        assert len(timesteps) == steps == len(set(timesteps.tolist())) and timesteps[0] == first


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_strength_takes_the_last_share_of_the_steps(tiny_base: Base, sampler: str) -> None:
    """Noise is added as for the first step that is left, as in diffusers' img2img."""
    whole = set_timesteps(make_scheduler(tiny_base, sampler), 8)
    scheduler: Any = make_scheduler(tiny_base, sampler)
    timesteps = set_timesteps(scheduler, 8, strength=0.5)
    assert torch.equal(timesteps, whole[4 * scheduler.order :])
    noisy = scheduler.add_noise(torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2), timesteps[:1]).mean()
    if hasattr(scheduler, "sigmas") and scheduler.init_noise_sigma != 1:
        assert noisy == pytest.approx(float(scheduler.sigmas[4 * scheduler.order]), rel=1e-4)
    else:
        assert noisy == pytest.approx(float(1 - scheduler.alphas_cumprod[int(timesteps[0])]) ** 0.5, rel=2e-2)
    assert len(set_timesteps(scheduler, 8, strength=0.1)) == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noisy_says_whether_noise_is_drawn(base_by_prediction: Callable[[str], Base], sampler: str) -> None:
    def end(noise_seed: int) -> torch.Tensor:
        scheduler: Any = make_scheduler(base_by_prediction("epsilon"), sampler)
        set_timesteps(scheduler, 5)
        latents = torch.ones(1, 4, 8, 8) * scheduler.init_noise_sigma
        extra = step_arguments(scheduler, sampler, latents, [torch.Generator().manual_seed(noise_seed)])
        for timestep in scheduler.timesteps:
            inputs = scheduler.scale_model_input(latents, timestep)
            latents = scheduler.step(0.5 * inputs, timestep, latents, return_dict=False, **extra)[0]
        return latents

    assert (not torch.equal(end(1), end(2))) == SAMPLERS[sampler].noisy


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_eta_counts_or_is_refused(base_by_prediction: Callable[[str], Base], sampler: str) -> None:
    base = base_by_prediction("epsilon")
    with_eta = FEW.model_copy(update={"sampler": sampler, "eta": 0.9})
    if not SAMPLERS[sampler].eta:
        with pytest.raises(ConfigError, match="has no use for; use 0, or choose 'ddim'"):
            generate(base, with_eta)
        return
    without = FEW.model_copy(update={"sampler": sampler})
    assert generate(base, with_eta)[0].image.tobytes() != generate(base, without)[0].image.tobytes()
    assert generate(base, with_eta)[0].image.tobytes() == generate(base, with_eta)[0].image.tobytes()


def test_another_scheduler_of_the_base_doesnt_reach_into_a_sampler(tiny_base: Base) -> None:
    from diffusers import DPMSolverMultistepScheduler, PNDMScheduler

    plain = {key: make_scheduler(tiny_base, key) for key in SAMPLERS}
    config = dict(tiny_base.scheduler.config)
    tiny_base.scheduler = DPMSolverMultistepScheduler.from_config(
        config, use_karras_sigmas=True, algorithm_type="sde-dpmsolver++", solver_order=3, solver_type="heun"
    )
    for key, scheduler in plain.items():
        found: Any = make_scheduler(tiny_base, key)
        set_timesteps(found, 6)
        set_timesteps(scheduler, 6)
        if hasattr(scheduler, "sigmas"):
            assert torch.equal(torch.as_tensor(found.sigmas), torch.as_tensor(scheduler.sigmas)), key
        for name in ("algorithm_type", "solver_order", "solver_type", "use_karras_sigmas"):
            assert found.config.get(name) == scheduler.config.get(name), (key, name)
    tiny_base.scheduler = PNDMScheduler(prediction_type="epsilon")
    for key in ("ddim", "ddpm", "lcm", "tcd"):
        assert make_scheduler(tiny_base, key).config["clip_sample"] is False, key


def test_a_sampler_that_cant_draw_the_base_says_so(tiny_base: Base) -> None:
    from diffusers import DDIMScheduler

    config = dict(tiny_base.scheduler.config)
    tiny_base.scheduler = DDIMScheduler.from_config(config, rescale_betas_zero_snr=True)
    able = []
    for key, row in SAMPLERS.items():
        try:
            assert make_scheduler(tiny_base, key).config["rescale_betas_zero_snr"] is True
            able.append(key)
        except ConfigError as error:
            assert row.label in str(error) and "zero terminal SNR" in str(error)
    assert {"ddim", "euler", "euler_a", "dpmpp_2m", "unipc"} <= set(able) < set(SAMPLERS)
    tiny_base.scheduler = DDIMScheduler.from_config(config, prediction_type="sample")
    for key in SAMPLERS:
        with pytest.raises(ConfigError, match="predicts 'sample'; expected epsilon or v_prediction"):
            make_scheduler(tiny_base, key)


def test_unknown_samplers_offer_the_nearest(tiny_base: Base) -> None:
    with pytest.raises(ConfigError, match="did you mean 'euler_a' or"):
        make_scheduler(tiny_base, "euler_b")


def test_every_spelling_names_one_row() -> None:
    seen: dict[str, str] = {}
    for key in SAMPLERS:
        for spelling in spellings(key):
            assert seen.setdefault(spelling, key) == key, spelling
    assert len({row.label for row in SAMPLERS.values()}) == len(SAMPLERS)
    assert len({row.comfyui for row in SAMPLERS.values()}) == len(SAMPLERS)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("dpm++ 2m karras", "dpmpp_2m_karras"),
        ("DPM++ 2M Automatic", "dpmpp_2m_karras"),
        ("DPM++ 2M", "dpmpp_2m"),
        ("k_dpmpp_2m", "dpmpp_2m"),
        ("sample_dpmpp_2m_sde", "dpmpp_2m_sde"),
        ("dpmpp_2m_sde karras", "dpmpp_2m_sde_karras"),
        ("dpmpp_2m normal", "dpmpp_2m"),
        ("euler_ancestral", "euler_a"),
        ("Euler a", "euler_a"),
        ("euler", "euler"),
        ("uni_pc", "unipc"),
        ("dpm_2_ancestral karras", "dpm2_a_karras"),
        ("PLMS", "plms"),
        ("UniPCMultistepScheduler", "unipc"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m"),
        ("", None),
        ("DPM adaptive", None),
        ("DPM++ 2S a", None),
    ],
)
def test_other_programs_names_are_understood(text: str, key: str | None) -> None:
    assert sampler_named(text) == key
    if key is not None:
        assert sampler_named(SAMPLERS[key].label) == key == sampler_named(" ".join(SAMPLERS[key].comfyui))


@pytest.mark.parametrize("sampler", ["dpmpp_sde", "dpmpp_sde_karras"])
def test_noise_paths_are_asked_within_their_ends(
    base_by_prediction: Callable[[str], Base], sampler: str, recwarn: pytest.WarningsRecorder
) -> None:
    """torchsde warns on standard error of a time beyond its path's end, by rounding alone."""
    latents = torch.zeros(1, 4, 2, 2)
    for steps in range(2, 40):
        scheduler: Any = make_scheduler(base_by_prediction("epsilon"), sampler)
        timesteps = set_timesteps(scheduler, steps, "cpu", strength=0.6)
        step_arguments(scheduler, sampler, latents, [torch.Generator().manual_seed(0)])
        sigmas = scheduler.sigmas
        scheduler.noise_sampler(sigmas.max(), sigmas[sigmas > 0].min())
        for one, following in zip(sigmas[-len(timesteps) - 1 :], sigmas[-len(timesteps) :], strict=False):
            if one > following > 0:
                scheduler.noise_sampler(one, following)
    assert not [warning for warning in recwarn if "Should have" in str(warning.message)]
