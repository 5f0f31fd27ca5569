"""The loop's pieces: guidance rescale, what a step says of the end, what a mask keeps, the rest after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from pipelines.base import Base, load_base
from pipelines.denoise import Kept, Step, at_rest_after, denoise, initial_noise, rescaled
from pipelines.drawing.plans import make_plan
from pipelines.generate import GenerationConfig
from pipelines.samplers import make_scheduler
from tests.tiny import save_tiny_pipeline

FEW = GenerationConfig(prompt="a fox", num_inference_steps=4, guidance_scale=1.0)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rescale_equals_diffusers_for_each_picture_of_a_batch(share: float) -> None:
    guided = _random(3, 4, 5, 6) * torch.tensor([1.0, 5.0, 0.2]).view(3, 1, 1, 1)
    positive = _random(3, 4, 5, 6, seed=1)
    theirs = rescale_noise_cfg(guided, positive, guidance_rescale=share)
    assert torch.allclose(rescaled(guided, positive, share), theirs, atol=1e-6)
    alone = torch.cat([rescaled(g[None], p[None], share) for g, p in zip(guided, positive, strict=True)])
    assert torch.allclose(alone, theirs, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_a_steps_estimate_is_the_schedulers(tmp_path: Path, sampler: str, prediction_type: str) -> None:
    base = load_base(save_tiny_pipeline(tmp_path / "b", prediction_type=prediction_type), device="cpu")
    config = FEW.model_copy(update={"sampler": sampler})
    plan = make_plan(base, config, base.condition(["a fox"]), [3], (16, 16))
    wanted: list[torch.Tensor] = []
    step = plan.scheduler.step

    def spy(*arguments: Any, **named: Any) -> Any:
        out = step(*arguments, **{**named, "return_dict": True})
        wanted.append(out.pred_original_sample)
        return (out.prev_sample,)

    plan.scheduler.step = spy
    seen: list[Step] = []
    with torch.no_grad():
        denoise(base, plan, seen.append)
    for told, expected in zip(seen, wanted, strict=True):
        assert (told.estimate() - expected).abs().max() / expected.abs().max() < 1e-4


def test_what_is_kept_comes_back_at_its_noise(tiny_base: Base) -> None:
    scheduler: Any = make_scheduler(tiny_base, "ddim")
    scheduler.set_timesteps(4)
    clean, noise, drawn = _random(1, 4, 8, 8), _random(2, 4, 8, 8, seed=1), _random(2, 4, 8, 8, seed=2)
    hole = torch.zeros(1, 1, 8, 8)
    hole[..., :4] = 1
    kept = Kept(clean, noise, hole)
    following = scheduler.timesteps[2:3]
    found = kept.put_back(scheduler, drawn, following)
    assert torch.equal(found[..., :4], drawn[..., :4])
    wanted = scheduler.add_noise(clean.expand(2, -1, -1, -1), noise, following.expand(2))
    assert torch.equal(found[..., 4:], wanted[..., 4:])
    last = kept.put_back(scheduler, drawn.half(), scheduler.timesteps[4:])
    assert torch.equal(last[..., 4:], clean.half().expand(2, -1, -1, -1)[..., 4:])
    assert last.dtype == torch.float16


def test_noise_is_the_seeds_alone(tiny_base: Base) -> None:
    first, generator = initial_noise(tiny_base, 5, (16, 24))
    assert first.shape == (1, 4, 8, 12) and first.dtype == torch.float32
    assert torch.equal(first, initial_noise(tiny_base, 5, (16, 24))[0])
    assert not torch.equal(first, initial_noise(tiny_base, 6, (16, 24))[0])
    assert generator.initial_seed() == 5


def test_a_mix_is_told_its_steps_and_rests_after_an_error(tiny_base: Base) -> None:
    class Watching:
        def __init__(self) -> None:
            self.calls: list[Any] = []

        def at(self, step: int, total: int) -> None:
            self.calls.append((step, total))

        def rest(self) -> None:
            self.calls.append("rest")

    def fail(step: Step) -> None:
        if step.done == 2:
            raise ZeroDivisionError

    holder = tiny_base.holder = Watching()
    plan = make_plan(tiny_base, FEW, tiny_base.condition(["a fox"]), [3], (16, 16))
    with pytest.raises(ZeroDivisionError), torch.no_grad(), at_rest_after(tiny_base):
        denoise(tiny_base, plan, fail)
    assert holder.calls == [(0, 4), (1, 4), "rest"]
