"""The held-out loss: the same whenever it is asked for, and of the adapter too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.base import Base, load_base
from trainers.caching import Encoded, LatentCache
from trainers.conditions import PromptEncoder
from trainers.evidence.held_out import LEVELS, hold_out
from trainers.settings import AdapterConfig
from trainers.tuning import injected


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
    (batch,) = held_out.batches
    assert batch.timesteps.tolist() == [62, 187, 312, 437, 562, 687, 812, 937] * 2
    assert batch.captions == ("a",) * LEVELS + ("b",) * LEVELS
    assert torch.equal(batch.latents[0], batch.latents[LEVELS - 1])
    assert not torch.equal(batch.noise[0], batch.noise[1])


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


def test_pictures_of_several_shapes_count_alike_whatever_their_masks(tiny_base: Base) -> None:
    square, wide = torch.ones(4, 8, 8), torch.zeros(4, 4, 8)
    mask = torch.zeros(1, 4, 8)
    pictures = [(Encoded(square, square),), (Encoded(wide, wide, mask),), (Encoded(-square, square),)]
    encode = PromptEncoder(tiny_base, trained=False)
    both = hold_out(tiny_base, LatentCache(tuple(pictures), ("a", "b", "c")))
    assert [len(batch) for batch in both.batches] == [2 * LEVELS, LEVELS]
    apart = [
        both.loss(tiny_base, encode) for both in (type(both)(both.levels, (one,)) for one in both.batches)
    ]
    assert both.loss(tiny_base, encode) == pytest.approx((2 * apart[0] + apart[1]) / 3, rel=1e-6)
    assert apart[1] > 0


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_it_is_the_error_of_what_the_base_predicts(tiny_folders: dict[str, Path], family: str) -> None:
    base = load_base(tiny_folders[family], device="cpu", prediction_type="v_prediction")
    frame = (40, 32, 4, 0, 16, 16)
    mean = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(2))
    held_out = hold_out(base, LatentCache(((Encoded(mean, mean, None, frame),),), ("a cat",)))
    (batch,) = held_out.batches
    told = base.condition(batch.captions).arguments_for(torch.tensor([frame] * LEVELS))
    scheduler = base.scheduler
    with torch.no_grad():
        noisy = scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        predicted = base.unet(noisy, batch.timesteps, **told).sample
    wanted = scheduler.get_velocity(batch.latents, batch.noise, batch.timesteps)
    expected = (predicted - wanted).square().mean().item()
    assert held_out.loss(base, PromptEncoder(base, trained=False)) == pytest.approx(expected, rel=1e-4)


def test_the_objective_does_not_change_what_is_measured(tiny_base: Base) -> None:
    held_out = hold_out(tiny_base, some_latents())
    assert torch.equal(held_out.levels.signal, tiny_base.scheduler.alphas_cumprod)
