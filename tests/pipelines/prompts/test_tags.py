"""Adapters named in a prompt."""

from __future__ import annotations

import pytest

from pipelines.errors import ConfigError
from pipelines.prompts import Tag, split_tags

READ = {
    "<lora:fox>": Tag("fox"),
    "<lora:fox:0.8>": Tag("fox", 0.8),
    "<lora:my fox v1.2:-1>": Tag("my fox v1.2", -1.0),
    "<lyco:fox:.5>": Tag("fox", 0.5),
    "<lora:fox:0.5:0.8>": Tag("fox", 0.8, 0.5),
    "<lora:fox:0.8:0.8>": Tag("fox", 0.8),
    "<lora:fox:te=0.5:unet=0.8>": Tag("fox", 0.8, 0.5),
    "<lora:fox:unet=0.8>": Tag("fox", 0.8, 1.0),
    "<lora:fox:te=0.5>": Tag("fox", 0.5),
    "<lora:fox:0.3:te=0>": Tag("fox", 0.0),
    "<lora:fox:0.3:unet=2>": Tag("fox", 2.0, 0.3),
}


@pytest.mark.parametrize("tag", READ)
def test_tags_are_read(tag: str) -> None:
    assert split_tags(f"a cat {tag}") == ("a cat", (READ[tag],))


def test_tags_come_out_in_order_and_the_rest_stays() -> None:
    rest, tags = split_tags("<lora:b:1> a (cat)  <lora:a>, <lora:b:0.5>dog")
    assert rest == "a (cat)  , dog"
    assert [(tag.name, tag.weight) for tag in tags] == [("b", 1.0), ("a", 1.0), ("b", 0.5)]


@pytest.mark.parametrize(
    "prompt", ["  a <cat> ", "<hypernet:x:1>", "<lora>", "<lora:x", "<Lora:x:1>", "a < b > c", "<xlora:a:1>"]
)
def test_other_words_in_angle_brackets_stay(prompt: str) -> None:
    assert split_tags(prompt) == (prompt, ())


@pytest.mark.parametrize(
    "tag",
    ["<lora:>", "<lora: :1>", "<lora:a:>", "<lora:a:x>", "<lora:a:nan>", "<lora:a:te=inf>", "<lora:a:1:1:1>",
     "<lora:a:1:lbw=OUTALL>", "<lora:a:dyn=4>", "<lora:a:te=1:te=2>", f"<lora:a:{'9' * 5000}x>"],
)  # fmt: skip
def test_malformed_tags_are_one_line(tag: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split_tags(f"a {tag}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
