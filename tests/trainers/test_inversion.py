"""Learned words: gradients as a grown embedding's, prompts as the mixer's, and a base that never changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.adapter import Adapter
from pipelines.base import Base, load_base
from pipelines.conditioning import Conditioning
from pipelines.errors import ConfigError
from pipelines.formats import read_adapter, write_adapter
from pipelines.mixer import Mixer
from tests.tiny import assert_unchanged, weights_of
from trainers.inversion import Phase, Words, freeze, phase
from trainers.settings import AdapterConfig

FAMILIES = ["tiny_base", "tiny_sd2", "tiny_sdxl"]
WORD = "zuv"
PROMPTS = ["a zuv", "a fox", "zuv, Zuv", "a zuvish cat"]


def settings(**fields: Any) -> AdapterConfig:
    # Rows of words join the table of methods later than this is read: the fields are what matters here.
    return AdapterConfig.model_construct(**{"token_vectors": 3, "token_init": "", **fields})


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest) -> Base:
    """A tiny base of each family."""
    found: Base = request.getfixturevalue(request.param)
    return found


def vocabularies(base: Base) -> list[str]:
    return [
        json.dumps(getattr(base, row.tokenizer).get_vocab(), sort_keys=True)
        for row in base.family.text_encoders
    ]


def loss(told: Conditioning) -> torch.Tensor:
    """Something that every number told has a say in."""
    generator = torch.Generator().manual_seed(0)
    parts = [told.hidden] if told.pooled is None else [told.hidden, told.pooled]
    return torch.stack([(part * torch.randn(part.shape, generator=generator)).sum() for part in parts]).sum()


def test_prompts_are_the_mixers_and_the_base_stays_as_it_is(base: Base, tmp_path: Path) -> None:
    before, vocabulary, plain = weights_of(base), vocabularies(base), base.condition(PROMPTS)
    words = Words(base, WORD, settings(), seed=3)
    with words.installed():
        learned = base.condition(PROMPTS)
        with words.aside():
            assert torch.equal(base.condition(PROMPTS).hidden, plain.hidden)
        assert torch.equal(base.condition(PROMPTS).hidden, learned.hidden)
    assert base.words is None
    changed = [not torch.equal(a, b) for a, b in zip(learned.hidden, plain.hidden, strict=True)]
    assert changed == [True, False, True, False]
    assert torch.equal(base.condition(PROMPTS).hidden, plain.hidden)
    assert vocabularies(base) == vocabulary
    assert_unchanged(base, before)

    adapter = Adapter(name="word", tokens=words.tokens(), family=base.family.id)
    file = tmp_path / f"{WORD}.safetensors"
    write_adapter(adapter, file, format="embedding", dtype="fp32")
    read = read_adapter(file)
    assert read.tokens.keys() == {WORD}
    with Mixer(base) as mixer:
        mixer.add("word", read)
        mixer.set({"word": 1.0})
        mixed = base.condition(PROMPTS)
    assert torch.equal(mixed.hidden, learned.hidden)
    if learned.pooled is not None and mixed.pooled is not None:
        assert torch.equal(mixed.pooled, learned.pooled)


def test_gradients_are_those_of_a_grown_embedding(base: Base) -> None:
    words = Words(base, WORD, settings(), seed=3)
    with words.installed():
        told = base.condition(PROMPTS)
    loss(told).backward()
    gradients = {name: parameter.grad for name, parameter in words.parameters.items()}
    for parameter in words.parameters.values():
        parameter.grad = None
    for component in base.text_encoders():
        other = load_base(base.path, device="cpu")
        row = next(row for row in other.family.text_encoders if row.component == component)
        tokenizer, encoder = getattr(other, row.tokenizer), other.component(component)
        names = [WORD, f"{WORD}_1", f"{WORD}_2"]
        tokenizer.add_tokens(names)
        embedding: Any = encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # type: ignore[operator]
        parameter = words.parameters[f"tokens.{component}.{WORD}"]
        ids = [int(tokenizer.convert_tokens_to_ids(name)) for name in names]
        with torch.no_grad():
            embedding.weight[ids] = parameter
        embedding.weight.requires_grad_(True)
        other.words = words  # spelled out alike; the other text encoders need their words too
        hooked = [name for name in other.text_encoders() if name != component]
        for name in hooked:
            words._tables[name].hook(other.component(name).get_input_embeddings())  # type: ignore[operator]
        again = other.condition(PROMPTS)
        torch.testing.assert_close(again.hidden, told.hidden, atol=1e-6, rtol=1e-5)
        loss(again).backward()
        gradient = gradients[f"tokens.{component}.{WORD}"]
        assert gradient is not None and gradient.abs().max() > 0.1
        torch.testing.assert_close(gradient, embedding.weight.grad[ids], atol=1e-4, rtol=1e-4)


def test_half_precision_keeps_its_vectors_in_full(tiny_folder: Path) -> None:
    base = load_base(tiny_folder, device="cpu", dtype="bf16")
    words = Words(base, WORD, settings())
    with words.installed():
        hidden = base.condition(["a zuv"]).hidden
    assert hidden.dtype == torch.bfloat16
    hidden.float().sum().backward()
    (parameter,) = words.parameters.values()
    assert parameter.dtype == torch.float32 and parameter.grad is not None and parameter.grad.abs().sum() > 0


def test_the_start_is_drawn_like_the_vocabulary_or_is_a_known_word(tiny_base: Base) -> None:
    matrix = tiny_base.text_encoder.get_input_embeddings().weight
    (drawn,) = Words(tiny_base, WORD, settings(token_vectors=64), seed=5).parameters.values()
    (same,) = Words(tiny_base, WORD, settings(token_vectors=64), seed=5).parameters.values()
    (other,) = Words(tiny_base, WORD, settings(token_vectors=64), seed=6).parameters.values()
    assert torch.equal(drawn, same) and not torch.equal(drawn, other)
    assert drawn.std().item() == pytest.approx(matrix.std().item(), rel=0.1)

    (known,) = Words(tiny_base, WORD, settings(token_vectors=5, token_init="cat")).parameters.values()
    ids = tiny_base.tokenizer("cat", add_special_tokens=False).input_ids
    assert torch.equal(known, matrix[[*ids, *ids[:2]]])
    with pytest.raises(ConfigError, match="'cats' is 4 tokens, expected at most"):
        Words(tiny_base, WORD, settings(token_init="cats"))


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("a zuv", "one word without spaces where a word is learned; write 'azuv'"),
        ("z", "'z' is a word that the base's tokenizer knows already.*choose one .* '<z>'"),
        ("", "expected one word without spaces"),
    ],
)
def test_words_that_cannot_be_learned_are_refused(tiny_base: Base, word: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Words(tiny_base, word, settings())


def test_a_word_of_the_vocabulary_is_refused(pocket: Base) -> None:
    with pytest.raises(ConfigError, match="'Robot' is a word that the base's tokenizer knows"):
        Words(pocket, "Robot", settings())
    assert Words(pocket, "zib", settings()).parameters


def test_a_word_that_no_caption_holds_is_refused(tiny_base: Base) -> None:
    words = Words(tiny_base, WORD, settings())
    words.check_captions(["a fox", "a ZUV's house"])
    with pytest.raises(ConfigError, match="no caption holds 'zuv' as a word by itself"):
        words.check_captions(["a fox", "a zuvish fox"])


@pytest.mark.parametrize(
    ("step", "total", "alone", "expected"),
    [
        (0, 10, 0.0, (True, True, 0, 10)),
        (9, 10, 0.0, (True, True, 9, 10)),
        (0, 10, 0.4, (True, False, 0, 4)),
        (3, 10, 0.4, (True, False, 3, 4)),
        (4, 10, 0.4, (False, True, 0, 6)),
        (9, 10, 0.4, (False, True, 5, 6)),
        (0, 10, 0.01, (True, False, 0, 1)),
        (9, 10, 0.99, (False, True, 0, 1)),
        (9, 10, 1.0, (True, False, 9, 10)),
        (0, 1, 0.4, (True, False, 0, 1)),
    ],
)
def test_what_learns_when(step: int, total: int, alone: float, expected: tuple[Any, ...]) -> None:
    words, weights, own, of = expected
    assert phase(step, total, alone) == Phase(words=words, weights=weights, step=own, total=of)


def test_what_does_not_learn_stays_to_the_last_bit() -> None:
    parameters = {
        "tokens.text_encoder.zuv": torch.nn.Parameter(torch.ones(2)),
        "unet.a.down": torch.nn.Parameter(torch.ones(2)),
    }
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1, weight_decay=0.5)
    before = {name: value.detach().clone() for name, value in parameters.items()}
    for step in range(4):
        now = phase(step, 4, 0.5)
        stopped = {0: ["unet.a.down"], 2: ["tokens.text_encoder.zuv"]}
        assert freeze(parameters, now) == stopped.get(step, [])
        torch.stack([value.square().sum() for value in parameters.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        moved = {name for name, value in parameters.items() if not torch.equal(value, before[name])}
        assert moved == {"tokens.text_encoder.zuv" if step < 2 else "unet.a.down"}
        before = {name: value.detach().clone() for name, value in parameters.items()}
