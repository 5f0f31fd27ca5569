"""Orders, streams, latents and embeddings."""

from __future__ import annotations

import torch
from PIL import Image

from pipelines.base import Base
from trainers.batches import Shuffle, Stream, draw_batch
from trainers.cache import LatentCache, PromptEncoder, encode_pictures
from trainers.inject import injected
from trainers.settings import AdapterConfig

CPU = torch.device("cpu")


def latents(count: int, std: float = 0.0) -> LatentCache:
    """`count` latents, each filled with its own number."""
    mean = torch.arange(count, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 4, 2, 2).clone()
    return LatentCache(mean, torch.full_like(mean, std), tuple(f"picture {i}" for i in range(count)))


def test_each_item_comes_once_in_each_round() -> None:
    order, generator = Shuffle(5), torch.Generator().manual_seed(0)
    taken = [index for _ in range(10) for index in order.take(4, generator)]
    rounds = [taken[start : start + 5] for start in range(0, 40, 5)]
    assert all(sorted(one) == list(range(5)) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_a_batch_larger_than_the_set_repeats_it() -> None:
    assert sorted(Shuffle(2).take(6, torch.Generator())) == [0, 0, 0, 1, 1, 1]


def test_a_batch_joins_the_streams_and_shares_their_weight() -> None:
    streams = [Stream.of("instance", latents(3), 2, 1.0, 0), Stream.of("prior", latents(5), 4, 0.5, 1)]
    batch = draw_batch(streams, 1000, 0.0, CPU)
    assert batch.latents.shape == batch.noise.shape == (6, 4, 2, 2)
    assert batch.share.tolist() == [0.5, 0.5, 0.125, 0.125, 0.125, 0.125]
    assert batch.sizes == (2, 4) and torch.equal(batch.part(1).noise, batch.noise[2:])
    assert batch.part(0).captions == batch.captions[:2] and batch.part(1).captions == batch.captions[2:]
    assert [f"picture {int(one)}" for one in batch.latents[:, 0, 0, 0]] == list(batch.captions)


def test_a_second_stream_changes_nothing_of_the_first() -> None:
    alone = [Stream.of("instance", latents(3, 0.1), 2, 1.0, 0)]
    joined = [Stream.of("instance", latents(3, 0.1), 2, 1.0, 0), Stream.of("prior", latents(4), 2, 1.0, 1)]
    for _ in range(3):
        first, second = draw_batch(alone, 1000, 0.1, CPU), draw_batch(joined, 1000, 0.1, CPU)
        for name in ("latents", "noise", "timesteps", "share"):
            assert torch.equal(getattr(first, name), getattr(second, name)[:2])


def test_latents_are_drawn_anew_with_their_spread() -> None:
    cache, generator = latents(1, std=0.5), torch.Generator().manual_seed(0)
    drawn = cache.sample([0] * 4000, generator)
    assert abs(drawn.std().item() - 0.5) < 0.01 and abs(drawn.mean().item()) < 0.01
    assert not torch.equal(drawn[0], drawn[1])


def test_encoded_pictures_are_the_encoders_distribution(tiny_base: Base) -> None:
    pictures = [Image.new("RGB", (16, 16), (index * 20, 90, 200)) for index in range(10)]
    cache = encode_pictures(tiny_base, pictures, [str(index) for index in range(10)])
    assert cache.mean.shape == (10, 4, 8, 8) and len(cache) == 10
    pixels = torch.tensor([180.0, 90.0, 200.0]).reshape(1, 3, 1, 1).expand(1, 3, 16, 16) / 127.5 - 1
    with torch.no_grad():
        wanted = tiny_base.vae.encode(pixels).latent_dist
    torch.testing.assert_close(cache.mean[9:], wanted.mean * 0.5, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(cache.std[9:], wanted.std * 0.5, atol=1e-5, rtol=1e-4)


def test_prompts_are_encoded_each_in_its_place(tiny_base: Base) -> None:
    prompts = ["b", "a", "b", "c", "a"]
    with torch.no_grad():
        wanted = tiny_base.encode_prompts(prompts)
    for trained in (True, False):
        encode = PromptEncoder(tiny_base, trained)
        for _ in range(2):
            torch.testing.assert_close(encode(prompts), wanted, atol=1e-5, rtol=1e-4)


def test_kept_embeddings_do_not_depend_on_their_company(tiny_base: Base) -> None:
    together, alone = PromptEncoder(tiny_base, trained=False), PromptEncoder(tiny_base, trained=False)
    assert torch.equal(together(["a", "b", "c"])[1], alone(["b"])[0])


def test_embeddings_carry_gradients_only_where_the_text_encoder_trains(tiny_base: Base) -> None:
    with injected(tiny_base, AdapterConfig()) as injection:
        assert PromptEncoder(tiny_base, injection.text_is_trained)(["a", "a"]).requires_grad
    with injected(tiny_base, AdapterConfig(text_targets="none")) as injection:
        assert not PromptEncoder(tiny_base, injection.text_is_trained)(["a", "a"]).requires_grad
