"""Streams and the batches of a step: shapes, shares, variants, words, and how they go on."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from pipelines.errors import StudioError
from trainers.batches import Batch, Stream, draw_step
from trainers.caching import Encoded, LatentCache
from trainers.objective import Levels
from trainers.settings import ObjectiveConfig

LEVELS = Levels(torch.linspace(0.999, 0.01, 1000), "epsilon")
PLAIN = ObjectiveConfig()
TENSORS = ("latents", "noise", "input_noise", "timesteps", "share", "frames")


def picture(
    number: float, shape: tuple[int, int] = (2, 2), std: float = 0.0, masked: bool = False
) -> Encoded:
    """One variant, filled with its number; half of it counts when masked."""
    mean = torch.full((4, *shape), float(number))
    mask = torch.full((1, *shape), 0.5) if masked else None
    sides = (shape[0] * 8, shape[1] * 8)
    return Encoded(mean, torch.full_like(mean, std), mask, (90 + int(number), 80, 1, 2, *sides))


def cache(
    shapes: list[tuple[int, int]], std: float = 0.0, repeats: tuple[int, ...] | None = None
) -> LatentCache:
    """Pictures 0, 1, …, each filled with its number, of these shapes."""
    pictures = tuple((picture(index, shape, std),) for index, shape in enumerate(shapes))
    return LatentCache(pictures, tuple(f"picture {index}" for index in range(len(shapes))), repeats)


def seen(batches: list[Batch]) -> list[int]:
    """The numbers of the pictures in some batches."""
    return [int(value) for batch in batches for value in batch.latents[:, 0, 0, 0]]


def test_a_batch_joins_the_streams_and_shares_their_weight() -> None:
    streams = [
        Stream.of("instance", cache([(2, 2)] * 3), 2, 1.0, 0),
        Stream.of("prior", cache([(2, 2)] * 5), 4, 0.5, 1),
    ]
    (batch,) = draw_step(streams, LEVELS, PLAIN)
    assert batch.latents.shape == batch.noise.shape == (6, 4, 2, 2) and len(batch) == 6
    assert batch.share.tolist() == [0.5, 0.5, 0.125, 0.125, 0.125, 0.125]
    assert batch.streams == (0, 0, 1, 1, 1, 1) and batch.sizes == (2, 4)
    assert torch.equal(batch.part(1).noise, batch.noise[2:]) and batch.part(0).captions == batch.captions[:2]
    assert [f"picture {one}" for one in seen([batch])] == list(batch.captions)
    assert batch.frames.tolist() == [[90 + one, 80, 1, 2, 16, 16] for one in seen([batch])]
    assert batch.mask is None and batch.input_noise is batch.noise


@pytest.mark.parametrize("accumulate", [1, 3])
def test_shapes_have_batches_of_their_own_and_the_shares_of_a_step_add_up(accumulate: int) -> None:
    streams = [
        Stream.of("instance", cache([(2, 2), (2, 4), (2, 2), (4, 2), (2, 4)]), 4, 1.0, 0),
        Stream.of("prior", cache([(2, 2)] * 3), 2, 0.5, 1),
    ]
    for _ in range(5):
        batches = draw_step(streams, LEVELS, PLAIN, accumulate)
        assert sum(float(batch.share.sum()) for batch in batches) == pytest.approx(1.5)
        assert sum(batch.streams.count(0) for batch in batches) == 4 * accumulate
        assert sum(batch.streams.count(1) for batch in batches) == 2 * accumulate
        for batch in batches:
            assert len({len(getattr(batch, name)) for name in (*TENSORS, "captions", "streams")}) == 1
            assert batch.noise.shape == batch.latents.shape
        # The prior's squares stand beside the instance's squares where there are any.
        squares = [batch for batch in batches if batch.latents.shape[2:] == (2, 2)]
        assert len(squares) == accumulate


def test_a_stream_without_samples_of_a_shape_gives_an_empty_part() -> None:
    streams = [Stream.of("a", cache([(2, 2)]), 1, 1.0, 0), Stream.of("b", cache([(4, 4)]), 1, 1.0, 1)]
    first, second = draw_step(streams, LEVELS, PLAIN)
    assert len(first.part(1)) == 0 and len(second.part(0)) == 0 and len(second.part(1)) == 1
    assert second.sizes == (0, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_every_entry_comes_once_per_epoch(size: int) -> None:
    shapes = [(2, 2), (2, 4), (2, 2), (4, 2), (2, 4), (2, 2)]
    repeats = (1, 2, 1, 3, 1, 1)
    stream = Stream.of("instance", cache(shapes, repeats=repeats), size, 1.0, 3)
    taken: list[int] = []
    while len(taken) < 9 * 8:
        taken += seen(draw_step([stream], LEVELS, PLAIN))
    for start in range(0, 9 * 8, 9):
        # A batch orders its samples by shape, so an epoch's end may lie within one: look at whole batches.
        if start % size == 0 and (start + 9) % size == 0:
            assert Counter(taken[start : start + 9]) == Counter(dict(enumerate(repeats)))
    whole = 9 * size
    while len(taken) < whole:
        taken += seen(draw_step([stream], LEVELS, PLAIN))
    assert Counter(taken[:whole]) == Counter({one: n * size for one, n in enumerate(repeats)})


def test_batches_have_one_shape_wherever_possible() -> None:
    stream = Stream.of("instance", cache([(2, 2)] * 8 + [(2, 4)] * 4), 4, 1.0, 0)
    for _ in range(9):
        assert len(draw_step([stream], LEVELS, PLAIN)) == 1


@pytest.mark.parametrize("seed", range(6))
def test_a_take_over_an_epochs_end_keeps_its_shape(seed: int) -> None:
    stream = Stream.of("instance", cache([(2, 2)] * 8 + [(2, 4)] * 3), 4, 1.0, seed)
    assert [len(draw_step([stream], LEVELS, PLAIN)) for _ in range(3)] == [1, 1, 1]


def test_samples_of_several_shapes_share_out_the_noise_levels() -> None:
    stream = Stream.of("instance", cache([(2, 2), (2, 4)]), 4, 1.0, 0)
    for _ in range(5):
        drawn = torch.cat([batch.timesteps for batch in draw_step([stream], LEVELS, PLAIN)])
        assert sorted((drawn // 250).tolist()) == [0, 1, 2, 3]


def test_a_second_stream_changes_nothing_of_the_first() -> None:
    shapes = [(2, 2), (2, 2), (2, 4)]
    alone = [Stream.of("instance", cache(shapes, 0.1), 2, 1.0, 0)]
    joined = [
        Stream.of("instance", cache(shapes, 0.1), 2, 1.0, 0),
        Stream.of("prior", cache([(2, 2)] * 4), 2, 1.0, 1),
    ]
    noisy = ObjectiveConfig(noise_offset=0.1)
    for _ in range(6):
        single = [one for batch in draw_step(alone, LEVELS, noisy) for one in [batch]]
        both = [batch.part(0) for batch in draw_step(joined, LEVELS, noisy) if 0 in batch.streams]
        for first, second in zip(single, both, strict=True):
            assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in TENSORS)


def test_latents_are_drawn_anew_with_their_spread() -> None:
    stream = Stream.of("instance", cache([(8, 8)], std=0.5), 100, 1.0, 0)
    (batch,) = draw_step([stream], LEVELS, PLAIN)
    assert abs(batch.latents.std().item() - 0.5) < 0.01 and abs(batch.latents.mean().item()) < 0.01
    assert not torch.equal(batch.latents[0], batch.latents[1])
    assert not torch.equal(batch.latents[0] * 2, batch.noise[0])


def test_variants_are_chosen_anew_each_as_likely() -> None:
    pictures = (tuple(picture(number) for number in (0, 1, 2)),)
    stream = Stream.of("instance", LatentCache(pictures, ("a",)), 300, 1.0, 0)
    counts = Counter(seen(draw_step([stream], LEVELS, PLAIN)))
    assert set(counts) == {0, 1, 2} and min(counts.values()) > 70


def test_words_are_said_anew_by_the_streams_own_chance() -> None:
    def speak(caption: str, generator: torch.Generator) -> str:
        return caption if torch.rand((), generator=generator) < 0.5 else ""

    stream = Stream.of("instance", cache([(2, 2)]), 100, 1.0, 0, speak)
    (batch,) = draw_step([stream], LEVELS, PLAIN)
    assert 30 < batch.captions.count("") < 70 and batch.captions.count("picture 0") > 30


def test_masks_are_filled_up_where_some_have_one() -> None:
    pictures = ((picture(0, masked=True),), (picture(1),))
    stream = Stream.of("instance", LatentCache(pictures, ("a", "b")), 2, 1.0, 0)
    prior = Stream.of("prior", cache([(2, 2)]), 1, 1.0, 1)
    (batch,) = draw_step([stream, prior], LEVELS, PLAIN)
    assert batch.mask is not None and batch.mask.shape == (3, 1, 2, 2)
    by_number = dict(zip(seen([batch.part(0)]), batch.mask[:2].mean(dim=(1, 2, 3)).tolist(), strict=True))
    assert by_number == {0: 0.5, 1: 1.0} and batch.mask[2].min() == 1


def test_perturbed_input_noise_stays_with_its_sample() -> None:
    stream = Stream.of("instance", cache([(2, 2), (2, 4)]), 4, 1.0, 0)
    for batch in draw_step([stream], LEVELS, ObjectiveConfig(input_perturbation=0.1)):
        assert not torch.equal(batch.input_noise, batch.noise)
        assert torch.equal(batch.take([1]).input_noise[0], batch.input_noise[1])


def test_split_and_to_keep_every_sample() -> None:
    stream = Stream.of("instance", cache([(2, 2)] * 5, 0.1), 5, 1.0, 0)
    (batch,) = draw_step([stream], LEVELS, PLAIN)
    parts = batch.to(torch.device("cpu")).split(3)
    assert [len(part) for part in parts] == [2, 2, 1]
    for name in TENSORS:
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert all(part.input_noise is part.noise for part in parts)
    assert len(batch.split(9)) == 5


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 5])
def test_a_stream_goes_on_bitwise_from_its_state(stop: int) -> None:
    def speak(caption: str, generator: torch.Generator) -> str:
        return f"{caption} {float(torch.rand((), generator=generator))}"

    def fresh(seed: int) -> Stream:
        shapes = [(2, 2), (2, 4), (2, 2), (2, 2), (4, 2)]
        return Stream.of("instance", cache(shapes, 0.3, (1, 2, 1, 1, 1)), 4, 1.0, seed, speak)

    stream, other = fresh(0), fresh(1)
    for _ in range(stop):
        draw_step([stream], LEVELS, PLAIN)
    state = {name: tensor.clone() for name, tensor in stream.state().items()}
    wanted = [batch for _ in range(5) for batch in draw_step([stream], LEVELS, PLAIN)]
    other.load(state)
    found = [batch for _ in range(5) for batch in draw_step([other], LEVELS, PLAIN)]
    assert len(wanted) == len(found)
    for first, second in zip(wanted, found, strict=True):
        assert first.captions == second.captions
        assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in TENSORS)


def test_a_state_of_other_pictures_is_refused() -> None:
    stream = Stream.of("instance", cache([(2, 2)] * 3), 2, 1.0, 0)
    draw_step([stream], LEVELS, PLAIN)
    with pytest.raises(StudioError, match="instance pictures is of others"):
        Stream.of("instance", cache([(2, 2)] * 4), 2, 1.0, 0).load(stream.state())
