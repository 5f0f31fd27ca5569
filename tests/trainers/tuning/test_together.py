"""Layers as they work on a card: in one function, those of an attention together, with copies lent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipelines.base import Base
from tests.tiny import assert_unchanged, weights_of
from tests.trainers.tuning.trying import config_of, disturb, predict, seen
from trainers.tuning import Injection, injected
from trainers.tuning.low_rank import Lending, LowRankLayer, fresh_layer
from trainers.tuning.together import Together, put_together


def storages(base: Base) -> int:
    """In how many pieces of memory a base's weights lie."""
    parts = [base.component(component) for component in base.family.components]
    return len({p.untyped_storage().data_ptr() for part in parts for p in part.parameters()})


def as_on_a_card(base: Base, injection: Injection) -> list[LowRankLayer]:
    """Let every layer work in one function, and those together that may."""
    layers = [one.layer for one in injection.tuned.values() if isinstance(one.layer, LowRankLayer)]
    for layer in layers:
        layer.in_one = True
    put_together(base, injection.tuned.values())
    return layers


@pytest.mark.parametrize("preset", [True, False])
@pytest.mark.parametrize("targets", ["attention", "all"])
def test_what_is_learned_as_on_a_card_is_what_calls_learn(
    tiny_base: Base, targets: str, preset: bool
) -> None:
    answers, before, places = [], weights_of(tiny_base), storages(tiny_base)
    for card in (True, False):
        with injected(tiny_base, config_of("lora", unet_targets=targets), 5) as injection:
            disturb(injection.parameters.values())
            if card:
                layers = as_on_a_card(tiny_base, injection)
                groups = {layer.together for layer in layers if layer.together is not None}
                # In the UNet four attentions to itself and four to the text; two in the text encoder.
                assert sorted(len(group.layers) for group in groups) == [2] * 4 + [3] * 6
            if preset:  # as they stand in flat buffers
                for parameter in injection.parameters.values():
                    parameter.grad = torch.ones_like(parameter)
            answer = predict(tiny_base)
            (answer - 1.0).square().mean().backward()
            with injection.disabled():
                plain = seen(tiny_base)
            gradients = [p.grad for p in injection.parameters.values() if p.grad is not None]
            answers.append((answer.detach(), torch.cat([one.flatten() for one in gradients]), plain))
    assert_unchanged(tiny_base, before)
    assert storages(tiny_base) == places
    for first, second in zip(*answers, strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-3)
    assert torch.equal(answers[0][2], seen(tiny_base))


def test_layers_are_together_only_while_they_are_asked_the_same() -> None:
    torch.manual_seed(0)
    bases = [nn.Linear(6, 4).requires_grad_(False) for _ in range(2)]
    weights = [base.weight.detach().clone() for base in bases]
    layers = [
        LowRankLayer(base, nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(4, 2)), alpha=3.0)
        for base in bases
    ]
    xs = [torch.randn(3, 6) for _ in range(2)]
    wanted = [[layer(x) for layer in layers] for x in xs]
    group = Together(layers)
    for layer in layers:
        layer.together = group
    for x, answers in zip(xs, wanted, strict=True):
        for layer, answer in zip(layers, answers, strict=True):
            torch.testing.assert_close(layer(x), answer)
    torch.testing.assert_close(layers[0](xs[0]), wanted[0][0])
    torch.testing.assert_close(layers[1](xs[1]), wanted[1][1])  # another input than the first was asked with
    torch.testing.assert_close(layers[0](xs[0]), wanted[0][0])
    xs[0].mul_(2)
    layers[0].enabled = False  # then each for itself
    assert torch.equal(layers[0](xs[0]), bases[0](xs[0]))
    assert not group.ready()
    layers[0].enabled = True
    bases[0].weight.data = bases[0].weight.data + 1  # another weight in the meantime
    assert not group.ready()
    torch.testing.assert_close(layers[0](xs[1]), wanted[1][0] + xs[1].sum(dim=1, keepdim=True))
    bases[0].weight.data = weights[0]
    layers[0].restore()
    assert all(layer.together is None for layer in layers)
    assert all(torch.equal(base.weight, weight) for base, weight in zip(bases, weights, strict=True))


def test_copies_are_lent_while_a_batch_is_learned(tiny_base: Base) -> None:
    tiny_base.unet.to(torch.bfloat16)
    latents = torch.randn(1, 4, 8, 8).bfloat16()
    told = tiny_base.condition(["a fox"]).hidden.bfloat16()
    with injected(tiny_base, config_of("lora", text_targets="none"), 5) as injection:
        with injection.learning():  # on a CPU nothing is cast
            assert all(getattr(one.layer, "lent", 0) is None for one in injection.tuned.values())
        layers: Any = as_on_a_card(tiny_base, injection)
        groups: Any = {layer.together for layer in layers} - {None}
        assert len(groups) == 8  # of an attention to itself and to a text in each of four blocks
        injection._lending = Lending(layers)
        for _ in range(2):
            disturb(injection.parameters.values())
            with injection.learning():
                kept = [layer.lent for layer in layers]
                for layer, (down, up) in zip(layers, kept, strict=True):
                    assert down.dtype == up.dtype == torch.bfloat16
                    assert torch.equal(down, layer.down.bfloat16()) and torch.equal(up, layer.up.bfloat16())
                for group in groups:
                    downs, ups = (torch.stack([one.lent[i] for one in group.layers]) for i in (0, 1))
                    assert torch.equal(group.lent[0], downs.flatten(0, 1)) and torch.equal(group.lent[1], ups)
            assert all(one.lent is None for one in (*layers, *groups))
        with injection.learning():  # where they were: recordings know them by their place
            assert all(layer.lent[0] is one[0] for layer, one in zip(layers, kept, strict=True))
            assert bool(tiny_base.unet(latents, torch.tensor([10]), told).sample.isfinite().all())


def test_layers_that_are_moved_to_a_card_work_as_there() -> None:
    """Text encoders that learn: without memory until then, as on a card they lie elsewhere."""
    layer = fresh_layer(nn.Linear(8, 8).bfloat16(), 2, 2.0, 0.0)
    module, lending = nn.Sequential(layer), Lending([layer])
    assert not layer.in_one
    module.to("meta")
    assert layer.in_one
    with lending.lent():
        assert layer.lent is not None and all(one.dtype == torch.bfloat16 for one in layer.lent)
    assert layer.lent is None
