"""Brackets mean what they mean in A1111."""

from __future__ import annotations

import time

import pytest

from pipelines.errors import ConfigError
from pipelines.prompts.weights import parse_weights, refuse_unsupported

# What A1111 documents of its own parser, and what follows from its rules.
READ: dict[str, list[list[tuple[str, float]]]] = {
    "normal text": [[("normal text", 1.0)]],
    "an (important) word": [[("an ", 1.0), ("important", 1.1), (" word", 1.0)]],
    "(unbalanced": [[("unbalanced", 1.1)]],
    "un) bal] anced": [[("un) bal] anced", 1.0)]],
    r"\(literal\]": [[("(literal]", 1.0)]],
    "(unnecessary)(parens)": [[("unnecessaryparens", 1.1)]],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        [
            ("a ", 1.0),
            ("house", 1.5730000000000004),
            (" ", 1.1),
            ("on", 1.0),
            (" a ", 1.1),
            ("hill", 0.55),
            (", sun, ", 1.1),
            ("sky", 1.4641000000000006),
            (".", 1.1),
        ]
    ],
    "[weak] and [[weaker]]": [[("weak", 1 / 1.1), (" and ", 1.0), ("weaker", 1 / 1.1 / 1.1)]],
    "(both [at:2) once]": [[("both ", 2.0), ("at", 2 / 1.1), (" once", 1 / 1.1)]],
    "(a:+1.5)(b:-0.5)(c:.5)(d: 2 )": [[("a", 1.5), ("b", -0.5), ("c", 0.5), ("d", 2.0)]],
    "time: 10:30 :2) x": [[("time: 10:30 :2) x", 1.0)]],
    "a\\b \\\\ c": [[("ab \\ c", 1.0)]],
    "": [[]],
    "()": [[]],
    "a BREAK b": [[("a", 1.0)], [("b", 1.0)]],
    "a\nBREAK,BREAK": [[("a", 1.0)], [(",", 1.0)], [("", 1.0)]],
    "BREAKFAST break": [[("BREAKFAST break", 1.0)]],
    "(a BREAK b:1.2) c": [[("a", 1.2)], [("b", 1.2), (" c", 1.0)]],
}


@pytest.mark.parametrize("prompt", READ)
def test_prompts_are_read_as_in_a1111(prompt: str) -> None:
    found = parse_weights(prompt)
    assert [[text for text, _ in part] for part in found] == [[text for text, _ in p] for p in READ[prompt]]
    for part, wanted in zip(found, READ[prompt], strict=True):
        assert [weight for _, weight in part] == pytest.approx([weight for _, weight in wanted], rel=1e-12)


def test_weights_are_multiplied_in_the_order_in_which_brackets_close() -> None:
    assert parse_weights("((house:1.3))")[0][0][1] == 1.3 * 1.1
    assert parse_weights("(((house:1.3))")[0][0][1] == 1.5730000000000004


@pytest.mark.parametrize("prompt", ["(a:1.2.3)", "(a:.)", "(a:--1)"])
def test_a_weight_that_is_no_number_is_refused(prompt: str) -> None:
    if prompt == "(a:--1)":  # not of a weight's letters at all: a colon and text
        assert parse_weights(prompt) == [[("a:--1", 1.1)]]
        return
    with pytest.raises(ConfigError, match="isn't a number"):
        parse_weights(prompt)


@pytest.mark.parametrize("prompt", ["(a:101)", "(a:-101)", "(" * 60 + "a", "(a" * 4000, f"(a:{'9' * 400})"])
def test_weights_that_would_overflow_are_refused(prompt: str) -> None:
    with pytest.raises(ConfigError, match="at most 100"):
        parse_weights(prompt)


# Read by A1111 as several prompts or steps: its own grammar's examples.
SCHEDULED = ["a [b:3]", "a [b: 3]", "a [[[b]]:2]", "[(a:2):3]", "a [b : c : 1] d", "a[b:[c:d:2]:1]e",
             "a [b:.5] c", "((a][:b:c [d:3]", "a [b::0.5] c", "[a|(b:1.1)]", "[a|b|c]", "[|]"]  # fmt: skip
PLAIN = ["[a]", "a [unbalanced", "[a: b]", "[a (b:0.5]", "[a:1 ]", r"[a\|b]", r"[a\:3]", r"\[a:0.5\]",
         "(a:0.5)", "a|b", "(a|b)", "[x:y:z:0.5]", "]a:0.5[", "sand and ANDROID"]  # fmt: skip


@pytest.mark.parametrize("prompt", SCHEDULED)
def test_prompts_that_change_with_the_steps_are_refused(prompt: str) -> None:
    for negative in (False, True):
        with pytest.raises(ConfigError, match="isn't supported") as caught:
            refuse_unsupported(prompt, negative=negative)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prompt", [*PLAIN, *READ])
def test_other_prompts_pass(prompt: str) -> None:
    refuse_unsupported(prompt)


def test_composition_is_refused_but_a_word_in_negative_prompts() -> None:
    with pytest.raises(ConfigError, match="AND"):
        refuse_unsupported("a cat AND a dog")
    refuse_unsupported("a cat AND a dog", negative=True)


@pytest.mark.parametrize(
    "prompt", ["(a[" * 3333, "[" * 5000 + ")" * 5000, "[a:" * 2500 + "]" * 2500, "\\" * 10_000]
)
def test_hostile_brackets_take_no_time(prompt: str) -> None:
    began = time.process_time()
    refuse_unsupported(prompt)
    try:
        parse_weights(prompt)
    except ConfigError as error:
        assert "at most 100" in str(error)
    assert time.process_time() - began < 2
