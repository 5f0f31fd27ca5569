"""PiSSA, OLoRA and EVA: what they begin with, and that the base comes back."""

from __future__ import annotations

import pytest
import torch

from pipelines.adapter import LowRank
from pipelines.base import Base
from pipelines.errors import ConfigError
from pipelines.mixer import Mixer
from tests.tiny import weights_of
from tests.trainers.tuning.trying import predict, seen, train
from trainers.settings import AdapterConfig, OptimizerConfig
from trainers.tuning import inject, injected

_ATTENTION = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_out_of_the_base_is_collected_as_plain_lora(tiny_base: Base, start: str) -> None:
    weights, before = weights_of(tiny_base), seen(tiny_base)
    config = AdapterConfig(initialisation=start, rank=3, alpha=6)
    with injected(tiny_base, config) as injection:
        torch.testing.assert_close(seen(tiny_base), before, atol=5e-6, rtol=0)
        name = f"unet.{_ATTENTION.removeprefix('unet.')}"
        module = injection.tuned[name].seat.module
        assert not torch.equal(module.weight, weights[f"{name}.weight"])  # type: ignore[arg-type]
        fresh = injection.collect("fresh").factors[name]
        torch.testing.assert_close(fresh.delta(), torch.zeros_like(fresh.delta()), atol=1e-6, rtol=0)
        state = injection.state()
        train(injection)
        trained = seen(tiny_base)
        with injection.disabled():
            assert torch.equal(seen(tiny_base), before)
        assert torch.equal(seen(tiny_base), trained)
        adapter = injection.collect("a")
        injection.load(state)
        torch.testing.assert_close(seen(tiny_base), before, atol=5e-6, rtol=0)
    assert all(torch.equal(value, weights[key]) for key, value in weights_of(tiny_base).items())
    assert torch.equal(seen(tiny_base), before)
    assert isinstance(adapter.factors[name], LowRank) and adapter.rank == 6
    with Mixer(tiny_base) as mixer:
        mixer.add("a", adapter)
        mixer.set({"a": 1.0})
        torch.testing.assert_close(seen(tiny_base), trained, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_sixteen_bits_round_what_was_learned_and_not_the_start(tiny_base: Base, start: str) -> None:
    with injected(tiny_base, AdapterConfig(initialisation=start, rank=4, alpha=4)) as injection:
        train(injection, steps=2, rate=1e-4)
        one = injection.tuned[_ATTENTION]
        exact = (one.parts["up"] @ one.parts["down"]).detach().double()
        begun = injection.state()
        exact -= begun[f"{_ATTENTION}.start.up"].double() @ begun[f"{_ATTENTION}.start.down"].double()
        kept = injection.collect("a").factors[_ATTENTION]
        groups = injection.groups(OptimizerConfig(weight_decay=0.1))
    assert isinstance(kept, LowRank)
    written = LowRank(down=kept.down.half(), up=kept.up.half(), alpha=kept.alpha)
    assert (written.delta() - exact).norm() < 1e-2 * exact.norm()
    # Nothing draws it to zero, which isn't what it began as.
    assert [group["weight_decay"] for group in groups] == [0.0, 0.0]


def test_pissa_begins_with_the_strongest_directions(tiny_base: Base) -> None:
    weight = weights_of(tiny_base)[f"{_ATTENTION}.weight"]
    left, values, right = torch.linalg.svd(weight)
    with injected(tiny_base, AdapterConfig(initialisation="pissa", rank=2, alpha=4)) as injection:
        down, up = (injection.parameters[f"{_ATTENTION}.{part}"].detach() for part in ("down", "up"))
        torch.testing.assert_close(2.0 * up @ down, left[:, :2] @ torch.diag(values[:2]) @ right[:2])


def test_a_resumed_start_is_the_one_of_the_checkpoint(tiny_base: Base) -> None:
    config = AdapterConfig(initialisation="pissa", rank=2)
    with injected(tiny_base, config) as injection:
        state = injection.state()
        state[f"{_ATTENTION}.start.up"] += 1.0  # as if another machine had decomposed otherwise
        injection.load(state)
        whole = weights_of(tiny_base)[f"{_ATTENTION}.base_layer.weight"]
        scale = injection.config.alpha / 2
        begun = scale * (state[f"{_ATTENTION}.start.up"] @ state[f"{_ATTENTION}.start.down"])
        with injection.disabled():
            own = weights_of(tiny_base)[f"{_ATTENTION}.base_layer.weight"]
        assert torch.equal(whole, own - begun)


def test_eva_begins_with_what_the_layers_see_vary_most(tiny_base: Base) -> None:
    before = seen(tiny_base)
    inputs: list[torch.Tensor] = []
    module = tiny_base.modules()[_ATTENTION]
    handle = module.register_forward_hook(lambda layer, given, answer: inputs.append(given[0].detach()))
    prompts = (["a fox", "a hen"], ["a cow", "an owl"])
    calls = [lambda prompts=prompts: predict(tiny_base, prompts) for prompts in prompts]
    for call in calls:
        call()
    handle.remove()
    rows = torch.cat([one.reshape(-1, one.shape[-1]) for one in inputs]).double()
    rows = rows - rows.mean(dim=0)
    _, _, wanted = torch.linalg.svd(rows, full_matrices=False)
    with injected(tiny_base, AdapterConfig(initialisation="eva", rank=3), forwards=calls) as injection:
        assert torch.equal(seen(tiny_base), before)
        down = injection.parameters[f"{_ATTENTION}.down"].detach().double()
        torch.testing.assert_close((down @ wanted[:3].T).abs(), torch.eye(3).double(), atol=1e-4, rtol=0)
        text = injection.parameters["text_encoder.encoder.layers.0.self_attn.q_proj.down"].detach()
        torch.testing.assert_close(text @ text.T, torch.eye(3), atol=1e-5, rtol=0)
    assert torch.equal(seen(tiny_base), before)


def test_starts_are_refused_where_they_can_not_be(tiny_base: Base) -> None:
    with pytest.raises(ConfigError, match="eva looks at batches of the pictures, got none"):
        inject(tiny_base, AdapterConfig(initialisation="eva"))
    with pytest.raises(ConfigError, match=r"pissa is for linear layers, unet\..*proj_in is a convolution"):
        inject(tiny_base, AdapterConfig(initialisation="pissa", unet_targets="attention+ff"))
