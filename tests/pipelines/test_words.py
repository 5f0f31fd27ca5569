"""Learned words: the same embeddings as diffusers', and a base that never changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from pipelines.adapter import Adapter
from pipelines.base import Base, load_base
from pipelines.errors import AdapterError
from pipelines.generate import GenerationConfig, generate
from pipelines.mixer import Mixer, Weights
from tests.pipelines.making import random_adapter_of
from tests.tiny import assert_unchanged, random_adapter, target_modules, weights_of

FAMILIES = ["tiny_base", "tiny_sd2", "tiny_sdxl"]


def learned(base: Base, words: dict[str, int], *, seed: int = 0, name: str = "words") -> Adapter:
    """An adapter of `words` with so many vectors each, in every text encoder."""
    generator = torch.Generator().manual_seed(seed)
    widths = {key: int(encoder.config.hidden_size) for key, encoder in base.text_encoders().items()}
    tokens = {
        word: {key: torch.randn((count, width), generator=generator) for key, width in widths.items()}
        for word, count in words.items()
    }
    return Adapter(name=name, tokens=tokens, family=base.family.id)


def vocabularies(base: Base) -> list[str]:
    return [
        json.dumps(getattr(base, row.tokenizer).get_vocab(), sort_keys=True)
        for row in base.family.text_encoders
    ]


def in_diffusers(base: Base, adapter: Adapter) -> Any:
    """A pipeline over a base of its own with the words loaded by `load_textual_inversion`."""
    pipeline: Any = load_base(base.path, device="cpu").pipeline()
    for word, per_encoder in adapter.tokens.items():
        for row in base.family.text_encoders:
            pipeline.load_textual_inversion(
                {word: per_encoder[row.component]},
                text_encoder=getattr(pipeline, row.component),
                tokenizer=getattr(pipeline, row.tokenizer),
            )
    return pipeline


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_mean_what_they_mean_in_diffusers(request: pytest.FixtureRequest, family: str) -> None:
    base: Base = request.getfixturevalue(family)
    before, vocabulary = weights_of(base), vocabularies(base)
    adapter = learned(base, {"<fox>": 3, "<hat>": 1, "zwx": 1})
    pipeline = in_diffusers(base, adapter)
    prompts = ["a <fox>", "<hat> <fox>", "no such", "a zwx, a (<hat>) by zwx's cat", "A Zwx"]
    plain = base.condition(prompts)
    with Mixer(base) as mixer:
        mixer.add("words", adapter)
        mixer.set({"words": 1.0})
        for prompt in prompts:
            ours = base.condition([prompt])
            theirs = pipeline.encode_prompt(
                prompt=prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            assert torch.allclose(ours.hidden, theirs[0], atol=1e-6), prompt
            if ours.pooled is not None:
                assert torch.allclose(ours.pooled, theirs[2], atol=1e-6), prompt
        mixed = base.condition(prompts).hidden
        assert torch.equal(mixed[2], plain.hidden[2])
        assert not torch.allclose(mixed[0], plain.hidden[0], atol=1e-2)
        assert_unchanged(base, before)
        assert vocabularies(base) == vocabulary
    assert torch.equal(base.condition(prompts).hidden, plain.hidden)
    assert base.words is None
    assert vocabularies(base) == vocabulary
    assert_unchanged(base, before)


def test_a_word_is_there_only_at_a_weight(tiny_base: Base) -> None:
    prompt = ["a <fox>"]
    plain = tiny_base.encode_prompts(prompt)
    embedding = tiny_base.text_encoder.get_input_embeddings()
    with Mixer(tiny_base) as mixer:
        mixer.add("words", learned(tiny_base, {"<fox>": 2}))
        for weight in (0.0, (1.0, 0.0), Weights(1.0, blocks={"text_encoder": 0.0})):
            mixer.set({"words": 1.0})
            assert tiny_base.words is not None
            mixer.set({"words": weight})
            assert tiny_base.words is None
            assert not embedding._forward_hooks
            assert torch.equal(tiny_base.encode_prompts(prompt), plain)


def test_vectors_are_multiplied_by_the_text_weight(tiny_base: Base) -> None:
    adapter = learned(tiny_base, {"<fox>": 2})
    half = Adapter(
        name="half",
        tokens={word: {c: 0.5 * v for c, v in vectors.items()} for word, vectors in adapter.tokens.items()},
    )
    found = []
    for brought, weight in ((adapter, 0.5), (half, 1.0)):
        with Mixer(tiny_base) as mixer:
            mixer.add("words", brought)
            mixer.set({"words": (0.0, weight)})
            found.append(tiny_base.encode_prompts(["a <fox>"]))
    assert torch.equal(*found)


def test_words_and_deltas_come_together_in_pictures(tiny_base: Base) -> None:
    config = GenerationConfig(prompt="<fox>", seed=1, num_inference_steps=2)
    plain = generate(tiny_base, config)[0].image.tobytes()
    words = learned(tiny_base, {"<fox>": 2})
    lora = random_adapter(tiny_base, target_modules(tiny_base), strength=1.0)
    with Mixer(tiny_base) as mixer:
        mixer.add("both", Adapter(name="both", factors=lora.factors, tokens=words.tokens))
        mixer.add("more", learned(tiny_base, {"<hat>": 1}, seed=1))
        mixer.set({"both": 1.0})
        both = generate(tiny_base, config)[0].image.tobytes()
        mixer.set({"both": (0.0, 1.0), "more": 1.0})
        only_text = generate(tiny_base, config)[0].image.tobytes()
        mixer.remove("both")
        assert tiny_base.words is not None
        assert tiny_base.words.expand("<fox> <hat>", "text_encoder") == "<fox> <hat>"
    assert len({plain, both, only_text}) == 3
    assert generate(tiny_base, config)[0].image.tobytes() == plain


def test_words_are_spelled_out_once_and_the_longest_first(tiny_base: Base) -> None:
    with Mixer(tiny_base) as mixer:
        mixer.add("words", learned(tiny_base, {"sks": 2, "sksfox": 3}))
        mixer.set({"words": 1.0})
        words = tiny_base.words
        assert words is not None
        spelled = words.expand("sks sksfox, sks_1 Sks asks", "text_encoder")
        assert spelled == "sks sks_1 sksfox sksfox_1 sksfox_2, sks_1 sks sks_1 asks"
        tokens = words.tokenizer("text_encoder").tokenize(spelled)
        assert tokens[:5] == ["sks", "sks_1", "sksfox", "sksfox_1", "sksfox_2"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"a": 1}, "the word 'a', which the base's tokenizer knows already; give the word another name"),
        ({"<fox>": 1}, "adapters 'first' and 'second' both bring the word '<fox>'; remove one of them"),
        ({"<fox>_1": 1}, "both bring the word '<fox>_1'"),
        ({"<FOX>": 1}, "both bring the word '<FOX>'"),
        ({"Zwx": 1, "zwx": 1}, "adapter 'second' brings the word 'zwx' twice"),
        ({"": 1}, "brings the word ''; expected one without spaces"),
        ({" zwx": 1}, "brings the word ' zwx'; expected one without spaces"),
        ({"my\tstyle": 1}, "expected one without spaces"),
    ],
)
def test_words_that_mean_something_else_are_refused(
    tiny_base: Base, words: dict[str, int], says: str
) -> None:
    before = weights_of(tiny_base)
    with Mixer(tiny_base) as mixer:
        mixer.add("first", learned(tiny_base, {"<fox>": 2}))
        mixer.set({"first": 1.0})
        seen = tiny_base.encode_prompts(["a <fox>"])
        with pytest.raises(AdapterError, match=says):
            mixer.add("second", learned(tiny_base, words, seed=1))
        assert mixer.names == ("first",)
        assert torch.equal(tiny_base.encode_prompts(["a <fox>"]), seen)
    assert_unchanged(tiny_base, before)


def test_a_failure_leaves_the_words_as_they_were(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    with Mixer(tiny_base) as mixer:
        mixer.add("words", learned(tiny_base, {"<fox>": 2}))
        mixer.set({"words": 1.0})
        seen = tiny_base.encode_prompts(["a <fox>"])
        with monkeypatch.context() as patched, pytest.raises(MemoryError):
            patched.setattr("pipelines.mixing.stacks.Kept.install", _none_left)
            mixer.add("lora", random_adapter_of(tiny_base, "lora"))
        assert mixer.names == ("words",)
        assert torch.equal(tiny_base.encode_prompts(["a <fox>"]), seen)


def test_letters_large_or_small_are_the_same_word(tiny_base: Base) -> None:
    with Mixer(tiny_base) as mixer:
        mixer.add("words", learned(tiny_base, {"MyStyle": 3}))
        mixer.set({"words": 1.0})
        exact = tiny_base.encode_prompts(["a MyStyle cat"])
        for prompt in ("a mystyle cat", "a MYSTYLE cat"):
            assert torch.equal(tiny_base.encode_prompts([prompt]), exact)


@pytest.mark.parametrize("count", [1, 3])
def test_a_word_within_another_word_isnt_taken(tiny_base: Base, count: int) -> None:
    within = ["concatenate", "cat7", "7cat", "cat_x", "écat"]
    plain = tiny_base.encode_prompts(within)
    with Mixer(tiny_base) as mixer:
        mixer.add("words", learned(tiny_base, {"cat7q": count, "cat": count, "<cat-toy>": count}))
        mixer.set({"words": 1.0})
        assert torch.equal(tiny_base.encode_prompts(within), plain)
        assert tiny_base.words is not None
        tokenizer = tiny_base.words.tokenizer("text_encoder")
        for prompt, word in (("(cat)", "cat"), ("cat's", "cat"), ("a<cat-toy>s", "<cat-toy>")):
            tokens = tokenizer.tokenize(tiny_base.words.expand(prompt, "text_encoder"))
            assert [t for t in tokens if t.startswith(word)] == [word, f"{word}_1", f"{word}_2"][:count]


def test_a_word_is_in_no_encoder_where_its_weight_is_zero(tiny_sdxl: Base) -> None:
    prompt = "a <fox>"
    own = tiny_sdxl.tokenizer_2
    with Mixer(tiny_sdxl) as mixer:
        mixer.add("words", learned(tiny_sdxl, {"<fox>": 2}))
        mixer.add("more", learned(tiny_sdxl, {"<hat>": 1}))
        for more in (0.0, 1.0):
            mixer.set({"words": Weights(1.0, blocks={"text_encoder_2": 0.0}), "more": more})
            words = tiny_sdxl.words
            assert words is not None
            assert words.expand(prompt, "text_encoder") == "a <fox> <fox>_1"
            assert words.expand(prompt, "text_encoder_2") == prompt
            assert "<fox>" in words.tokenizer("text_encoder").get_vocab()
            assert "<fox>" not in words.tokenizer("text_encoder_2").get_vocab()
            assert (words.tokenizer("text_encoder_2") is own) == (more == 0)
        mixer.set({"words": 1.0})
        assert tiny_sdxl.words is not None
        assert tiny_sdxl.words.expand(prompt, "text_encoder_2") == "a <fox> <fox>_1"


def test_an_error_while_hooking_leaves_the_words_as_they_were(
    tiny_sdxl: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Mixer(tiny_sdxl) as mixer:
        mixer.add("words", learned(tiny_sdxl, {"<fox>": 2}))
        mixer.set({"words": 0.5})
        seen = tiny_sdxl.encode_prompts(["a <fox>"])
        embedding = tiny_sdxl.component("text_encoder_2").get_input_embeddings()  # type: ignore[operator]
        with monkeypatch.context() as patched, pytest.raises(MemoryError):
            patched.setattr(embedding, "register_forward_hook", _none_left)
            mixer.set({"words": 1.0})
        assert mixer.weights == {"words": (0.5, 0.5)}
        assert torch.equal(tiny_sdxl.encode_prompts(["a <fox>"]), seen)
        mixer.set({"words": 1.0})
        assert not torch.equal(tiny_sdxl.encode_prompts(["a <fox>"]), seen)
        mixer.set({})
        assert not embedding._forward_hooks
        assert not embedding._forward_pre_hooks


def _none_left(_: object) -> None:
    raise MemoryError
