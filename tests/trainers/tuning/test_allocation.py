"""AdaLoRA's ranks against PEFT's own model, and what a resume needs of them."""

from __future__ import annotations

import pytest
import torch

from pipelines.base import Base
from pipelines.errors import ConfigError
from tests.trainers.tuning.trying import config_of, disturb, predict, take_step
from trainers.averages import Averages
from trainers.config import validate
from trainers.settings import OptimizerConfig
from trainers.tuning import injected


def test_ranks_are_given_out_as_peft_does(tiny_base: Base) -> None:
    """One component alone, where PEFT's model does the same with `update_and_allocate`."""
    from peft.tuners.adalora.model import AdaLoraModel

    total, config = 10, config_of("adalora", unet_targets="attention", text_targets="none")
    left = []
    for own in (True, False):
        with injected(tiny_base, config, 1) as injection:
            optimizer = torch.optim.SGD(injection.parameters.values(), lr=0.05)
            if not own:
                from peft.tuners.adalora.layer import RankAllocator

                settings = injection._allocations[0]._config
                settings.total_step, settings.tinit, settings.tfinal, settings.deltaT = total, 1, 3, 1
                settings.inference_mode = False
                model = AdaLoraModel.__new__(AdaLoraModel)
                torch.nn.Module.__init__(model)
                model.model, model.peft_config = tiny_base.unet, {"default": settings}
                model.trainable_adapter_name = "default"
                model.rankallocator = RankAllocator(tiny_base.unet, settings, "default")
            for step in range(1, total + 1):
                predict(tiny_base).square().mean().backward()
                optimizer.step()
                if own:
                    injection.after_step(step, total)
                else:
                    model.update_and_allocate(step)
                optimizer.zero_grad(set_to_none=True)
            left.append(
                injection.state() if own else {n: p.detach().clone() for n, p in injection.parameters.items()}
            )
            if own:
                ranks = [factor.rank for factor in injection.collect("a").factors.values()]
                assert sum(ranks) <= 2 * len(ranks) + len(ranks) // 2 and len(set(ranks)) > 1
    assert all(torch.equal(left[0][name], value) for name, value in left[1].items())


def test_the_penalty_is_the_distance_from_orthogonal_factors(tiny_base: Base) -> None:
    with injected(tiny_base, config_of("adalora", text_targets="none")) as injection:
        disturb(injection.parameters.values())
        norms = [
            torch.linalg.norm(q - torch.eye(q.shape[0]))
            for one in injection.tuned.values()
            for q in (
                one.parts["up"].detach().T @ one.parts["up"].detach(),
                one.parts["down"].detach() @ one.parts["down"].detach().T,
            )
        ]
        penalty = injection.penalty()
        assert penalty is not None and penalty.requires_grad
        assert penalty.item() == pytest.approx(0.1 * sum(n.item() for n in norms) / len(norms), rel=1e-5)
    with injected(tiny_base, config_of("lora")) as injection:
        assert injection.penalty() is None


@pytest.mark.parametrize("total", [1, 2, 3, 5])
def test_runs_of_few_steps_have_a_plan_too(tiny_base: Base, total: int) -> None:
    with injected(
        tiny_base, config_of("adalora", text_targets="none", unet_targets="attention")
    ) as injection:
        for step in range(1, total + 1):
            for parameter in injection.parameters.values():
                parameter.grad = torch.ones_like(parameter)
            injection.after_step(step, total)
        assert injection.collect("a").rank <= 3


def test_an_average_keeps_no_direction_that_was_pruned(tiny_base: Base) -> None:
    config, rates = config_of("adalora", text_targets="none"), OptimizerConfig(ema_decay=0.99)
    with injected(tiny_base, config, 1) as injection:
        optimizer = torch.optim.SGD(injection.parameters.values(), lr=0.05)
        averages = Averages(injection.parameters, optimizer, rates)
        for step in range(1, 9):
            take_step(injection, optimizer, step, 8)
            averages.after_step(injection.pruned())
            assert bool(injection.pruned()) == (step >= 6)
        ranks = {name: factor.rank for name, factor in injection.collect("a").factors.items()}
        with averages.applied():
            kept = {name: factor.rank for name, factor in injection.collect("a").factors.items()}
        again = injection.state()
        injection.load(again)
        assert injection.pruned().keys() == {f"{name}.singular" for name in ranks}
    assert kept == ranks and len(set(ranks.values())) > 1


def test_the_last_pruning_is_made_up_for(tiny_base: Base) -> None:
    """In fp16 the step of the last pruning may be left out."""
    config = config_of("adalora", text_targets="none")
    with injected(tiny_base, config, 1) as injection:
        optimizer = torch.optim.SGD(injection.parameters.values(), lr=0.05)
        for step in (1, 7, 8):  # of 8 steps the 2nd to the 6th prune
            take_step(injection, optimizer, step, 8)
            assert bool(injection.pruned()) == (step > 1)
        ranks = [factor.rank for factor in injection.collect("a").factors.values()]
    assert sum(ranks) <= 2 * len(ranks) + ranks.count(1)


def test_an_optimizer_that_averages_is_refused() -> None:
    values = {
        "data": {"instance_images": "a", "trigger": "zuv", "instance_prompt": "a zuv"},
        "adapter": {"method": "adalora"},
        "optimizer": {"optimizer": "schedule_free_adamw"},
        "run": {"output": "run"},
    }
    with pytest.raises(ConfigError, match="would average back what AdaLoRA prunes; choose 'adamw'"):
        validate(values)
