"""Drawing: a seed's picture is its own, equals diffusers', and its file draws it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import ValidationError

from pipelines.base import Base, load_base
from pipelines.errors import ConfigError, PictureError
from pipelines.generate import AdapterUse, GenerationConfig, Step, generate, generate_prompts
from pipelines.grids import psnr
from pipelines.picture import a1111_parameters, read_settings
from pipelines.samplers import SAMPLERS, make_scheduler
from tests.tiny import save_tiny_pipeline

# One of each kind; tests/pipelines/test_samplers.py walks all of them.
KINDS = tuple({row.scheduler: name for name, row in SAMPLERS.items()}.values())
FEW = GenerationConfig(prompt="a fox", num_inference_steps=3, guidance_scale=2.0)


@pytest.mark.parametrize("sampler", KINDS)
def test_a_seeds_picture_doesnt_depend_on_its_batch(tiny_base: Base, sampler: str) -> None:
    config = FEW.model_copy(update={"sampler": sampler, "seed": 10})
    batch = generate(tiny_base, config.model_copy(update={"num_images": 2}))
    assert [picture.seed for picture in batch] == [10, 11]
    for picture in batch:
        alone = generate(tiny_base, config.model_copy(update={"seed": picture.seed}))[0]
        assert alone.image.tobytes() == picture.image.tobytes()
    assert batch[0].image.tobytes() != batch[1].image.tobytes()


@pytest.mark.parametrize("sampler", KINDS)
def test_many_prompts_at_once_draw_what_each_draws_alone(tiny_base: Base, sampler: str) -> None:
    config = FEW.model_copy(update={"sampler": sampler})
    prompts, seeds = ["a fox", "an owl", ""], [4, 4, 9]
    images = generate_prompts(tiny_base, prompts, seeds, config, batch_size=2)
    for prompt, seed, image in zip(prompts, seeds, images, strict=True):
        alone = generate(tiny_base, config.model_copy(update={"prompt": prompt, "seed": seed}))[0].image
        difference = np.abs(np.asarray(alone, int) - np.asarray(image, int)).max()
        assert difference <= 1, f"{prompt!r} {seed}: {difference} levels"


def test_every_option_changes_the_picture(tiny_base: Base) -> None:
    plain = generate(tiny_base, FEW)[0].image.tobytes()
    assert generate(tiny_base, FEW)[0].image.tobytes() == plain
    for change in (
        {"prompt": "an owl"},
        {"negative_prompt": "a dog"},
        {"seed": 1},
        {"num_inference_steps": 4},
        {"guidance_scale": 9.0},
        {"guidance_scale": 1.0},
        {"width": 32},
        {"height": 32},
        {"sampler": "euler_a"},
        {"guidance_rescale": 0.7},
        {"eta": 1.0},
        {"clip_skip": 2},
        {"prompt": "a (fox:1.4)"},
        {"prompt": "a {fox|owl}", "seed": 1},
        {"hires_scale": 1.5},
    ):
        assert generate(tiny_base, FEW.model_copy(update=change))[0].image.tobytes() != plain, change


def test_sizes_are_honoured_and_uneven_ones_rounded(tiny_base: Base) -> None:
    assert generate(tiny_base, FEW.model_copy(update={"width": 24, "height": 8}))[0].image.size == (24, 8)
    picture = generate(tiny_base, FEW.model_copy(update={"width": 17}))[0]
    assert picture.image.size == (18, 16)
    assert picture.settings["notes"] == ["width 17 isn't a multiple of 2: drawn at 18"]
    assert picture.settings["generation"]["width"] == 18


def test_steps_are_counted_and_can_be_stopped(tiny_base: Base) -> None:
    config = FEW.model_copy(update={"num_images": 3})
    seen: list[tuple[int, int]] = []

    def watch(step: Step) -> bool | None:
        seen.append((step.done, step.total))
        return False if step.done == 5 else None

    pictures = generate(tiny_base, config, on_step=watch)
    assert seen == [(1, 9), (2, 9), (3, 9), (4, 9), (5, 9)]
    assert len(pictures) == 1


def test_a_batch_draws_what_each_draws_alone(tiny_base: Base) -> None:
    config = FEW.model_copy(update={"num_images": 5, "sampler": "euler_a", "seed": 2})
    counts: list[tuple[int, int]] = []
    batched = generate(
        tiny_base,
        config.model_copy(update={"batch_size": 2}),
        on_step=lambda step: counts.append((step.done, step.total)),
    )
    assert counts == [(step, 9) for step in range(1, 10)]
    for picture, alone in zip(batched, generate(tiny_base, config), strict=True):
        assert picture.seed == alone.seed
        assert np.abs(np.asarray(picture.image, int) - np.asarray(alone.image, int)).max() <= 1
    said = [picture.settings["notes"] for picture in batched]
    assert [len(notes) for notes in said] == [1, 1, 1, 1, 0] and "batch of 2" in said[0][0]


def test_the_steps_estimate_ends_at_the_picture(tiny_base: Base) -> None:
    """A step's clean estimate equals diffusers' `pred_original_sample`, and at the end the latents."""
    seen: list[Step] = []
    generate(tiny_base, FEW, on_step=seen.append)
    assert [step.estimate().shape for step in seen] == [(1, 4, 8, 8)] * 3
    spread = (seen[-1].estimate() - seen[-1].latents).abs().max() / seen[-1].latents.abs().max()
    assert spread < 0.1  # DDIM's last step leads to the estimate, but for the alpha of its end
    assert not torch.equal(seen[0].estimate(), seen[0].latents)


def test_eta_needs_a_sampler_that_takes_it(tiny_base: Base) -> None:
    with pytest.raises(ConfigError, match=r"eta is 0\.5, which sampler 'euler' has no use for"):
        generate(tiny_base, FEW.model_copy(update={"eta": 0.5, "sampler": "euler"}))


@pytest.mark.parametrize("options", [{"guidance_rescale": 0.7}, {"eta": 0.6}])
def test_rescale_and_eta_equal_plain_diffusers(tmp_path: Path, options: dict[str, float]) -> None:
    base = load_base(save_tiny_pipeline(tmp_path / "b", prediction_type="v_prediction"), device="cpu")
    ours = generate(base, FEW.model_copy(update={"seed": 3, "guidance_scale": 9.0, **options}))[0].image
    plain = generate(base, FEW.model_copy(update={"seed": 3, "guidance_scale": 9.0}))[0].image
    pipeline = base.pipeline()
    pipeline.scheduler = make_scheduler(base, "ddim")
    generator = torch.Generator().manual_seed(3)
    theirs = pipeline(
        "a fox", num_inference_steps=3, guidance_scale=9.0, generator=generator, height=16, width=16,
        **options,
    ).images[0]  # fmt: skip
    assert psnr(ours, theirs) > 48 and psnr(plain, theirs) < 40


def test_prompts_and_seeds_must_pair(tiny_base: Base) -> None:
    with pytest.raises(ConfigError, match="2 prompts and 1 seeds"):
        generate_prompts(tiny_base, ["a", "b"], [1], FEW)
    assert generate_prompts(tiny_base, [], [], FEW) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": -1},
        {"num_images": 0},
        {"num_inference_steps": 0},
        {"guidance_scale": 0.5},
        {"guidance_scale": float("nan")},
        {"width": 4},
        {"sampler": "dimm"},
        {"prompt": "x" * 10_001},
        {"colour": "red"},
        {"adapters": [{"name": "a", "sha256": "", "weight": 4.0}]},
    ],
)
def test_settings_out_of_bounds_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GenerationConfig.model_validate({"prompt": "a", **fields})


def test_every_field_has_words_for_the_page() -> None:
    for model in (GenerationConfig, AdapterUse):
        for name, field in model.model_fields.items():
            assert field.title and field.description, name


def test_an_unknown_sampler_offers_the_nearest(tiny_base: Base) -> None:
    with pytest.raises(ConfigError, match="did you mean 'euler'"):
        make_scheduler(tiny_base, "eulr")
    with pytest.raises(ValidationError, match="did you mean 'euler'"):
        GenerationConfig(prompt="", sampler="eulr")


def test_settings_in_the_file_draw_the_picture_again(tiny_base: Base, tmp_path: Path) -> None:
    uses = (AdapterUse(name="zwölf", sha256="ab" * 32, weight=0.8, text_weight=0.5),)
    prompt = "a “fox”\nin snow, 漢字 \\ 🦊"
    config = GenerationConfig(
        prompt=prompt, negative_prompt="x", seed=41, num_images=2, num_inference_steps=3, adapters=uses
    )
    picture = generate(tiny_base, config)[1]
    path = tmp_path / "p.png"
    picture.save(path)
    settings = read_settings(path)
    assert settings == picture.settings
    assert settings["version"] == 2
    assert settings["base"] == {
        "ref": tiny_base.ref, "sha256": tiny_base.sha256, "family": "sd15", "prediction_type": "epsilon"
    }  # fmt: skip
    again = GenerationConfig.model_validate(settings["generation"])
    assert (again.seed, again.num_images, again.prompt, again.adapters) == (42, 1, prompt, uses)
    assert (again.width, again.height) == (16, 16)
    assert generate(tiny_base, again)[0].image.tobytes() == picture.image.tobytes()
    with Image.open(path) as opened:
        assert opened.convert("RGB").tobytes() == picture.image.tobytes()


def test_a_vae_of_ones_own_is_in_the_settings(tiny_folder: Path, tmp_path: Path) -> None:
    other = save_tiny_pipeline(tmp_path / "other", seed=5) / "vae"
    base = load_base(tiny_folder, device="cpu", vae=other)
    settings = generate(base, FEW)[0].settings
    assert base.source is not None
    assert settings["base"]["vae"] == {"ref": str(other), "sha256": base.source.vae_sha256}
    assert "VAE: vae" in a1111_parameters(settings)


def test_the_parameters_text_is_what_a1111_writes(tiny_base: Base, tmp_path: Path) -> None:
    config = FEW.model_copy(
        update={
            "negative_prompt": "grey",
            "sampler": "dpmpp_2m_karras",
            "adapters": (
                AdapterUse(name="fox", sha256="ab" * 32, weight=0.8),
                AdapterUse(name="ink", sha256="cd" * 32, weight=1.0, text_weight=0.25),
            ),
        }
    )
    picture = generate(tiny_base, config)[0]
    path = tmp_path / "p.png"
    picture.save(path)
    with Image.open(path) as opened:
        text = opened.info["parameters"]
    assert text == a1111_parameters(picture.settings)
    assert text.splitlines() == [
        "a fox <lora:fox:0.8> <lora:ink:0.25:1>",
        "Negative prompt: grey",
        "Steps: 3, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 2, Seed: 0, Size: 16x16, "
        f"Model hash: {tiny_base.sha256[:10]}, Model: base, RNG: CPU, "
        'Lora hashes: "fox: abababababab, ink: cdcdcdcdcdcd"',
    ]


def _png(path: Path, **chunks: str) -> Path:
    info = PngInfo()
    for key, text in chunks.items():
        info.add_itxt(key, text)
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


def test_pictures_without_settings_are_refused(tiny_base: Base, tmp_path: Path) -> None:
    text = tmp_path / "a.png"
    text.write_text("no picture")
    cut = tmp_path / "cut.png"
    cut.write_bytes(_png(tmp_path / "whole.png", pigment="{}").read_bytes()[:60])
    for path, says in [
        (text, "isn't a readable PNG"),
        (cut, "isn't a readable PNG"),
        (tmp_path / "nowhere.png", "isn't a readable PNG"),
        (_png(tmp_path / "b.png"), "holds no Pigment settings"),
        (_png(tmp_path / "c.png", pigment="{"), "aren't readable"),
        (_png(tmp_path / "d.png", pigment='{"generation": 1}'), "aren't readable"),
    ]:
        with pytest.raises(PictureError, match=says):
            read_settings(path)
    with pytest.raises(PictureError, match="expected a name ending in"):
        generate(tiny_base, FEW)[0].save(tmp_path / "a.jpg")
    with pytest.raises(PictureError, match="can't be written"):
        generate(tiny_base, FEW)[0].save(tmp_path / "missing" / "a.png")
    assert not list(tmp_path.glob("*.tmp"))


def test_the_embedded_base_draws_the_same_bits_from_its_file(pocket: Base, tmp_path: Path) -> None:
    config = GenerationConfig(
        prompt="a photo of an owl in the snow", seed=3, num_images=2, num_inference_steps=6
    )
    picture = generate(pocket, config)[1]
    picture.save(tmp_path / "owl.png")
    again = GenerationConfig.model_validate(read_settings(tmp_path / "owl.png")["generation"])
    assert generate(pocket, again)[0].image.tobytes() == picture.image.tobytes()
    assert np.asarray(picture.image).std() > 5
