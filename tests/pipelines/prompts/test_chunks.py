"""Prompts of any length in chunks of the encoder's length (16 tokens here: 14 and bos, eos)."""

from __future__ import annotations

import pytest
import torch

from pipelines.base import Base
from pipelines.prompts.chunks import Chunk, Cutter
from pipelines.prompts.weights import parse_weights
from pipelines.words import LearnedWords


def cut(base: Base, prompt: str) -> list[Chunk]:
    return Cutter(base, "text_encoder").cut(parse_weights(prompt))


def texts(base: Base, prompt: str) -> list[str]:
    """The words of each chunk, each byte being a token; without padding."""
    tokenizer = base.tokenizer_of("text_encoder")
    found = []
    for chunk in cut(base, prompt):
        assert len(chunk.ids) == len(chunk.weights) == 16
        assert chunk.ids[0] == tokenizer.bos_token_id
        end = chunk.ids.index(tokenizer.eos_token_id)
        assert set(chunk.ids[end + 1 :]) <= {tokenizer.pad_token_id}
        found.append("".join(tokenizer.convert_ids_to_tokens(chunk.ids[1:end])).replace("</w>", " ").strip())
    return found


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("", [""]),
        ("a cat", ["a cat"]),
        ("abcdefghijklmn", ["abcdefghijklmn"]),
        ("abcdefghijklmno", ["abcdefghijklmn", "o"]),
        ("abc, defghijklmn", ["abc ,", "defghijklmn"]),  # the comma is within 20 tokens of the end
        ("abcdefghijklm, n", ["abcdefghijklm ,", "n"]),
        ("abcdefghijklmn, o", ["abcdefghijklmn", ", o"]),
        ("a, b, cdefghijklmnop", ["a , b ,", "cdefghijklmnop"]),
        ("abc, defghijklmnopqrs", ["abc ,", "defghijklmnopq", "rs"]),
        ("a BREAK b", ["a", "b"]),
        ("BREAK b", ["", "b"]),
        ("a BREAK BREAK b", ["a", "", "b"]),
        ("a BREAK", ["a"]),
        ("BREAK", [""]),
        ("(ab)(cd:0.5)", ["ab cd"]),
    ],
)
def test_prompts_are_parted(tiny_base: Base, prompt: str, wanted: list[str]) -> None:
    assert texts(tiny_base, prompt) == wanted


def test_a_comma_far_from_the_end_is_no_place_to_part(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.prompts.chunks.BACK_OFF", 10)
    assert texts(tiny_base, "abc, defghijklmno") == [
        "abc , defghijklm",
        "no",
    ]  # the comma is 11 before the end
    assert texts(tiny_base, "abcd, efghijklmnop") == ["abcd ,", "efghijklmnop"]


def test_weights_follow_their_tokens_into_the_next_chunk(tiny_base: Base) -> None:
    first, second = cut(tiny_base, "abc, (defghij:1.5)klmno")
    assert first.weights == [1.0] * 16
    assert second.weights == [1.0] + [1.5] * 7 + [1.0] * 8


def test_padding_is_of_the_tokenizer(tiny_base: Base) -> None:
    tokenizer = tiny_base.tokenizer_of("text_encoder")
    whole = tokenizer(["a cat"], padding="max_length", max_length=16).input_ids[0]
    assert cut(tiny_base, "a cat")[0].ids == whole
    assert (
        Cutter(tiny_base, "text_encoder").empty().ids
        == tokenizer([""], padding="max_length", max_length=16).input_ids[0]
    )


@pytest.mark.parametrize(("before", "chunks"), [(9, 1), (10, 1), (11, 2), (13, 2), (14, 2)])
def test_a_learned_word_of_several_vectors_stays_whole(tiny_base: Base, before: int, chunks: int) -> None:
    words = LearnedWords(tiny_base, {"one": {"<fox>": {"text_encoder": torch.randn(4, 32)}}})
    words.set({"one": {"text_encoder": 1.0}})
    tiny_base.words = words
    try:
        tokenizer = tiny_base.tokenizer_of("text_encoder")
        names = ["<fox>", "<fox>_1", "<fox>_2", "<fox>_3"]
        found = cut(tiny_base, "x" * before + " <fox>")
        ids = [int(i) for i in tokenizer.convert_tokens_to_ids(names)]
        assert len(found) == chunks
        assert found[-1].ids[1 + (before if chunks == 1 else 0) :][:4] == ids
        twice = cut(tiny_base, "(<fox>:0.5) <fox> <fox> <fox>")  # 16 vectors: three words, then one
        assert [sum(chunk.ids.count(i) for i in ids) for chunk in twice] == [12, 4]
        assert twice[0].weights[1:6] == [0.5] * 4 + [1.0]
    finally:
        words.remove()
        tiny_base.words = None


def test_a_word_longer_than_a_chunk_goes_on_in_the_next(tiny_base: Base) -> None:
    words = LearnedWords(tiny_base, {"one": {"<fox>": {"text_encoder": torch.randn(20, 32)}}})
    words.set({"one": {"text_encoder": 1.0}})
    tiny_base.words = words
    try:
        first, second = cut(tiny_base, "<fox>")
        assert [first.ids[1], second.ids[1]] == [
            tiny_base.tokenizer_of("text_encoder").convert_tokens_to_ids(n) for n in ("<fox>", "<fox>_14")
        ]
    finally:
        words.remove()
        tiny_base.words = None
