"""The held-out loss: the same whenever it is asked for, and of the adapter too."""

from __future__ import annotations

import torch

from pipelines.base import Base
from trainers.cache import PromptEncoder
from trainers.caching import Encoded, LatentCache
from trainers.evidence.held_out import LEVELS, hold_out
from trainers.inject import injected
from trainers.settings import AdapterConfig


def some_latents() -> LatentCache:
    generator = torch.Generator().manual_seed(3)
    mean = torch.randn(2, 4, 8, 8, generator=generator)
    return LatentCache(tuple((Encoded(one, torch.ones_like(one)),) for one in mean), ("a", "b"))


def test_it_is_fixed_whatever_was_drawn_in_between(tiny_base: Base) -> None:
    encode = PromptEncoder(tiny_base, trained=False)
    held_out = hold_out(tiny_base, some_latents())
    first = held_out.loss(tiny_base, encode)
    torch.manual_seed(99)
    torch.randn(7)
    assert held_out.loss(tiny_base, encode) == first
    assert hold_out(tiny_base, some_latents()).loss(tiny_base, encode) == first


def test_measuring_uses_no_chance(tiny_base: Base) -> None:
    held_out = hold_out(tiny_base, some_latents())
    before = torch.get_rng_state()
    held_out.loss(tiny_base, PromptEncoder(tiny_base, trained=False))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_picture_is_measured_at_every_level(tiny_base: Base) -> None:
    held_out = hold_out(tiny_base, some_latents())
    assert held_out.timesteps.tolist() == [62, 187, 312, 437, 562, 687, 812, 937] * 2
    assert held_out.captions == ("a",) * LEVELS + ("b",) * LEVELS
    assert torch.equal(held_out.latents[0], held_out.latents[LEVELS - 1])


def test_the_size_of_the_batch_changes_little(tiny_base: Base) -> None:
    held_out = hold_out(tiny_base, some_latents())
    encode = PromptEncoder(tiny_base, trained=False)
    assert abs(held_out.loss(tiny_base, encode, 3) - held_out.loss(tiny_base, encode, 16)) < 1e-5


def test_it_sees_the_adapter(tiny_base: Base) -> None:
    held_out = hold_out(tiny_base, some_latents())
    with injected(tiny_base, AdapterConfig()) as injection:
        encode = PromptEncoder(tiny_base, injection.text_is_trained)
        before = held_out.loss(tiny_base, encode)
        with torch.no_grad():
            for parameter in injection.parameters.values():
                parameter.fill_(0.3)
        assert abs(held_out.loss(tiny_base, encode) - before) > 1e-4
