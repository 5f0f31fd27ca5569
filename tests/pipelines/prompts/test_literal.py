"""Text that means itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.prompts import literal, resolve_wildcards, split_tags, without_choices
from pipelines.prompts.weights import parse_weights, refuse_unsupported

_PIECES = [
    "(",
    ")",
    "[",
    "]",
    "{",
    "|",
    "}",
    "\\",
    ":1.2",
    ":",
    "BREAK",
    "AND",
    "a",
    " ",
    "<lora:x:1>",
    "<cat>",
]


def read(prompt: str) -> list[list[tuple[str, float]]]:
    """All that happens to a prompt on its way to the tokenizer."""
    rest, tags = split_tags(resolve_wildcards(prompt, 3))
    assert tags == ()
    refuse_unsupported(rest)
    return parse_weights(rest)


@pytest.mark.parametrize(
    "text",
    ["", "a cat", "(a:1.2)", "[a|b]", "{a|b}", "a AND b BREAK c", "<lora:x:1> <lyco:y>", "\\(", "BREAKFAST"],
)
def test_text_means_itself(text: str) -> None:
    assert read(literal(text)) == ([[(text, 1.0)]] if text else [[]])


@given(st.lists(st.sampled_from(_PIECES), max_size=12).map("".join) | st.text(max_size=20))
def test_any_text_means_itself(text: str) -> None:
    assert read(literal(text)) == ([[(text, 1.0)]] if text else [[]])


def test_plain_text_stays() -> None:
    assert literal("a cat, red: 2 <fox> BREAKFAST") == "a cat, red: 2 <fox> BREAKFAST"


@given(st.lists(st.sampled_from(_PIECES), max_size=12).map("".join))
def test_a_prompt_without_choices_has_none(prompt: str) -> None:
    found = without_choices(prompt)
    assert resolve_wildcards(found, 5) == found


def test_braces_of_other_programs_stay_text() -> None:
    assert without_choices("a {{best}} cat | dog") == "a {{best}} cat | dog"
    assert without_choices("{a|b} \\\\{c}") == "\\{a\\|b\\} \\\\\\{c\\}"
    assert parse_weights(without_choices("{2$$a|b}")) == [[("{2$$a|b}", 1.0)]]
