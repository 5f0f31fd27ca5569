"""Factors: their product, their restating, what is wrong with them; and the table of methods."""

from __future__ import annotations

import pytest
import torch

from pipelines.adapter import Adapter, LowRank
from pipelines.base import Base
from pipelines.families import TEXT_TARGETS, UNET_TARGETS
from pipelines.formats import FORMATS
from pipelines.methods import METHODS
from tests.tiny import target_modules, weights_of


def test_delta_is_alpha_over_rank_times_up_times_down() -> None:
    down, up = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    factor = LowRank(down=down, up=up, alpha=4.0)
    assert torch.equal(factor.delta(), torch.tensor([[2.0, 4.0, 6.0], [0.0, -2.0, 0.0]]))
    assert (factor.rank, factor.weight_shape) == (2, (2, 3))


def test_a_convolutions_delta_is_the_two_convolutions_in_a_row() -> None:
    down, up = torch.randn(2, 3, 3, 3), torch.randn(5, 2, 1, 1)
    factor = LowRank(down=down, up=up, alpha=3.0)
    inputs = torch.randn(1, 3, 6, 6)
    inner = torch.nn.functional.conv2d(inputs, down)
    expected = 1.5 * torch.nn.functional.conv2d(inner, up)
    assert factor.weight_shape == (5, 3, 3, 3)
    assert torch.allclose(torch.nn.functional.conv2d(inputs, factor.delta()), expected, atol=1e-4)


def test_delta_is_fp32_whatever_the_factors_are() -> None:
    factor = LowRank(torch.randn(1, 4).half(), torch.randn(4, 1).bfloat16(), 1.0)
    assert factor.delta().dtype == torch.float32


@pytest.mark.parametrize("alpha", [0.25, 4.0, -7.0])
def test_restating_alpha_keeps_delta(alpha: float) -> None:
    factor = LowRank(torch.randn(4, 6), torch.randn(5, 4), 3.0)
    restated = factor.with_alpha(alpha)
    assert restated.alpha == alpha
    assert torch.allclose(restated.delta(), factor.delta(), atol=1e-6)
    assert factor.with_alpha(3.0) is factor


def test_rank_and_components_of_an_adapter() -> None:
    one, two = (LowRank(torch.zeros(rank, 4), torch.zeros(4, rank), 1.0) for rank in (1, 2))
    adapter = Adapter(name="x", factors={"unet.a": one, "text_encoder.b": two})
    assert (adapter.rank, adapter.components) == (2, ("text_encoder", "unet"))
    assert (Adapter(name="x", factors={}).rank, Adapter(name="x", factors={}).components) == (0, ())


def test_lora_starts_as_identity_and_its_delta_is_pefts(tiny_base: Base) -> None:
    from peft import inject_adapter_in_model

    row = METHODS["lora"]
    assert row.peft_config is not None
    inputs = (torch.randn(1, 4, 8, 8), torch.tensor(300), torch.randn(1, 16, 32))
    with torch.no_grad():
        plain = tiny_base.unet(*inputs).sample
    inject_adapter_in_model(row.peft_config(3, 6.0, UNET_TARGETS["all"], 0.0), tiny_base.unet)
    with torch.no_grad():
        assert torch.equal(tiny_base.unet(*inputs).sample, plain)
    wrapped = {n: m for n, m in tiny_base.unet.named_modules() if hasattr(m, "lora_A")}
    assert len(wrapped) > 40
    for layer in wrapped.values():
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        up.data.normal_()
        expected = layer.get_delta_weight("default")
        assert torch.allclose(LowRank(down, up, 6.0).delta(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_row_names_its_forms_and_its_paper(method: str) -> None:
    row = METHODS[method]
    assert set(row.formats) <= set(FORMATS)
    assert row.paper.startswith("https://")


def test_dropout_reaches_peft() -> None:
    config = METHODS["lora"].peft_config
    assert config is not None
    assert config(2, 1.5, ("to_q",), 0.25).to_dict()["lora_dropout"] == 0.25
    assert config(2, 1.5, ("to_q",), 0.0).to_dict()["lora_alpha"] == 1.5


def test_target_sets_grow_and_find_every_module(tiny_base: Base) -> None:
    unet = [len(target_modules(tiny_base, name, "none")) for name in ("attention", "attention+ff", "all")]
    text = [len(target_modules(tiny_base, "none", name)) for name in ("attention", "attention+mlp")]
    assert unet == sorted(unet) and text == sorted(text)
    everything = set(tiny_base.modules())
    assert set(target_modules(tiny_base, "all", "attention+mlp")) == everything
    assert set(UNET_TARGETS) == {"attention", "attention+ff", "all"}
    assert set(TEXT_TARGETS) == {"attention", "attention+mlp"}


def test_the_tests_own_copy_of_weights_sees_a_change(tiny_base: Base) -> None:
    before = weights_of(tiny_base)
    with torch.no_grad():
        tiny_base.unet.conv_in.weight[0, 0, 0, 0] += 1e-7
    assert not torch.equal(weights_of(tiny_base)["unet.conv_in.weight"], before["unet.conv_in.weight"])
