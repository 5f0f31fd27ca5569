"""Encoded prompts against the base's own, transformers by hand, and diffusers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from pipelines.base import Base
from pipelines.errors import ConfigError
from pipelines.families import FAMILIES
from pipelines.prompts import encode
from pipelines.words import LearnedWords

FAMILY = pytest.mark.parametrize("family", FAMILIES)
Get = Callable[[str], Base]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def by_hand(base: Base, component: str, text: str, clip_skip: int | None = None) -> torch.Tensor:
    """One chunk through tokenizer and text encoder: (L, D)."""
    tokenizer: Any = base.tokenizer_of(component)
    ids = tokenizer(
        [text], padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    ).input_ids
    return base.encode_tokens(component, ids, clip_skip)[0][0]


@FAMILY
@pytest.mark.parametrize("prompts", [["a cat"], ["a cat", "", "fox: 2|x"], ["x" * 14]])
def test_plain_prompts_give_the_bases_own_bits(base_of: Get, family: str, prompts: list[str]) -> None:
    base, negatives = base_of(family), ["" if index else "bad" for index, _ in enumerate(prompts)]
    positive, negative = encode(base, prompts, negatives)
    for found, wanted in [
        (positive, base.condition(prompts)),
        (negative, base.condition(negatives, negative=True)),
    ]:
        assert torch.equal(found.hidden, wanted.hidden)
        assert (found.pooled is None) == (wanted.pooled is None)
        if found.pooled is not None and wanted.pooled is not None:
            assert torch.equal(found.pooled, wanted.pooled)


@FAMILY
def test_chunks_are_those_encoded_by_hand(base_of: Get, family: str) -> None:
    base = base_of(family)
    positive, negative = encode(base, ["abc, defghijklmn"], ["bad"])
    parts = []
    for row in base.family.text_encoders:
        parts.append(torch.cat([by_hand(base, row.component, text) for text in ("abc,", "defghijklmn")]))
    assert positive.hidden.shape[1] == negative.hidden.shape[1] == 32
    torch.testing.assert_close(positive.hidden[0], torch.cat(parts, dim=-1), rtol=0, atol=1e-5)
    first = base.condition(["abc,"])
    if first.pooled is not None:
        assert positive.pooled is not None
        assert torch.equal(positive.pooled, first.pooled)
    filled = [
        torch.cat([by_hand(base, row.component, text) for text in ("bad", "")])
        for row in base.family.text_encoders
    ]
    torch.testing.assert_close(negative.hidden[0], torch.cat(filled, dim=-1), rtol=0, atol=1e-5)


@FAMILY
@pytest.mark.parametrize("clip_skip", [None, 1, 2])
def test_emphasis_multiplies_and_gives_the_mean_back(
    base_of: Get, family: str, clip_skip: int | None
) -> None:
    base = base_of(family)
    positive, _ = encode(base, ["(ab:1.5) c [d] BREAK e"], [], clip_skip=clip_skip)
    weights = torch.ones(16)
    weights[1:3], weights[4] = 1.5, 1 / 1.1
    wanted = []
    for row in base.family.text_encoders:
        hidden = by_hand(base, row.component, "ab c d", clip_skip)
        weighted = hidden * weights[:, None]
        second = by_hand(base, row.component, "e", clip_skip)
        wanted.append(torch.cat([weighted * hidden.mean() / weighted.mean(), second]))
    torch.testing.assert_close(positive.hidden[0], torch.cat(wanted, dim=-1), rtol=1e-4, atol=1e-4)


def test_a_prompts_emphasis_doesnt_depend_on_the_others(base_of: Get) -> None:
    base = base_of("sd15")
    alone = encode(base, ["(a:1.5) b"], [])[0].hidden
    among = encode(base, ["(a:1.5) b", "(c:0.2) d", "plain"], [])[0].hidden
    torch.testing.assert_close(alone[0], among[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(among[2], base.condition(["x", "y", "plain"]).hidden[2])


@contextmanager
def lent_text_model(encoder: Any) -> Iterator[None]:
    """Let diffusers' clip_skip find `text_model` in an encoder that transformers 5 flattened."""
    kind = type(encoder)
    if hasattr(encoder, "text_model"):
        yield
        return
    kind.text_model = property(lambda self: self)
    try:
        yield
    finally:
        del kind.text_model


@FAMILY
@pytest.mark.parametrize("clip_skip", [1, 2])
def test_clip_skip_agrees_with_diffusers(base_of: Get, family: str, clip_skip: int) -> None:
    """diffusers counts the layers left out, from the one that the family takes by itself."""
    base = base_of(family)
    left_out = clip_skip + base.family.hidden_layer
    if left_out < 0:
        pytest.skip("a layer that diffusers can't be asked for")
    pipeline: Any = base.pipeline()
    with lent_text_model(base.text_encoder):
        found = pipeline.encode_prompt(
            prompt="a cat", negative_prompt="bad", device=base.device, num_images_per_prompt=1,
            do_classifier_free_guidance=True, clip_skip=left_out or None,
        )  # fmt: skip
    positive, _ = encode(base, ["a cat"], ["bad"], clip_skip=clip_skip)
    torch.testing.assert_close(positive.hidden, found[0], rtol=0, atol=1e-5)
    if positive.pooled is not None:
        torch.testing.assert_close(positive.pooled, found[2], rtol=0, atol=1e-5)
    assert not torch.equal(positive.hidden, encode(base, ["a cat"], [], clip_skip=3 - clip_skip)[0].hidden)


def test_a_layer_that_is_not_there_is_refused(base_of: Get) -> None:
    with pytest.raises(ConfigError, match="CLIP skip"):
        encode(base_of("sd15"), ["a"], [], clip_skip=9)


def test_an_empty_negative_of_sdxl_is_zeros_in_every_chunk(base_of: Get) -> None:
    base = base_of("sdxl")
    assert base.zero_empty
    _, negative = encode(base, ["x" * 20, "a"], ["", "bad"])
    assert negative.pooled is not None
    assert not negative.hidden[0].any()
    assert not negative.pooled[0].any()
    assert negative.hidden[1].any()
    assert negative.hidden.shape[1] == 32


def test_without_negatives_there_are_none(base_of: Get) -> None:
    positive, negative = encode(base_of("sdxl"), ["a", "b"], [])
    assert len(positive.hidden) == 2
    assert len(negative.hidden) == 0
    assert negative.pooled is not None
    assert len(negative.pooled) == 0


@pytest.mark.parametrize("prompt", ["word, " * 1666, "漢字" * 5000, "(a) " * 2500, "BREAK " * 1666])
def test_prompts_of_ten_thousand_characters(base_of: Get, prompt: str) -> None:
    base = base_of("sd15")
    positive, negative = encode(base, [prompt], ["bad"])
    assert positive.hidden.shape == negative.hidden.shape
    assert positive.hidden.shape[1] % 16 == 0
    assert torch.isfinite(positive.hidden).all()


@pytest.mark.parametrize("prompt", ["[a:b:0.5]", "[a|b]", "a AND b"])
def test_what_is_not_supported_is_refused(base_of: Get, prompt: str) -> None:
    with pytest.raises(ConfigError, match="isn't supported"):
        encode(base_of("sd15"), ["fine", prompt], ["", ""])


def test_learned_words_are_spelled_out_in_their_own_encoder(tiny_sdxl: Base) -> None:
    """A word of two vectors in one encoder and none in the other: both give as many chunks."""
    words = LearnedWords(tiny_sdxl, {"one": {"<fox>": {"text_encoder": torch.randn(14, 32)}}})
    words.set({"one": {"text_encoder": 1.0}})
    tiny_sdxl.words = words
    try:
        positive, _ = encode(tiny_sdxl, ["<fox> <fox>"], [])
        assert positive.hidden.shape[1] == 32
        short, _ = encode(tiny_sdxl, ["<fox>"], [])
        assert torch.equal(short.hidden, tiny_sdxl.condition(["<fox>"]).hidden)
    finally:
        words.remove()
        tiny_sdxl.words = None
