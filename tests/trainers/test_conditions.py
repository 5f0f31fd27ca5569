"""Captions as conditionings: in place, whatever their company, kept on disk and never believed damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import trainers.conditions
from pipelines.base import Base
from pipelines.conditioning import Conditioning
from pipelines.prompts import count_chunks, encode_literal
from trainers.conditions import PromptEncoder
from trainers.settings import AdapterConfig
from trainers.tuning import injected

LONG = "red, teal, gold, navy"  # one token per letter: two chunks of 14


@pytest.fixture(params=["tiny_base", "tiny_sd2", "tiny_sdxl"])
def base(request: pytest.FixtureRequest) -> Base:
    found: Base = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts each encoding had."""
    counted: list[int] = []

    def encode(base: Base, prompts: list[str], *rest: Any) -> Conditioning:
        counted.append(len(prompts))
        return encode_literal(base, prompts, *rest)

    monkeypatch.setattr(trainers.conditions, "encode_literal", encode)
    return counted


def assert_close(found: Conditioning, wanted: Conditioning) -> None:
    torch.testing.assert_close(found.hidden, wanted.hidden, atol=1e-5, rtol=1e-4)
    assert (found.pooled is None) == (wanted.pooled is None)
    if found.pooled is not None:
        torch.testing.assert_close(found.pooled, wanted.pooled, atol=1e-5, rtol=1e-4)


def assert_same(found: Conditioning, wanted: Conditioning) -> None:
    assert torch.equal(found.hidden, wanted.hidden)
    assert found.pooled is wanted.pooled or torch.equal(found.pooled, wanted.pooled)  # type: ignore[arg-type]


@pytest.mark.parametrize("trained", [True, False])
def test_captions_are_encoded_each_in_its_place(base: Base, trained: bool) -> None:
    prompts = ["b", "(a:1.3)", "b", "", "(a:1.3)"]
    with torch.no_grad():
        wanted = base.condition(prompts)  # literally, so brackets are text
        encode = PromptEncoder(base, trained)
        for _ in range(2):
            assert_close(encode(prompts), wanted)


def test_a_caption_does_not_depend_on_its_company(base: Base) -> None:
    together, alone = PromptEncoder(base, trained=False), PromptEncoder(base, trained=False)
    found = together(["a", "b", "c"])
    assert torch.equal(found.hidden[1], alone(["b"]).hidden[0])


@pytest.mark.parametrize("trained", [True, False])
def test_beside_a_long_caption_a_short_one_says_the_same(base: Base, trained: bool) -> None:
    assert count_chunks(base, ["a", LONG]) == 2 and count_chunks(base, []) == 1
    with torch.no_grad():
        told = PromptEncoder(base, trained)(["a", LONG])
        assert told.hidden.shape[1] == 32
        short = base.condition(["a"]).hidden
        torch.testing.assert_close(told.hidden[0, :16], short[0], atol=1e-5, rtol=1e-4)
        assert told.mask is not None and told.mask.sum(dim=1).tolist() == [16, 32]
        other = PromptEncoder(base, trained)(["a", LONG.replace("navy", "nave")])
        assert not torch.equal(told.hidden[1, 16:], other.hidden[1, 16:])
        # The UNet sees of the short caption what it sees of it alone.
        alone = PromptEncoder(base, trained)(["a"])
        assert alone.mask is None
        latents, frames = torch.randn(1, 4, 8, 8), torch.tensor([[16, 16, 0, 0, 16, 16]])
        one = base.unet(latents, 5, **alone.arguments_for(frames)).sample
        both = torch.cat([latents, latents])
        two = base.unet(both, 5, **told.arguments_for(torch.cat([frames, frames]))).sample
        torch.testing.assert_close(two[:1], one, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(two[1:], one, atol=1e-4)


def test_gradients_flow_only_where_the_text_encoder_trains(tiny_base: Base) -> None:
    with injected(tiny_base, AdapterConfig()):
        assert PromptEncoder(tiny_base, trained=True)(["a", "a"]).hidden.requires_grad
    assert not PromptEncoder(tiny_base, trained=False)(["a", "a"]).hidden.requires_grad


def kept(base: Base, folder: Path, *prompts: str) -> tuple[Conditioning, list[str]]:
    """Encode through a cache folder as a run does: what it gives, and what the events said."""
    encode = PromptEncoder(base, False, folder)
    said = [event.message for event in encode.prepare(prompts, total=7)]
    return encode(prompts), said


def test_captions_are_encoded_once_for_all_runs(base: Base, tmp_path: Path, runs: list[int]) -> None:
    first, said = kept(base, tmp_path, "a", LONG, "a")
    assert said == ["captions 2/2"]
    encoded = len(runs)
    second, said = kept(base, tmp_path, "a", LONG, "a")
    assert len(runs) == encoded and said == []
    assert_same(first, second)
    assert_same(first, PromptEncoder(base, False)(["a", LONG, "a"]))


def test_only_what_was_announced_goes_to_the_disk(tiny_base: Base, tmp_path: Path) -> None:
    encode = PromptEncoder(tiny_base, False, tmp_path)
    list(encode.prepare(["a, b"]))
    before = len(list(tmp_path.rglob("*.safetensors")))
    encode(["a, b", "b, a"])
    assert before == len(list(tmp_path.rglob("*.safetensors"))) == 1


@pytest.mark.parametrize("place", [2, 12, 400, -1])
def test_a_damaged_embedding_is_made_again(
    tiny_sdxl: Base, tmp_path: Path, runs: list[int], place: int
) -> None:
    wanted, _ = kept(tiny_sdxl, tmp_path, "a")
    (file,) = tmp_path.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    found, said = kept(tiny_sdxl, tmp_path, "a")
    assert_same(found, wanted)
    assert len(runs) == 2 and said[-1] == "1 damaged entries of the cached captions were made again"
    found, said = kept(tiny_sdxl, tmp_path, "a")
    assert_same(found, wanted)
    assert len(runs) == 2 and said == []


def test_a_disk_that_takes_nothing_ends_no_run(tiny_base: Base, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where the folder would be")
    found, said = kept(tiny_base, tmp_path / "file", "a")
    assert "captions can't be kept" in said[-1]
    assert_same(found, PromptEncoder(tiny_base, False)(["a"]))


def test_other_weights_dtypes_tokenizers_and_captions_are_other_entries(
    tiny_sdxl: Base, tmp_path: Path, runs: list[int]
) -> None:
    def ask(prompt: str) -> int:
        kept(tiny_sdxl, tmp_path, prompt)
        return len(runs)

    assert [ask("a"), ask("b"), ask("a")] == [1, 2, 2]
    assert tiny_sdxl.text_encoder_2 is not None and tiny_sdxl.tokenizer_2 is not None
    bias = tiny_sdxl.text_encoder_2.text_model.final_layer_norm.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias += 1e-3
    assert ask("a") == 3
    with torch.no_grad():
        bias.copy_(before)
    assert ask("a") == 3
    tiny_sdxl.tokenizer_2.add_tokens(["zuv"])
    assert ask("a") == 4
    for encoder in tiny_sdxl.text_encoders().values():
        encoder.to(torch.bfloat16)
    assert ask("a") == 5


def test_nothing_that_learns_is_kept_on_disk(tiny_base: Base, tmp_path: Path) -> None:
    with injected(tiny_base, AdapterConfig()):
        for trained in (True, False):
            encode = PromptEncoder(tiny_base, trained, tmp_path)
            assert not list(encode.prepare(["a"]))
            encode(["a"])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_memory_is_bounded(tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers.conditions, "_MEMORY_BYTES", 3 * 16 * 32 * 4)
    encode = PromptEncoder(tiny_base, False)
    first = encode(["a", "b", "c", "d", "e"])
    assert list(encode._kept) == ["c", "d", "e"]
    assert_same(encode(["a", "b", "c", "d", "e"]), first)


def test_frames_reach_the_unet_per_sample(tiny_sdxl: Base, tiny_base: Base) -> None:
    told = PromptEncoder(tiny_sdxl, False)(["a", "b"])
    frames = torch.tensor([[16, 16, 0, 0, 16, 16], [90, 80, 3, 5, 16, 16]])
    arguments = told.arguments_for(frames)
    assert arguments["added_cond_kwargs"]["time_ids"].tolist() == frames.tolist()
    plain = told.arguments((16, 16))["added_cond_kwargs"]["time_ids"]
    assert plain.tolist() == [frames[0].tolist()] * 2 and plain.dtype == told.pooled.dtype  # type: ignore[union-attr]
    noisy, at = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 5])
    with torch.no_grad():
        cut, whole = (tiny_sdxl.unet(noisy, at, **a).sample for a in (arguments, told.arguments((16, 16))))
    torch.testing.assert_close(cut[0], whole[0])
    assert (cut[1] - whole[1]).abs().max() > 1e-4
    assert set(PromptEncoder(tiny_base, False)(["a", "b"]).arguments_for(frames)) == {"encoder_hidden_states"}
