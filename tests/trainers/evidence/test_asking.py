"""What is drawn to be measured, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainers.evidence.asking import UNRELATED, fixed_prompts, plain, unrelated_prompts
from trainers.settings import DataConfig, EvidenceConfig


def data(**fields: Any) -> DataConfig:
    usual: dict[str, Any] = {
        "instance_images": Path("pictures"), "trigger": "zuv", "instance_prompt": "a photo of a zuv robot",
    }  # fmt: skip
    return DataConfig(**{**usual, **fields})


STYLE: dict[str, Any] = {"kind": "style", "instance_prompt": "a picture in zuv style"}


def test_a_subject_is_asked_for_as_it_is_and_in_scenes() -> None:
    found = fixed_prompts(data(), EvidenceConfig())
    assert found[0] == "a photo of a zuv robot" and len(set(found)) == len(found) == 3
    assert all(prompt.startswith("a photo of a zuv robot") for prompt in found)


@pytest.mark.parametrize(
    ("prompt", "first"),
    [
        ("a picture in zuv style", "a cat in zuv style"),
        ("a drawing by zuv", "a cat by zuv"),
        ("an image in the style of zuv", "a cat in the style of zuv"),
        ("zuv style", "a cat, zuv style"),
    ],
)
def test_a_style_is_asked_for_on_things(prompt: str, first: str) -> None:
    found = fixed_prompts(data(kind="style", instance_prompt=prompt), EvidenceConfig())
    assert found[0] == first and len(set(found)) == 3 and all("zuv" in one for one in found)


def test_prompts_that_are_given_are_taken() -> None:
    assert fixed_prompts(data(), EvidenceConfig(evidence_prompts=("zuv", "b"))) == ["zuv", "b"]


@pytest.mark.parametrize(
    ("prompt", "fields", "expected"),
    [
        ("a photo of a zuv robot in the snow", {}, "a photo of a robot in the snow"),
        ("a photo of a ZUV robot", {"class_prompt": "a photo of a machine"}, "a photo of a machine"),
        ("a zuv robot at night", {"class_prompt": "a photo of a machine"}, "a robot at night"),
        ("zuv", {}, ""),
        ("a zuvian robot", {}, "a zuvian robot"),
        ("a photo of zuv at night", {}, "a photo of zuv at night".replace(" of zuv", "")),
        ("a cat in zuv style", STYLE, "a cat"),
        ("a cat in the style of zuv, at night", STYLE, "a cat, at night"),
        ("zuv style, a cat", STYLE, "a cat"),
        ("a cat, zuv, at night", STYLE, "a cat, at night"),
        ("a dog", STYLE, "a dog"),
    ],
)
def test_the_trigger_is_left_out(prompt: str, fields: dict[str, Any], expected: str) -> None:
    assert plain(prompt, data(**fields)) == expected


def test_unrelated_prompts_say_nothing_of_what_is_learned() -> None:
    assert unrelated_prompts(data()) == list(UNRELATED)
    found = unrelated_prompts(data(class_prompt="a photo of a dog"))
    assert len(found) == len(UNRELATED) - 1 and not any("dog" in prompt for prompt in found)
