"""Low-rank layers in one piece against PEFT's: the same numbers, gradients, starts and files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Conv2d, Linear
from torch import nn
from torch.utils.checkpoint import checkpoint

from pipelines.adapter import LowRank
from pipelines.base import Base
from tests.trainers.tuning.trying import WORD, config_of, predict, seen
from trainers.tuning import Injection, injected, low_rank_calls, low_rank_products
from trainers.tuning.low_rank import LowRankLayer, fits

_ALPHA, _RANK = 6.0, 3

# name: (module, shape of its input)
_MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(10, 14), (2, 5, 10)),
    "linear without bias": (lambda: nn.Linear(10, 6, bias=False), (7, 10)),
    "convolution": (lambda: nn.Conv2d(6, 8, 3, stride=2, padding=1), (2, 6, 8, 6)),
    "pointwise": (lambda: nn.Conv2d(6, 8, 1, bias=False), (1, 6, 4, 4)),
}


def pair(
    name: str, in_one: bool, dropout: float = 0.0, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, LowRankLayer, torch.Tensor]:
    """PEFT's layer and ours with the same factors over the same module, and an input."""
    torch.manual_seed(3)
    make, shape = _MODULES[name]
    module: Any = make().to(dtype).requires_grad_(False)
    kind = Conv2d if isinstance(module, nn.Conv2d) else Linear
    config = LoraConfig(r=_RANK, lora_alpha=_ALPHA, lora_dropout=dropout)
    theirs: Any = kind(module, "default", r=_RANK, lora_alpha=_ALPHA, config=config)
    factors = [holder["default"] for holder in (theirs.lora_A, theirs.lora_B)]
    for factor in factors:
        factor.weight = nn.Parameter(torch.randn(factor.weight.shape) * 0.3)
    down, up = (nn.Parameter(factor.weight.detach().clone()) for factor in factors)
    ours = LowRankLayer(module, down, up, alpha=_ALPHA, dropout=dropout)
    ours.in_one = in_one
    return theirs, ours, torch.randn(shape).to(dtype)


def outcome(layer: Any, x: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    """What a layer answers, and the gradients of its factors and its input for a loss of that."""
    x = x.detach().clone().requires_grad_()
    torch.manual_seed(seed)
    y = layer(x)
    weights = torch.linspace(-1, 1, y.numel()).view(y.shape).to(y)
    (y * weights).sum().backward()
    ours = isinstance(layer, LowRankLayer)
    factors = (layer.down, layer.up) if ours else (layer.lora_A.default.weight, layer.lora_B.default.weight)
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, "down": factors[0].grad, "up": factors[1].grad}


@pytest.mark.parametrize("in_one", [True, False])
@pytest.mark.parametrize("name", _MODULES)
def test_a_layer_equals_pefts(name: str, in_one: bool) -> None:
    theirs, ours, x = pair(name, in_one)
    for given in (x, x.transpose(0, -1).contiguous().transpose(0, -1)):  # laid out otherwise, too
        if given.dim() == 4 and given is not x:
            given = x.contiguous(memory_format=torch.channels_last)
        theirs.zero_grad()
        ours.zero_grad()
        wanted, found = outcome(theirs, given), outcome(ours, given)
        for part, value in wanted.items():
            torch.testing.assert_close(found[part], value, atol=2e-6, rtol=2e-5, msg=part)
    again = outcome(ours, given)  # onto gradients that are there already
    for part in ("down", "up"):
        torch.testing.assert_close(again[part], 2 * wanted[part], atol=4e-6, rtol=2e-5)


@pytest.mark.parametrize("in_one", [True, False])
@pytest.mark.parametrize("name", _MODULES)
def test_dropout_leaves_out_what_pefts_does(name: str, in_one: bool) -> None:
    theirs, ours, x = pair(name, in_one, dropout=0.4)
    wanted, found = outcome(theirs.train(), x), outcome(ours.train(), x)
    for part, value in wanted.items():
        torch.testing.assert_close(found[part], value, atol=2e-6, rtol=2e-5, msg=part)
    assert not torch.equal(outcome(ours, x, seed=1)["y"], found["y"])
    torch.testing.assert_close(outcome(ours.eval(), x)["y"], outcome(theirs.eval(), x)["y"])


@pytest.mark.parametrize("in_one", [True, False])
@pytest.mark.parametrize("name", _MODULES)
def test_sixteen_bits_are_rounded_as_by_peft(name: str, in_one: bool) -> None:
    theirs, ours, x = pair(name, in_one, dtype=torch.bfloat16)
    wanted, found = outcome(theirs, x), outcome(ours, x)
    for part, value in wanted.items():
        assert found[part].dtype == value.dtype, part
        torch.testing.assert_close(found[part], value, atol=2e-2, rtol=1e-2, msg=part)
    theirs, ours, x = pair(name, in_one)
    with torch.autocast("cpu", torch.bfloat16):
        wanted, found = outcome(theirs, x), outcome(ours, x)
    for part, value in wanted.items():
        assert found[part].dtype == value.dtype, part
        torch.testing.assert_close(found[part], value, atol=6e-2, rtol=3e-2, msg=part)


@pytest.mark.parametrize("name", _MODULES)
def test_on_cards_the_products_of_low_rank_take_the_lent_copies(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a card, but for the kernels: the base's 16 bits throughout, gradients in fp32."""
    monkeypatch.setattr(low_rank_products, "precision_of", lambda x, down: x.dtype)
    theirs, ours, x = pair(name, True, dtype=torch.bfloat16)
    wanted = outcome(theirs, x)
    for _ in range(2):
        found = outcome(ours, x)
        for part, value in wanted.items():
            assert found[part].dtype == value.dtype, part
            torch.testing.assert_close(found[part], value, atol=4e-2, rtol=3e-2, msg=part)
        ours.zero_grad()
        ours.lent = (ours.down.detach().bfloat16(), ours.up.detach().bfloat16())
    ours.lent = (ours.down.detach().bfloat16() * 0, ours.up.detach().bfloat16())
    torch.testing.assert_close(ours(x), ours.base_layer(x))


@pytest.mark.parametrize("in_one", [True, False])
@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_only_gradients_that_are_asked_for_are_made(name: str, in_one: bool) -> None:
    _, ours, x = pair(name, in_one)
    wanted = outcome(ours, x)
    ours.zero_grad()
    ours(x).sum().backward()  # an input that needs none
    assert ours.down.grad is not None and ours.up.grad is not None and x.grad is None
    ours.zero_grad()
    ours.down.requires_grad_(False)
    found = outcome(ours, x)
    assert found["down"] is None
    torch.testing.assert_close(found["up"], wanted["up"])
    ours.up.requires_grad_(False)
    torch.testing.assert_close(outcome(ours, x)["x"], wanted["x"])
    with torch.no_grad():
        torch.testing.assert_close(ours(x), wanted["y"])
        ours.enabled = False
        assert torch.equal(ours(x), ours.base_layer(x))


@pytest.mark.parametrize("in_one", [True, False])
@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_a_base_that_does_more_than_its_class_is_asked(name: str, in_one: bool) -> None:
    theirs, ours, x = pair(name, in_one)
    handle = ours.base_layer.register_forward_hook(lambda module, given, answer: answer * 2)
    wanted, found = outcome(theirs, x), outcome(ours, x)
    handle.remove()
    for part, value in wanted.items():
        torch.testing.assert_close(found[part], value, atol=2e-6, rtol=2e-5, msg=part)
    weight: Any = ours.base_layer.weight
    weight.requires_grad_(True)
    outcome(ours, x)
    assert bool(weight.grad.any())


@pytest.mark.parametrize("in_one", [True, False])
def test_what_is_computed_a_second_time_is_the_same(in_one: bool) -> None:
    _, ours, x = pair("linear", in_one, dropout=0.3)
    ours.train()
    wanted = outcome(ours, x)
    for reentrant in (True, False):
        ours.zero_grad()
        x = x.detach().requires_grad_()
        torch.manual_seed(0)
        y: Any = checkpoint(ours, x, use_reentrant=reentrant)
        (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
        assert ours.down.grad is not None and ours.up.grad is not None
        assert torch.equal(ours.down.grad, wanted["down"]) and torch.equal(ours.up.grad, wanted["up"])


@pytest.mark.parametrize("name", _MODULES)
def test_no_number_is_looked_at_on_the_way(name: str) -> None:
    """On "meta" there are none: what ran there can be recorded as a CUDA graph."""
    _, ours, x = pair(name, True)
    ours = ours.to("meta")
    ours.down.grad, ours.up.grad = torch.zeros_like(ours.down), torch.zeros_like(ours.up)
    found = outcome(ours, x.to("meta"))
    assert found["y"].device.type == "meta" and found["x"].shape == x.shape


def test_folding_changes_nothing_but_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert low_rank_calls.folds(256, 64, 64, 16) and not low_rank_calls.folds(16, 192, 192, 16)
    assert not low_rank_calls.folds(4096, 1280, 1280, 16)
    _, ours, x = pair("linear", False)
    found = []
    for limit in (0.0, 1e9):
        monkeypatch.setattr(low_rank_calls, "FOLDED", limit)
        ours.zero_grad()
        found.append(outcome(ours, x))
    for part, value in found[0].items():
        torch.testing.assert_close(found[1][part], value, atol=2e-6, rtol=2e-5, msg=part)


def test_products_of_sixteen_bits_are_added_in_the_widest_way_there_is() -> None:
    """A CPU has no products of 16 bits in fp32; the ways that cards have are tried and left."""
    add = low_rank_products.add_wide(torch.device("cpu"), torch.bfloat16)
    kept = torch.ones(4, 4)
    add(kept, torch.ones(4, 2).bfloat16(), torch.ones(2, 4).bfloat16(), 0.5)
    assert torch.equal(kept, torch.full((4, 4), 2.0))


def test_what_a_layer_can_not_stand_for_is_left_to_peft() -> None:
    assert fits(nn.Linear(2, 2)) and fits(nn.Conv2d(2, 2, 3, padding=1))
    for other in (
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(2, 2, 3, dilation=2),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.Conv1d(2, 2, 1),
    ):
        assert not fits(other)


_CONFIGS: dict[str, dict[str, Any]] = {
    "lora": {"unet_targets": "all"},
    "rslora": {},
    "pivotal": {"text_rank": 3, "block_ranks": ("mid_block=4",), "block_alphas": ("mid_block=8",)},
    "pissa": {"method": "lora", "initialisation": "pissa", "unet_targets": "attention"},
    "olora": {"method": "lora", "initialisation": "olora", "unet_targets": "attention"},
    "eva": {"method": "lora", "initialisation": "eva", "unet_targets": "attention", "dropout": 0.2},
}


def _learned(base: Base, injection: Injection, steps: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Take steps of plain descent; return the last answer and the state."""
    optimizer = torch.optim.SGD(injection.parameters.values(), lr=2e-3, momentum=0.9)
    for step in range(steps):
        with injection.learning(step):
            (predict(base) - 1.0).square().mean().backward()
        injection.after_step(step + 1, steps)
        optimizer.step()
        optimizer.zero_grad()
    return seen(base), injection.state()


@pytest.mark.parametrize("name", _CONFIGS)
def test_an_adapter_is_the_same_by_either_layers(tiny_base: Base, name: str) -> None:
    fields = {"method": name, **_CONFIGS[name]}
    method = fields.pop("method")
    config = config_of(method, **fields)
    calls = [lambda: predict(tiny_base)]
    found = []
    for quick in (False, True):
        with injected(tiny_base, config, 5, word=WORD, forwards=calls, quick=quick) as injection:
            kinds = {isinstance(one.layer, LowRankLayer) for one in injection.tuned.values()}
            assert kinds == {quick}
            start = injection.state()
            answer, state = _learned(tiny_base, injection, 2)
            adapter = injection.collect("a")
            found.append((start, answer, state, adapter.factors))
    for first, second in zip(found[0][0].items(), found[1][0].items(), strict=True):
        assert first[0] == second[0] and torch.equal(first[1], second[1])
    torch.testing.assert_close(found[1][1], found[0][1], atol=2e-5, rtol=1e-4)
    for part, value in found[0][2].items():
        torch.testing.assert_close(found[1][2][part], value, atol=2e-6, rtol=1e-4, msg=part)
    for module, factor in found[0][3].items():
        other = found[1][3][module]
        assert isinstance(factor, LowRank) and isinstance(other, LowRank) and other.alpha == factor.alpha
        torch.testing.assert_close(other.delta(), factor.delta(), atol=2e-6, rtol=1e-3)


@pytest.mark.parametrize("in_one", [True, False])
def test_after_fifty_steps_all_is_as_with_pefts(in_one: bool) -> None:
    conv, linear = pair("convolution", in_one), pair("linear", in_one)
    losses: list[list[float]] = []
    answers = []
    for side in (0, 1):
        layers: Any = [conv[side], linear[side]]
        losses.append([])
        parameters = [p for layer in layers for p in layer.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        for _ in range(50):
            inner = layers[0](conv[2]).flatten(2)  # (2, 8, 12)
            answer = layers[1](inner[:, :5, :10].tanh())
            loss = (answer - 1).square().mean()
            loss.backward()
            losses[side].append(loss.item())
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        answers.append(answer.detach())
    assert losses[0][-1] < 0.2 * losses[0][0] and losses[1] == pytest.approx(losses[0], rel=1e-3)
    torch.testing.assert_close(answers[1], answers[0], atol=1e-4, rtol=1e-3)


def test_layers_can_be_changed_on_the_way(tiny_sdxl: Base) -> None:
    """A checkpoint of one kind goes on with the other."""
    config = config_of("lora", unet_targets="attention")
    answers, before = [], seen(tiny_sdxl)
    for order in ((False, True), (True, False)):
        state = None
        for quick in order:
            with injected(tiny_sdxl, config, 5, quick=quick) as injection:
                started = {name: value + 0.01 for name, value in injection.state().items()}
                injection.load(started if state is None else state)
                answer, state = _learned(tiny_sdxl, injection, 1)
        answers.append(answer)
    assert (answers[0] - before).abs().max() > 1e-3
    torch.testing.assert_close(answers[1], answers[0], atol=2e-5, rtol=1e-4)
