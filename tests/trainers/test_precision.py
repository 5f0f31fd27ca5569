"""16 bits: what runs in them, what stays fp32, and what becomes of a step that leaves fp16's range."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from trainers.optimizers import build_optimizer
from trainers.precision import Precision
from trainers.settings import OptimizerConfig, RunConfig

CPU = torch.device("cpu")


def precision(mixed: str | None, dtype: torch.dtype = torch.float32) -> Precision:
    said: Any = mixed
    return Precision(RunConfig(output=Path("run"), mixed_precision=said), CPU, dtype)


class Adapted(nn.Module):
    """A frozen layer in some precision, with factors in fp32 beside it: ΔW = up · down."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.base = nn.Linear(8, 4).to(dtype).requires_grad_(False)
            self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x)
        return out + self.up(self.down(x.to(self.down.weight.dtype))).to(out.dtype)


def learn(precision: Precision, model: Adapted, steps: int, factor: float = 1.0) -> list[float]:
    """Losses of some steps at one batch; factor: of the loss, which makes gradients larger."""
    made = torch.Generator().manual_seed(2)
    x, y = torch.randn(16, 8, generator=made), torch.randn(16, 4, generator=made)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=2e-2)
    told = []
    for _ in range(steps):
        with precision.autocast():
            predicted = model(x.to(model.base.weight.dtype))
        loss = ((predicted.float() - y) ** 2).mean() * factor
        precision.backward(loss)
        precision.step(optimizer, learning, 1.0)
        optimizer.zero_grad(set_to_none=True)
        told.append(loss.item())
    return told


@pytest.mark.parametrize(
    ("mixed", "dtype"),
    [("bf16", torch.float32), ("fp16", torch.float32), (None, torch.bfloat16), (None, torch.float16),
     ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)  # fmt: skip
def test_sixteen_bits_learn_like_thirty_two(mixed: str | None, dtype: torch.dtype) -> None:
    exact = learn(precision(None), Adapted(torch.float32), 40)
    model = Adapted(dtype)
    found = learn(precision(mixed, dtype), model, 40)
    assert found != exact and found[-1] < 0.8 * found[0]
    assert found[-1] == pytest.approx(exact[-1], rel=0.03)
    assert model.down.weight.dtype == model.up.weight.dtype == torch.float32


def test_products_run_in_the_chosen_kind() -> None:
    model = Adapted(torch.float32)
    for mixed, kind in (("bf16", torch.bfloat16), ("fp16", torch.float16), (None, torch.float32)):
        with precision(mixed).autocast():
            assert model(torch.ones(1, 8)).dtype == kind


def test_the_loss_is_scaled_for_fp16_alone_and_the_norm_is_not() -> None:
    norms = []
    for mixed, dtype, scale in (("fp16", torch.float32, 65536.0), (None, torch.float16, 65536.0),
                                ("bf16", torch.float32, 1.0), (None, torch.float32, 1.0)):  # fmt: skip
        chosen = precision(mixed, dtype)
        assert chosen.scale == scale and bool(chosen.state()) == (scale > 1)
        parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        chosen.backward((parameter**2).sum() / 2)  # its gradient is the parameter
        norms.append(chosen.step(optimizer, [parameter], 1.0).item())
        assert parameter.detach().tolist() == pytest.approx([3.0 - 0.6, 4.0 - 0.8], abs=1e-5)
    assert norms == pytest.approx([5.0] * 4)


def test_a_step_out_of_range_is_left_out_and_the_scale_halved() -> None:
    chosen = precision("fp16")
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    chosen.backward((parameter * torch.tensor([float("inf"), 1.0])).sum())
    norm = chosen.step(optimizer, [parameter], 1.0)
    assert chosen.skipped and norm == 0 and chosen.scale == 32768.0 and "32768" in chosen.notes()[0]
    assert parameter.detach().tolist() == [1.0, 1.0] and not optimizer.state
    optimizer.zero_grad(set_to_none=True)
    chosen.backward(parameter.sum())
    assert chosen.step(optimizer, [parameter], 10.0).item() == pytest.approx(2**0.5)
    assert not chosen.skipped and not chosen.notes() and parameter[0] < 1


def test_what_no_scale_helps_shows_in_the_norm() -> None:
    """A loss that is NaN again and again isn't skipped for ever; without scaling it shows at once."""
    chosen = precision("fp16")
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    for _ in range(40):
        optimizer.zero_grad(set_to_none=True)
        chosen.backward(parameter.sum() * float("nan"))
        norm = chosen.step(optimizer, [parameter], 1.0)
        if not chosen.skipped:
            break
    assert not norm.isfinite() and parameter.item() == 1.0
    plain = precision(None)
    optimizer.zero_grad(set_to_none=True)
    plain.backward(parameter.sum() * float("nan"))
    assert not plain.step(optimizer, [parameter], 1.0).isfinite()
    assert parameter.item() == 1.0 and not plain.skipped


@pytest.mark.parametrize("mode", [None, "fp16"])
def test_no_step_is_taken_by_a_loss_that_is_none_though_its_gradients_are(mode: str | None) -> None:
    chosen = precision(mode)
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    chosen.backward(parameter.sum())
    assert chosen.step(optimizer, [parameter], 1.0, torch.tensor([float("nan")])).isfinite()
    assert parameter.item() == 1.0


def test_the_scale_comes_back_from_a_checkpoint() -> None:
    first = precision("fp16")
    model = Adapted(torch.float32)
    learn(first, model, 3, factor=1e38)  # at some scale the gradients fit
    assert first.scale < 65536.0
    state: dict[str, Any] = json.loads(json.dumps(first.state()))
    second = precision("fp16")
    second.load(state)
    assert second.state() == first.state() and second.scale == first.scale
    again = Adapted(torch.float32)
    again.load_state_dict(model.state_dict())
    assert learn(second, again, 3, factor=1e30) == learn(first, model, 3, factor=1e30)
    assert second.state() == first.state()


def test_two_kinds_of_sixteen_bits_are_refused() -> None:
    with pytest.raises(ValidationError, match="expected one kind of 16 bits; choose precision 'bf16'"):
        RunConfig(output=Path("run"), precision="fp16", mixed_precision="bf16")


@pytest.mark.parametrize("mixed", [None, "fp16"])
def test_only_groups_that_learn_take_a_step(mixed: str | None) -> None:
    chosen = precision(mixed)
    learns, rests = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1), requires_grad=False)
    config = OptimizerConfig(optimizer="adopt")
    optimizer = build_optimizer([{"params": [rests], "lr": 0.1}, {"params": [learns], "lr": 0.1}], config)
    for _ in range(3):
        chosen.backward(learns.square().sum())
        chosen.step(optimizer, [rests, learns], 1.0)
    assert [group.get("step") for group in optimizer.param_groups] == [None, 3]
