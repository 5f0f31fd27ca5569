"""What a command line asks of a drawing: flags, files and pictures as settings, before anything is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.errors import AdapterError, ConfigError
from pipelines.generation import GenerationConfig
from studio.commands.arguments import Parser
from studio.commands.settings import add_settings, asked, plain_fields


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIGMENT_WORKSPACE", str(tmp_path / "workspace"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


OVER = ("--image", "in.png")
TWICE = ("--hires-scale", "2")
ACTS_WITH: dict[str, tuple[str, ...]] = {
    "strength": OVER,
    **dict.fromkeys(("mask_blur", "mask_padding", "mask_invert"), (*OVER, "--mask", "in.png")),
    **dict.fromkeys(("hires_steps", "hires_strength", "hires_upscaler"), TWICE),
    "batch_size": ("--count", "2"),
}
"""What a setting needs to change anything."""
OTHER_VALUES: dict[str, Any] = {"sampler": "heun", "hires_upscaler": "lanczos", "negative_prompt": "a, b"}


def test_every_plain_setting_has_a_flag_that_arrives() -> None:
    Image.new("RGB", (4, 4)).save("in.png")
    parser = Parser()
    parser.add_argument("--base", default=None)
    add_settings(parser)
    specs = plain_fields()
    assert {"seed", "width", "strength", "hires_upscaler", "clip_skip"} <= {spec.path for spec in specs}
    records = {"prompt", "adapters", "image", "mask", "controls", "image_prompt"}
    assert {spec.path for spec in specs} == GenerationConfig.model_fields.keys() - records
    for spec in specs:
        flag = f"--{spec.path.replace('_', '-')}"
        default = GenerationConfig.model_fields[spec.path].default
        wanted: Any
        if spec.kind == "flag":
            words, wanted = [f"--no{flag[1:]}" if default else flag], not default
        elif spec.kind == "text":
            wanted = OTHER_VALUES[spec.path]
            words = [flag, wanted]
        else:
            assert spec.minimum is not None and spec.maximum is not None
            wanted = spec.minimum if default != spec.minimum else spec.minimum + (spec.kind == "whole") + 0.0
            wanted = spec.maximum if wanted == default else wanted
            words = [flag, f"{wanted:.17g}"]
        words += ACTS_WITH.get(spec.path, ())
        found = asked(parser.parse_args(["a fox", *words])).config
        assert getattr(found, spec.path) == wanted != default, spec.path


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        *((["--strength", "0.5"] + more, "a picture") for more in ([], ["--hires-scale", "2"])),
        (["--mask-blur", "0", *OVER], "a mask"),
        (["--mask-invert", *OVER], "a mask"),
        (["--mask-padding", "3"], "a mask"),
        (["--hires-steps", "3"], "a hires_scale above 1"),
        (["--hires-strength", "0.5"], "a hires_scale above 1"),
        (["--hires-upscaler", "Lanczos"], "a hires_scale above 1"),
        (["--guidance", "1", "--negative", "x"], "a guidance_scale above 1"),
        (["--guidance", "1", "--guidance-rescale", "0.5"], "a guidance_scale above 1"),
        (["--batch-size", "4"], "num_images above 1"),
        (["--eta", "0.5", "--sampler", "Euler a"], "sampler ddim"),
        (["--config", "idle.toml"], "a hires_scale above 1"),
    ],
)
def test_settings_that_change_nothing_are_refused(words: list[str], needs: str) -> None:
    Image.new("RGB", (4, 4)).save("in.png")
    Path("idle.toml").write_text("hires_steps = 3\n")
    with pytest.raises(ConfigError, match=f"without {needs}.*; give"):
        asked(_parsed("a fox", *words))


def test_of_a_picture_they_are_said() -> None:
    info = PngInfo()
    info.add_text("parameters", "a\nSteps: 2, Sampler: Euler, CFG scale: 2, Seed: 9, Denoising strength: 0.4")
    Image.new("RGB", (4, 4)).save("over.png", pnginfo=info)
    assert [note for note in asked(_parsed("--from", "over.png")).notes if "strength is 0.4" in note]
    found = asked(_parsed("--from", "over.png", "--image", "over.png"))
    assert found.config.strength == 0.4 and not found.notes


def test_a_settings_file_has_every_name_of_a_sampler_and_an_upscaler() -> None:
    Path("s.toml").write_text(
        'sampler = "DPM++ 2M Karras"\nhires_upscaler = "Latent (bicubic)"\nhires_scale = 2\n'
    )
    config = asked(_parsed("a fox", "--config", "s.toml")).config
    assert (config.sampler, config.hires_upscaler) == ("dpmpp_2m_karras", "latent_bicubic")
    with pytest.raises(ConfigError, match=r"^unknown upscaler 'lanzcos'; did you mean 'lanczos'"):
        asked(_parsed("a fox", *TWICE, "--hires-upscaler", "lanzcos"))


@pytest.mark.parametrize("words", [["a fox", "--adapter", "masct"], ["a <lora:masct:1>"]])
def test_a_misspelt_example_is_offered_by_what_can_be_typed(words: list[str]) -> None:
    with pytest.raises(AdapterError, match="did you mean 'mascot'"):
        asked(_parsed(*words))


def test_a_prompt_of_ten_thousand_characters_and_no_more() -> None:
    assert len(asked(_parsed("a fox, " * 1428 + "abcd")).config.prompt) == 10_000
    with pytest.raises(ConfigError, match=r"… \(10001 characters\), expected at most 10000 characters"):
        asked(_parsed("x" * 10_001))


def _parsed(*words: str) -> Any:
    parser = Parser()
    for name in ("--base", "--workspace"):
        parser.add_argument(name, default=None)
    add_settings(parser)
    return parser.parse_args(words)


def test_the_embedded_base_is_known_in_any_text() -> None:
    info = PngInfo()
    info.add_text("parameters", "a\nSteps: 2, Sampler: Euler, CFG scale: 2, Seed: 9, Model: pocket")
    Image.new("RGB", (4, 4)).save("web.png", pnginfo=info)
    assert asked(_parsed("--from", "web.png")).base == "pocket"
