"""Choices made by the seed, the same for ever."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import ConfigError
from pipelines.prompts import resolve_wildcards


def test_choices_never_change() -> None:
    """These texts lie in people's pictures: a change here breaks their templates."""
    prompt = "a {red|green|blue} {cat|{big|small} dog|}, {3::day|night}"
    assert [resolve_wildcards(prompt, seed) for seed in range(6)] == [
        "a red , day",
        "a red big dog, day",
        "a red cat, day",
        "a blue , day",
        "a blue big dog, day",
        "a green small dog, day",
    ]


def test_every_option_is_drawn_and_weights_count() -> None:
    drawn = Counter(resolve_wildcards("{a|b|c}", seed) for seed in range(3000))
    assert set(drawn) == set("abc")
    assert all(900 < count < 1100 for count in drawn.values())
    weighted = Counter(resolve_wildcards("{ 3::a|1.5::b|0::c|d}", seed) for seed in range(5500))
    assert "c" not in weighted
    assert 2800 < weighted["a"] < 3200
    assert 1350 < weighted["b"] < 1650
    assert 850 < weighted["d"] < 1150


def test_groups_are_drawn_apart() -> None:
    pairs = Counter(resolve_wildcards("{a|b}{a|b}{{a|b}|{a|b}}", seed) for seed in range(400))
    assert len(pairs) == 8


@pytest.mark.parametrize(
    "prompt",
    ["", "a cat", "a {cat}", "{}", "a | b", "a } b {", "{a|b", r"\{a|b\}", r"{a\|b}", r"a\\ b", "{ {a} }",
     "((a:1.2))", "a\\"],
)  # fmt: skip
def test_what_is_no_choice_stays(prompt: str) -> None:
    assert resolve_wildcards(prompt, 1) == prompt


def test_empty_options_nesting_and_escapes() -> None:
    assert resolve_wildcards("a{|}b", 0) == "ab"
    assert {resolve_wildcards("a{|x}", seed) for seed in range(20)} == {"a", "ax"}
    assert {resolve_wildcards(r"{\{1\}|2\|3}", seed) for seed in range(20)} == {r"\{1\}", r"2\|3"}
    assert {resolve_wildcards(r"\\{a|b}", seed) for seed in range(20)} == {r"\\a", r"\\b"}
    assert {resolve_wildcards("{{a|b}|{c|{d|e}}}", seed) for seed in range(90)} == set("abcde")
    assert {resolve_wildcards("{(a:1.2)|<lora:x:1>}", seed) for seed in range(20)} == {
        "(a:1.2)",
        "<lora:x:1>",
    }


@pytest.mark.parametrize(
    "prompt", ["{1.2.3::a|b}", "{-1::a|b}", "{9999999::a|b}", "{2$$a|b}", "{0::a|0::b}", "{::a|b}"]
)
def test_weights_that_cannot_be_read_are_refused(prompt: str) -> None:
    with pytest.raises(ConfigError):
        resolve_wildcards(prompt, 0)


@given(st.text("{}|\\ab ", max_size=40), st.integers(0, 2**53 - 1))
def test_a_resolved_prompt_resolves_to_itself(prompt: str, seed: int) -> None:
    """A picture's settings hold the resolved prompt, and are drawn again with whatever seed."""
    once = resolve_wildcards(prompt, seed)
    assert resolve_wildcards(once, seed) == once
    assert resolve_wildcards(once, seed + 1) == once


@pytest.mark.parametrize(
    "prompt", ["{" * 10_000, "{|" * 3333 + "}" * 3333, "}" * 10_000, "{a|" * 3000, "|" * 10_000]
)
def test_hostile_braces_take_no_time(prompt: str) -> None:
    began = time.process_time()
    resolve_wildcards(prompt, 3)
    assert time.process_time() - began < 2
