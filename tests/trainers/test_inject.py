"""The adapter in the base: identity at first, alone in being trained, gone without a trace."""

from __future__ import annotations

import pytest
import torch

from pipelines.base import Base
from pipelines.errors import ConfigError, StudioError
from pipelines.families import TEXT_TARGETS, UNET_TARGETS
from pipelines.mixer import Mixer
from tests.tiny import weights_of
from trainers.inject import collect, disabled, eject, inject, injected
from trainers.settings import TRAINABLE, AdapterConfig, OptimizerConfig

PROMPTS = ["a fox", "a zuv fox"]


def predict(base: Base) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    with torch.no_grad():
        return base.unet(latents, torch.tensor([10, 700]), base.encode_prompts(PROMPTS)).sample


def disturb(parameters: object, seed: int = 0) -> None:
    """Give every trained value something to say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:  # type: ignore[attr-defined]
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


@pytest.mark.parametrize("method", TRAINABLE)
@pytest.mark.parametrize("text", ["none", *TEXT_TARGETS])
@pytest.mark.parametrize("unet", list(UNET_TARGETS))
def test_a_fresh_adapter_is_the_identity(tiny_base: Base, method: str, unet: str, text: str) -> None:
    before = predict(tiny_base)
    config = AdapterConfig(method=method, unet_targets=unet, text_targets=text, rank=3, alpha=6)
    with injected(tiny_base, config) as injection:
        assert torch.equal(predict(tiny_base), before)
        assert injection.text_is_trained == (text != "none")


@pytest.mark.parametrize("unet", list(UNET_TARGETS))
def test_what_is_collected_and_mixed_is_what_was_trained(tiny_base: Base, unet: str) -> None:
    config = AdapterConfig(unet_targets=unet, text_targets="attention+mlp", rank=3, alpha=6)
    with injected(tiny_base, config) as injection:
        disturb(injection.parameters.values())
        trained = predict(tiny_base)
        adapter = collect(injection, "zuv", ("zuv",), {"steps": "3"})
    untrained = predict(tiny_base)
    adapter.check(tiny_base)
    assert adapter.triggers == ("zuv",) and adapter.rank == 3
    with Mixer(tiny_base) as mixer:
        mixer.add("a", adapter)
        mixer.set({"a": 1.0})
        torch.testing.assert_close(predict(tiny_base), trained, atol=2e-5, rtol=1e-4)
    assert (trained - untrained).abs().max() > 1e-3


def test_ejecting_gives_the_base_back_bit_for_bit(tiny_base: Base) -> None:
    names, weights, before = list(tiny_base.modules()), weights_of(tiny_base), predict(tiny_base)
    injection = inject(tiny_base, AdapterConfig(unet_targets="all", text_targets="attention+mlp"))
    disturb(injection.parameters.values())
    assert not torch.equal(predict(tiny_base), before)
    eject(injection)
    assert list(tiny_base.modules()) == names
    assert all(torch.equal(value, weights[name]) for name, value in weights_of(tiny_base).items())
    assert torch.equal(predict(tiny_base), before)
    assert not any(
        p.requires_grad for part in ("unet", "text_encoder") for p in tiny_base.component(part).parameters()
    )


def test_the_adapter_is_ejected_after_an_error(tiny_base: Base) -> None:
    names = list(tiny_base.modules())
    with pytest.raises(RuntimeError, match="on the way"), injected(tiny_base, AdapterConfig()):
        raise RuntimeError("on the way")
    assert list(tiny_base.modules()) == names


def test_disabled_is_the_base_and_comes_back(tiny_base: Base) -> None:
    before = predict(tiny_base)
    with injected(tiny_base, AdapterConfig()) as injection:
        disturb(injection.parameters.values())
        trained = predict(tiny_base)
        with disabled(injection):
            assert torch.equal(predict(tiny_base), before)
        assert torch.equal(predict(tiny_base), trained)
        assert all(p.requires_grad for p in injection.parameters.values())


def test_only_the_adapter_has_gradients(tiny_base: Base) -> None:
    with injected(tiny_base, AdapterConfig()) as injection:
        wanted = {id(parameter) for parameter in injection.parameters.values()}
        trained = {
            id(parameter)
            for part in ("unet", "text_encoder")
            for parameter in tiny_base.component(part).parameters()
            if parameter.requires_grad
        }
        assert trained == wanted


def test_the_seed_decides_the_start_and_leaves_the_global_one_alone(tiny_base: Base) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    starts = []
    for seed in (1, 1, 2):
        with injected(tiny_base, AdapterConfig(), seed) as injection:
            starts.append({name: value.clone() for name, value in injection.tensors().items()})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert any(not torch.equal(starts[0][name], starts[2][name]) for name in starts[0])


def test_groups_hold_each_component_at_its_rate(tiny_base: Base) -> None:
    with injected(tiny_base, AdapterConfig()) as injection:
        unet, text = injection.groups(OptimizerConfig(learning_rate=1e-3, text_learning_rate=1e-4))
        assert (unet["lr"], text["lr"]) == (1e-3, 1e-4)
        assert len(unet["params"]) + len(text["params"]) == len(injection.parameters)
        assert injection.groups(OptimizerConfig(learning_rate=1e-3))[1]["lr"] == 1e-3
    with injected(tiny_base, AdapterConfig(text_targets="none")) as injection:
        assert len(injection.groups(OptimizerConfig())) == 1


def test_loading_refuses_other_names_and_shapes(tiny_base: Base) -> None:
    with injected(tiny_base, AdapterConfig(rank=2)) as injection:
        values = {name: value.clone() for name, value in injection.tensors().items()}
        first = next(iter(values))
        with pytest.raises(StudioError, match="another shape"):
            injection.load({**values, first: torch.zeros(1, 1)})
        del values[first]
        with pytest.raises(StudioError, match="other adapter values"):
            injection.load(values)


def test_targets_that_the_base_lacks_are_refused(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(UNET_TARGETS, "attention", ("to_nowhere",))
    with pytest.raises(ConfigError, match="no layers to_nowhere in its unet"):
        inject(tiny_base, AdapterConfig())
