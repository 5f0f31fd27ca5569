"""Real-world texts are read rightly, and what Pigment writes is read back."""

from __future__ import annotations

import time
from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import PictureError
from pipelines.generation import GenerationConfig
from pipelines.parameters import a1111_parameters, parse_a1111
from pipelines.parameters.writing import split_label
from pipelines.prompts import without_choices
from pipelines.samplers import SAMPLERS
from tests.pipelines.parameters.cases import CASES

SETTINGS: dict[str, Any] = {
    "version": 2,
    "generation": {},
    "base": {"ref": "bases/dreamy.safetensors", "sha256": "0123456789abcdef" * 4, "family": "sd15"},
}


def settings(**fields: Any) -> dict[str, Any]:
    config = GenerationConfig.model_validate({"prompt": "a cat", "width": 512, "height": 768, **fields})
    return {**SETTINGS, "generation": config.model_dump(mode="json")}


@pytest.mark.parametrize("name", CASES)
def test_texts_are_read(name: str) -> None:
    case = CASES[name]
    found = parse_a1111(case.text)
    assert found.fields == case.fields
    assert astuple(found.base) == case.base
    assert tuple(astuple(hint) for hint in found.adapters) == case.adapters
    assert found.left_over == case.left
    assert found.source == "a1111"
    GenerationConfig.model_validate(found.fields)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 30
    assert len({case.text for case in CASES.values()}) == len(CASES)


WRITTEN: dict[str, dict[str, Any]] = {
    "plain": {},
    "all of the first pass": {
        "negative_prompt": "bad,\nworse", "num_inference_steps": 7, "guidance_scale": 4.5, "seed": 2**53 - 1,
        "clip_skip": 2, "guidance_rescale": 0.7, "eta": 0.25, "sampler": "ddim",
    },
    "hires": {"hires_scale": 1.5, "hires_steps": 9, "hires_strength": 0.55, "hires_upscaler": "lanczos"},
    "over a picture": {
        "image": {"name": "a, b: c", "sha256": "a" * 64}, "mask": {"name": "m", "sha256": "b" * 64},
        "strength": 0.3, "mask_blur": 6, "mask_padding": 40, "mask_invert": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_read_back(name: str) -> None:
    asked = settings(**WRITTEN[name])
    found = parse_a1111(a1111_parameters(asked))
    wanted = {key: value for key, value in asked["generation"].items() if key in found.fields}
    assert found.fields == wanted
    assert set(WRITTEN[name]) - {"image", "mask"} <= set(found.fields)
    assert found.left_over == {}
    assert astuple(found.base) == ("dreamy", "0123456789", None)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_is_read_back(sampler: str) -> None:
    found = parse_a1111(a1111_parameters(settings(sampler=sampler)))
    assert found.fields["sampler"] == sampler
    assert "Schedule type" not in found.left_over


def test_the_schedule_stands_apart_from_the_sampler() -> None:
    assert split_label("dpmpp_2m_karras") == ("DPM++ 2M", "Karras")
    assert split_label("dpmpp_2m") == ("DPM++ 2M", "Uniform")  # A1111 takes "Automatic" for Karras
    assert split_label("euler_a") == ("Euler a", "Automatic")


def test_adapters_and_models_are_written_as_a1111_does() -> None:
    asked = settings(
        adapters=[
            {"name": "ink, x", "sha256": "ab" * 32, "weight": 0.8},
            {"name": "fox", "sha256": "cd" * 32, "weight": 1, "text_weight": 0},
            {"name": "two: <fold>", "sha256": "ef" * 32, "weight": 1},
        ]
    )
    asked["base"] |= {"ref": "D:\\models\\a, b.safetensors", "vae": {"ref": "v/mse.safetensors"}}
    text = a1111_parameters(asked)
    assert text.splitlines()[0] == "a cat <lora:ink x:0.8> <lora:fox:0:1> <lora:two fold:1>"
    assert 'Model: "a, b", VAE: mse.safetensors' in text
    assert text.endswith('Lora hashes: "ink x: abababababab, fox: cdcdcdcdcdcd, two fold: efefefefefef"')
    found = parse_a1111(text)
    assert [(hint.name, hint.weight, hint.text_weight) for hint in found.adapters] == [
        ("ink x", 0.8, None),
        ("fox", 1.0, 0.0),
        ("two fold", 1.0, None),
    ]
    assert [hint.hash for hint in found.adapters] == ["ab" * 6, "cd" * 6, "ef" * 6]
    assert astuple(found.base) == ("a, b", "0123456789", "mse")


_line = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Zs", "Cf")), max_size=30).filter(
    lambda text: text.strip() == text and "<lor" not in text and "<lyc" not in text
)


@given(_line, _line, st.integers(0, 2**53 - 1), st.floats(1, 30).map(lambda value: float(f"{value:g}")))
def test_any_prompt_goes_around(prompt: str, negative: str, seed: int, guidance: float) -> None:
    asked = settings(prompt=prompt, negative_prompt=negative, seed=seed, guidance_scale=guidance)
    found = parse_a1111(a1111_parameters(asked)).fields
    assert found["seed"] == seed
    assert found["guidance_scale"] == guidance
    wanted = without_choices(prompt), without_choices(negative)
    assert (found["prompt"], found["negative_prompt"]) == wanted


@given(st.text(max_size=200) | st.text('Steps: 20,\n"{}[]SamplerNgativpomt', max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    found = parse_a1111(text)
    GenerationConfig.model_validate({"prompt": "", **found.fields})


@pytest.mark.parametrize(
    "piece",
    ["a: ", "Steps: 1, Sampler: x, ", "\n", "Negative prompt:", "[", "A: [", '"', 'A: "', "A: {", ",",
     "Steps: 1\n", "<lora:", "<lora:a>", "Steps: 2, a: b Steps: ", "x" * 50 + " "],
)  # fmt: skip
def test_hostile_texts_take_no_time(piece: str) -> None:
    began = time.process_time()
    parse_a1111((piece * (100_000 // len(piece) + 1))[:100_000])
    assert time.process_time() - began < 5


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(PictureError, match="at most 1000000"):
        parse_a1111("x" * 1_000_001)
